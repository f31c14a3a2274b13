"""Any torch optimizer as the outer one, and momentum that is restarted."""

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.optim import (
    LBFGS,
    SGD,
    Adafactor,
    Adagrad,
    Adam,
    AdamW,
    Muon,
    NAdam,
    Optimizer,
    SparseAdam,
)

import grawa
from grawa.rounds import fragment
from tests.helpers import Fleet, averaged, batches, everyone, flat_state

WORKERS, TAU = 3, 2
DATA = batches(12, WORKERS)
SYNC_SGD = partial(SGD, lr=0.7, momentum=0.9, nesterov=True)


class OfNumbers(Optimizer):
    """Counts its steps with whole numbers and weighs them with others, as many own ones do."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["step"] = state.get("step", 0) + 1
                state["rate"] = 0.9 * state.get("rate", 1.0)
                assert type(state["step"]) is int and type(state["rate"]) is float
                p.sub_(p.grad, alpha=group["lr"] * state["rate"] / state["step"] ** 0.5)


class OfAll(Optimizer):
    """Counts its steps for all parameters at once."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"k": 0})

    def step(self, closure: Any = None) -> Any:
        self.param_groups[0]["k"] += 1


class OfText(OfAll):
    """Keeps what is no number."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            self.state[p]["phase"] = "warm-up"


class OfWhole(OfAll):
    """Counts its steps in whole tensors."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            self.state[p]["step"] = torch.tensor(1)


class OfLater(OfAll):
    """Keeps more from its second step on."""

    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            self.state[p]["late" if self.state[p] else "first"] = torch.zeros(())


OUTER: dict[str, Callable[..., Optimizer]] = {
    "sgd": SYNC_SGD,
    "adamw": partial(AdamW, lr=0.1, weight_decay=0.1),
    "amsgrad": partial(Adam, lr=0.1, amsgrad=True),
    "nadam": partial(NAdam, lr=0.1),
    "adagrad": partial(Adagrad, lr=0.1, initial_accumulator_value=0.2),
    "adafactor": partial(Adafactor, lr=0.1),
    "of numbers": OfNumbers,
}


def by_torch(
    make: Callable[..., Optimizer], restart_every: int | None = None
) -> tuple[Tensor, Tensor]:
    """DiLoCo with torch's optimizer kept as an object: workers (N, P) and center (P,)."""
    fleet, center = Fleet(WORKERS), Fleet(1).models[0]
    optimizer = make(list(center.parameters()))
    for step, (inputs, targets) in enumerate(zip(DATA.inputs, DATA.targets, strict=True), 1):
        fleet.backward(inputs, targets)
        for own in fleet.optimizers:
            own.step()
        if step % TAU == 0:
            if restart_every and (step // TAU - 1) % restart_every == 0:
                optimizer = make(list(center.parameters()))
            everyones = zip(*(model.parameters() for model in fleet.models), strict=True)
            for c, rows in zip(center.parameters(), everyones, strict=True):
                c.grad = c.detach() - torch.stack([x.detach() for x in rows]).mean(dim=0)
            optimizer.step()
            for model in fleet.models:
                model.load_state_dict(center.state_dict())
    return fleet.parameters(), flat_state(center, dict(center.named_parameters())).detach()


@pytest.mark.parametrize("restart_every", [None, 2])
@pytest.mark.parametrize("name", OUTER)
def test_training_is_that_of_torchs_own_optimizer_on_the_center(
    name: str, restart_every: int | None
) -> None:
    outer = grawa.OuterOptimizer(OUTER[name], restart_every=restart_every)
    found = averaged(grawa.DiLoCo(outer=outer), DATA, sync_every=TAU)
    for own, expected in zip(found, by_torch(OUTER[name], restart_every), strict=True):
        torch.testing.assert_close(own, expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("restart_every", [None, 2])
def test_torchs_sgd_is_outer_nesterov(restart_every: int | None) -> None:
    ours = grawa.OuterNesterov(lr=0.7, momentum=0.9, restart_every=restart_every)
    torchs = grawa.OuterOptimizer(SYNC_SGD, restart_every=restart_every)
    for make in (grawa.DiLoCo, grawa.OuterSteps, partial(grawa.LGRAWA, prox=0.1)):
        one, other = (averaged(make(outer=outer), DATA) for outer in (ours, torchs))
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_momentum_restarted_at_every_round_is_none() -> None:
    # Nesterov's first step with momentum m is 1 + m times as long.
    restarted = grawa.OuterNesterov(lr=0.4, momentum=0.5, restart_every=1)
    plain = grawa.OuterNesterov(lr=0.4 * 1.5, momentum=0.0)
    one, other = (averaged(grawa.DiLoCo(outer=o), DATA) for o in (restarted, plain))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-13)


def test_a_restart_that_never_comes_changes_no_bit() -> None:
    late = grawa.DiLoCo(outer=grawa.OuterNesterov(restart_every=100))
    for a, b in zip(averaged(late, DATA), averaged(grawa.DiLoCo(), DATA), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("options", [{}, {"overlap_steps": 1}, {"fragments": 2}], ids=str)
@pytest.mark.parametrize("name", ["adamw", "adafactor", "of numbers"])
def test_the_state_may_be_on_the_cpu_between_rounds(name: str, options: dict[str, Any]) -> None:
    def trained(center: Literal["cpu"] | None) -> tuple[Tensor, Tensor]:
        fleet = Fleet(WORKERS)
        with patch.object(fragment, "is_elsewhere", lambda device: True):
            averager = grawa.Averager(
                fleet.models, fleet.optimizers, grawa.DiLoCo(outer=OUTER[name]), sync_every=TAU,
                center=center, **options,
            )  # fmt: skip
        with averager:
            fleet.train(DATA, averager)
        return fleet.parameters(), flat_state(fleet.models[0], averager.consensus())

    for here, there in zip(trained(None), trained("cpu"), strict=True):
        assert torch.equal(here, there)


def test_fragments_with_other_state_each_can_be_pulled_between_rounds() -> None:
    strategy = grawa.LGRAWA(outer=OUTER["adafactor"], prox=0.1)
    fleet = Fleet(WORKERS)
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=4, fragments=4)
    before = fleet.parameters()
    with averager:
        fleet.train(DATA, averager)
    assert bool(fleet.parameters().isfinite().all())
    assert not torch.equal(before, fleet.parameters())


def test_steps_that_16_bits_do_not_resolve_are_not_lost() -> None:
    strategy, ulp = grawa.DiLoCo(outer=partial(SGD, lr=0.1)), torch.finfo(torch.bfloat16).eps
    params = {"x": torch.ones(2, 5, dtype=torch.bfloat16)}
    state, comm = strategy.init(params), everyone(2)
    for number in range(20):
        params["x"] += ulp
        strategy.sync(params, None, state, comm, number)
    torch.testing.assert_close(state["exact"]["x"], torch.full((5,), 1.0 + 2 * ulp))


def test_state_is_there_from_the_start_and_is_the_optimizers() -> None:
    state = grawa.DiLoCo(outer=partial(AdamW, lr=0.1)).init({
        "x": torch.ones(2, 5),
        "y": torch.ones(2, 3, 4, dtype=torch.bfloat16),
    })
    entries = {"center", "mean", "exact", "outer.step", "outer.exp_avg", "outer.exp_avg_sq"}
    assert state.keys() == entries
    assert {key: leaf.shape for key, leaf in state["outer.exp_avg"].items()} == {
        "x": (5,), "y": (3, 4)
    }  # fmt: skip
    assert {leaf.dtype for leaf in state["outer.exp_avg"].values()} == {torch.float32}
    assert [leaf.dim() for leaf in state["outer.step"].values()] == [0, 0]


def test_it_is_a_value_that_can_be_compared_printed_and_sent() -> None:
    one = grawa.DiLoCo(outer=partial(AdamW, lr=0.1, weight_decay=0.0))
    same = grawa.DiLoCo(outer=partial(partial(AdamW, weight_decay=0.0, lr=9.0), lr=0.1))
    assert one == same == pickle.loads(pickle.dumps(one))
    assert one != grawa.DiLoCo(outer=partial(AdamW, lr=0.2, weight_decay=0.0))
    assert "AdamW" in repr(one) and "('lr', 0.1)" in repr(one)
    assert grawa.DiLoCo(outer=AdamW).outer == grawa.OuterOptimizer(AdamW)


def test_another_one_is_told_when_a_state_is_loaded() -> None:
    def made(outer: Callable[..., Optimizer]) -> grawa.Averager:
        fleet = Fleet(WORKERS)
        return grawa.Averager(fleet.models, fleet.optimizers, grawa.DiLoCo(outer=outer))

    saved = made(partial(AdamW, lr=0.1)).state_dict()
    made(partial(AdamW, lr=0.1)).load_state_dict(saved)
    with pytest.raises(grawa.UserError, match=r"other settings.*outer.options.*0\.1.*0\.2"):
        made(partial(AdamW, lr=0.2)).load_state_dict(saved)
    with pytest.raises(grawa.UserError, match=r"another Averager .*outer.make: AdamW saved, SGD"):
        made(SGD).load_state_dict(saved)


@pytest.mark.parametrize(
    ("outer", "message"),
    [
        (LBFGS, r"LBFGS can't be the outer optimizer: its step\(\) without a closure fails"),
        (SparseAdam, "SparseAdam can't be the outer optimizer"),
        (partial(AdamW, rl=0.1), "AdamW can't be the outer optimizer: .*rl"),  # type: ignore[call-arg]
        (partial(AdamW, lr=-1.0), "AdamW can't be the outer optimizer: Invalid learning rate"),
        (OfAll, "keeps a state that belongs to no parameter"),
        (OfText, "keeps 'phase' as str, which is neither"),
        (OfWhole, r"keeps 'step' as torch\.int64, which is neither"),
        (lambda params: None, "can't be the outer optimizer: .*must make an optimizer"),
        (0.7, "outer must be"),
    ],
    ids=[
        "closure",
        "sparse",
        "option",
        "value",
        "of all",
        "of text",
        "of whole",
        "none",
        "a number",
    ],
)
def test_what_can_not_be_an_outer_optimizer_is_refused_at_once(outer: Any, message: str) -> None:
    with pytest.raises(grawa.UserError, match=message):
        grawa.DiLoCo(outer=outer)


def test_an_optimizer_that_does_not_fit_the_model_is_refused() -> None:
    fleet = Fleet(2)
    with pytest.raises(grawa.UserError, match=r"Muon can't be the outer optimizer: .*2D"):
        grawa.Averager(fleet.models, fleet.optimizers, grawa.DiLoCo(outer=Muon))


def test_an_optimizer_that_keeps_more_later_is_refused_then() -> None:
    strategy, params = grawa.DiLoCo(outer=OfLater), {"x": torch.ones(2, 3)}
    state = strategy.init(params)
    strategy.sync(params, None, state, everyone(2), 0)
    with pytest.raises(grawa.UserError, match="keeps 'late' from a later step on only"):
        strategy.sync(params, None, state, everyone(2), 1)


def test_what_a_worker_that_joins_is_given_is_the_state_to_the_bit() -> None:
    fleet, strategy = Fleet(1), grawa.OuterSteps(outer=partial(NAdam, lr=0.1))
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=2)
    with averager:
        fleet.train(DATA.workers([0]), averager)
    (part,) = averager._engine._runner.fragments
    given = part.state_of(0)
    for key, leaves in part._state.items():
        for name, leaf in leaves.items():
            assert torch.equal(given[key][name], leaf)
    assert {int(steps) for steps in given["outer.step"].values()} == {averager.round}


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_restarts_need_a_whole_number(every: Any) -> None:
    for make in (grawa.OuterNesterov, partial(grawa.OuterOptimizer, AdamW)):
        with pytest.raises(grawa.UserError, match="restart_every must be a whole number"):
            make(restart_every=every)
