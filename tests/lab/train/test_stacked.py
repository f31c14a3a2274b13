"""Workers that step together come to what they come to one after another."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import grawa
from grawa.errors import UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits, Logistic, Quadratic, Task
from grawa.lab.train.events import Event
from grawa.lab.train.faults import Fault
from grawa.lab.train.stackable import trained_names
from grawa.lab.train.stacked_optimizer import StackedOptimizer
from grawa.seeding import seeded
from tests.lab.train.runs import (
    StrategyFor,
    always,
    end,
    events,
    probing,
    rounds_saved,
    same_model,
    settings,
)
from tests.world import on_ranks


@dataclass(frozen=True, kw_only=True)
class Other(Digits):
    """Digits with another model."""

    train_size: int = 200

    def model(self, seed: int) -> nn.Module:
        with seeded(seed, "model"):
            return nn.Sequential(*self._build())

    def _build(self) -> list[nn.Module]:
        return [nn.Linear(64, 10)]


class Normed(Other):
    """With BatchNorm; a bias before it would have no gradient but rounding."""

    def _build(self) -> list[nn.Module]:
        return [nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 10)]


class Convolved(Other):
    """With convolutions."""

    def _build(self) -> list[nn.Module]:
        return [
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Tanh(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 10),
        ]


class PartlyFrozen(Other):
    """Of whose parameters some are not trained, and one is not used."""

    def _build(self) -> list[nn.Module]:
        frozen = nn.Linear(64, 16).requires_grad_(False)
        return [frozen, Unused(), nn.Tanh(), nn.Linear(16, 10)]


class Unused(nn.Module):
    """A parameter that has no part in the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x


class Dropped(Other):
    """With random numbers."""

    def _build(self) -> list[nn.Module]:
        return [nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10)]


class Choosing(nn.Module):
    """Goes one way or the other, as the data are."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0.0 else -x


class Branched(Other):
    """With control flow that depends on the data."""

    def _build(self) -> list[nn.Module]:
        return [nn.Linear(64, 10), Choosing()]


class Remembering(nn.Module):
    """Puts a new buffer in the old one's place."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = x.detach().mean()
        return x


class Replaced(Other):
    """With a buffer that is replaced, not changed."""

    def _build(self) -> list[nn.Module]:
        return [nn.Linear(64, 10), Remembering()]


TASKS: dict[str, Task] = {
    "mlp": Digits(train_size=200),
    "batchnorm": Normed(),
    "cnn": Convolved(),
    "partly frozen": PartlyFrozen(),
    "logistic": Logistic(),
    "quadratic": Quadratic(),
}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
every_optimizer = pytest.mark.parametrize("optimizer", ["sgd", "adamw"])

STRATEGIES: dict[str, StrategyFor] = {
    "lgrawa": always(grawa.LGRAWA()),
    "lgrawa by probe": probing(),
    "lsgd": always(grawa.LSGD()),
    "data parallel": always(grawa.DataParallel()),
}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)

FAULTS = ("wrong-labels:2", "wrong-labels:3", "lr-x3:1", "dead:0@3", "scale-x30:2@9", "nan:1@6")


def agree(stacked: list[Event], looped: list[Event]) -> None:
    """Losses and consensus are the same but for rounding, and so is who was left out."""
    rounds = [
        [event for event in found if isinstance(event, grawa.RoundReport)]
        for found in (stacked, looped)
    ]
    assert len(rounds[0]) == len(rounds[1]) > 0
    for one, other in zip(*rounds, strict=True):
        assert one.left_out.keys() == other.left_out.keys()
        torch.testing.assert_close(one.losses, other.losses, atol=1e-5, rtol=1e-5, equal_nan=True)
    consensus = end(stacked).consensus
    for name, value in end(looped).consensus.items():
        torch.testing.assert_close(consensus[name], value, atol=1e-5, rtol=1e-5)


def both(strategy: StrategyFor, task: Task | None = None, **changes: Any) -> None:
    agree(
        events(strategy, settings(**changes, stack_workers="on"), task=task),
        events(strategy, settings(**changes), task=task),
    )


@every_task
@every_optimizer
def test_stacked_workers_come_to_the_same(task: Task, optimizer: str) -> None:
    lr = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    both(STRATEGIES["lgrawa"], task, optimizer=optimizer, lr=lr)


@every_strategy
@every_optimizer
def test_it_does_not_matter_how_they_are_averaged(strategy: StrategyFor, optimizer: str) -> None:
    lr = {"sgd": 0.1, "adamw": 0.01}[optimizer]
    both(strategy, Normed(), optimizer=optimizer, lr=lr)


@every_optimizer
def test_faults_do_what_they_do(optimizer: str) -> None:
    """Among them workers that start again, with an optimizer that has forgotten all."""
    lr = {"sgd": 0.05, "adamw": 0.01}[optimizer]
    faults = tuple(Fault.parse(text) for text in FAULTS)
    both(STRATEGIES["lgrawa"], faults=faults, optimizer=optimizer, lr=lr, workers=5)


def test_rounds_in_the_background_and_modelled_time_go_together_with_it() -> None:
    both(
        STRATEGIES["lgrawa"],
        overlap_steps=1,
        fragments=2,
        modelled=lambda: VirtualClock(0.1, speeds=[1.0, 1.0, 0.5, 1.0]),
    )


@every_optimizer
@pytest.mark.parametrize("state", ["average", "reset"])
def test_rounds_change_the_state_of_the_optimizers(optimizer: str, state: str) -> None:
    """Of one of two fragments at a time."""
    options: dict[str, Any] = {"optimizer_state": state, "optimizer_state_every": 2, "fragments": 2}
    both(STRATEGIES["lgrawa"], optimizer=optimizer, lr=0.01, **options)


def test_one_worker_may_be_stacked() -> None:
    both(STRATEGIES["lgrawa"], workers=1)


@every_strategy
@every_optimizer
def test_a_resumed_run_ends_with_the_same_bits(
    strategy: StrategyFor, optimizer: str, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"optimizer": optimizer, "lr": 0.01, "stack_workers": "on"}
    usual["faults"] = (Fault.parse("nan:1@6"),)
    whole = end(events(strategy, settings(**usual)))
    chosen = settings(**usual)
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    assert rounds_saved(tmp_path) == [2]
    assert same_model(end(events(strategy, chosen, checkpoints=tmp_path)), whole)


def test_a_run_can_go_on_stacked_that_was_not(tmp_path: Path) -> None:
    strategy = STRATEGIES["lgrawa"]
    looped = events(strategy, settings(optimizer="adamw", lr=0.01))
    chosen = settings(optimizer="adamw", lr=0.01)
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    stacked = settings(optimizer="adamw", lr=0.01, stack_workers="on")
    resumed = end(events(strategy, stacked, checkpoints=tmp_path))
    for name, value in end(looped).consensus.items():
        torch.testing.assert_close(resumed.consensus[name], value, atol=1e-5, rtol=1e-5)


def train_here(stack_workers: str) -> dict[str, Tensor]:
    found = events(
        STRATEGIES["lgrawa"], settings(stack_workers=stack_workers), task=Digits(train_size=200)
    )
    return end(found).consensus


@pytest.mark.world
def test_the_workers_of_several_processes_may_be_stacked() -> None:
    alone = train_here(stack_workers="off")
    for found in on_ranks(2, train_here, stack_workers="on"):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_one_pass_moves_as_many_optimizers_would(kind: type[Optimizer]) -> None:
    """With learning rates of their own, and one that has forgotten its past."""
    random = torch.Generator().manual_seed(0)
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": True} if kind is SGD else {}
    stack = [torch.randn(3, 4, 2, generator=random), torch.randn(3, 5, generator=random)]
    alone = [[nn.Parameter(rows[k].clone()) for rows in stack] for k in range(3)]
    views = [[nn.Parameter(rows[k]) for rows in stack] for k in range(3)]
    rates = [0.1, 0.1, 0.02]
    many, joined = (
        [kind(params, lr=lr, **options) for params, lr in zip(table, rates, strict=True)]  # type: ignore[call-arg]
        for table in (alone, views)
    )
    together = StackedOptimizer(stack, views, joined)
    for step in range(6):
        gradients = [torch.randn(rows.shape, generator=random) for rows in stack]
        for k, optimizer in enumerate(many):
            for parameter, gradient in zip(alone[k], gradients, strict=True):
                parameter.grad = gradient[k]
            if (step, k) == (3, 1):
                optimizer.state.clear()
                joined[k].state.clear()
            optimizer.step()
        together.step(gradients)
    for k in range(3):
        for parameter, view in zip(alone[k], views[k], strict=True):
            torch.testing.assert_close(view, parameter, atol=1e-6, rtol=1e-6)
    for one, other in zip(many, joined, strict=True):
        torch.testing.assert_close(other.state_dict()["state"], one.state_dict()["state"])


REFUSED: dict[str, tuple[Task, str]] = {
    "random numbers": (
        Dropped(),
        "fails for several models at once: vmap: called random operation",
    ),
    "control flow": (Branched(), "fails for several models at once: vmap: It looks like"),
    "another buffer": (Replaced(), "its buffers would differ"),
}


@pytest.mark.parametrize(("task", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_can_not_be_stacked_is_refused(task: Task, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        events(STRATEGIES["lgrawa"], settings(stack_workers="on"), task=task)
    assert "--stack-workers, so leave that out" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_trying_out_leaves_no_trace() -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    task = Digits(train_size=200)
    assert trained_names(task, task.data(0), settings()) == [
        name for name, _ in task.model(0).named_parameters()
    ]
    assert torch.equal(torch.rand(1), expected)


def test_batches_of_different_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="the same batch size for all workers, but the faults"):
        settings(stack_workers="on", faults=(Fault.parse("batch-of-one:2"),))


@pytest.mark.parametrize("fault", ["input-noise=0.5:1", "gradient-noise=0.5:1"])
def test_noise_of_a_workers_own_is_refused(fault: str) -> None:
    with pytest.raises(UserError, match=f"fault {fault} can't be stacked: leave out"):
        settings(stack_workers="on", faults=(Fault.parse(fault),))


def test_two_passes_of_sam_are_refused() -> None:
    with pytest.raises(UserError, match="SAM's two passes can't be stacked: leave out"):
        settings(stack_workers="on", optimizer="sam")


def test_workers_that_step_in_turns_are_refused() -> None:
    with pytest.raises(UserError, match="so their steps can't be stacked: leave out"):
        settings(
            stack_workers="on", schedule=grawa.SharedCount(4), modelled=lambda: VirtualClock(0.1)
        )
