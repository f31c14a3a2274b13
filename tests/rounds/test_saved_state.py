"""A saved state knows what it belongs to, and comes back whole, in whatever order it is loaded."""

import copy
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import grawa
from tests.helpers import INPUTS, STRATEGIES, Data, Fleet, batches, mlp, sgd
from tests.world import on_ranks, outcomes

TIMEOUT = timedelta(seconds=20)
STOP, STEPS = 5, 9
SCHEDULES: dict[str, grawa.Every | grawa.Warmup | grawa.Quadratic] = {
    "every": grawa.Every(3),
    "shared count": grawa.SharedCount(3),
    "warm-up": grawa.Warmup(3, steps=2),
    "quadratic": grawa.Quadratic(2, growth=0.1),
}
ORDERS = {
    "model, Averager, state": ("model", "averager", "state"),
    "Averager, state, model": ("averager", "state", "model"),
    "Averager, model, state": ("averager", "model", "state"),
}

Options = dict[str, Any]


def with_statistics(seed: int) -> Callable[[], nn.Module]:
    """Models that all start from other values."""
    seeds = iter(range(seed, seed + 100))

    def make() -> nn.Module:
        model = nn.Sequential(mlp(seed=next(seeds)), nn.BatchNorm1d(2).double())
        model.register_buffer("scale", torch.tensor(float(next(seeds))))
        return model

    return make


class Job:
    """A training script's models, optimizers and averager."""

    def __init__(self, strategy: grawa.Strategy, hosted: int, seed: int, options: Options) -> None:
        self._strategy, self._options = strategy, options
        self.fleet = Fleet(hosted, with_statistics(seed))

    def construct(self) -> None:
        self.averager = grawa.Averager(
            self.fleet.models, self.fleet.optimizers, self._strategy, timeout=TIMEOUT,
            **self._options,
        )  # fmt: skip

    def train(self, data: Data) -> None:
        self.averager.attach()
        self.go_on(data)

    def go_on(self, data: Data) -> None:
        self.fleet.train(data, self.averager)

    def state(self) -> dict[str, Any]:
        averager = self.averager.state_dict()
        models = [model.state_dict() for model in self.fleet.models]
        optimizers = [optimizer.state_dict() for optimizer in self.fleet.optimizers]
        return copy.deepcopy({"averager": averager, "models": models, "optimizers": optimizers})

    def load(self, state: dict[str, Any], order: Sequence[str]) -> None:
        for what in order:
            if what == "averager":
                self.construct()
            elif what == "state":
                self.averager.load_state_dict(state["averager"])
            else:
                for model, saved in zip(self.fleet.models, state["models"], strict=True):
                    model.load_state_dict(saved)
                for own, saved in zip(self.fleet.optimizers, state["optimizers"], strict=True):
                    own.load_state_dict(saved)

    def everything(self) -> Tensor:
        found = [[*m.parameters(), *m.buffers()] for m in self.fleet.models]
        return torch.cat([x.detach().double().flatten() for own in found for x in own])


def resumed(
    strategy: grawa.Strategy, hosted: int, order: Sequence[str], options: Options
) -> tuple[Tensor, Tensor]:
    """What an undisturbed training ends with, and one that was saved and restored."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    size = dist.get_world_size() if dist.is_initialized() else 1
    data = batches(steps=STEPS, workers=size * hosted)
    own = data.workers(range(rank * hosted, (rank + 1) * hosted))
    whole = Job(strategy, hosted, 50 * rank, options)
    whole.construct()
    whole.train(own.steps(0, STOP))
    state = whole.state()
    whole.go_on(own.steps(STOP, STEPS))
    other = Job(strategy, hosted, 7 + 50 * rank, options)
    other.load(state, order)
    other.train(own.steps(STOP, STEPS))
    return whole.everything(), other.everything()


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("name", STRATEGIES)
def test_hosted_workers_go_on_bit_for_bit_in_any_order(name: str, order: Sequence[str]) -> None:
    whole, other = resumed(STRATEGIES[name], 2, order, {"sync_every": 3})
    assert torch.equal(whole, other)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize(
    "options",
    [
        *({"schedule": schedule} for schedule in SCHEDULES.values()),
        {"sync_every": 4, "fragments": 2, "overlap_steps": 1},
        {"sync_every": 2, "comm_dtype": "int8"},
        {"sync_every": 3, "buffers": "local", "guard": None},
    ],
    ids=str,
)
def test_every_schedule_and_option_goes_on_bit_for_bit(
    options: Options, order: Sequence[str]
) -> None:
    for workers in (1, 2):
        whole, other = resumed(grawa.LGRAWA(), workers, order, options)
        assert torch.equal(whole, other)


def all_between_processes() -> list[str]:
    """Which cases don't go on as if nothing had happened."""
    cases: list[tuple[str, Options]] = [(name, {"sync_every": 3}) for name in STRATEGIES]
    cases += [("lgrawa", {"schedule": SCHEDULES[name]}) for name in ("warm-up", "quadratic")]
    cases += [("lgrawa", {"sync_every": 3, "comm_dtype": "int8", "shared_memory": False})]
    wrong = []
    for name, options in cases:
        for label, order in ORDERS.items():
            whole, other = resumed(STRATEGIES[name], 1, order, options)
            if not torch.equal(whole, other):
                wrong.append(f"{name}, {options}: {label}")
    return wrong


@pytest.mark.world
def test_processes_go_on_bit_for_bit_in_any_order() -> None:
    assert on_ranks(2, all_between_processes) == [[], []]
