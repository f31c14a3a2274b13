"""Every combination of what can be chosen either works, or is refused when it is put together."""

import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import grawa
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.simulate.network import Link
from tests.helpers import STRATEGIES, Fleet, Simulated, batches, with_batchnorm
from tests.world import on_ranks

STEPS = 13
DATA = batches(STEPS * 4, 4)
"""Enough for one worker to make the steps of all, where steps are counted together."""

schedules = st.one_of(
    st.integers(1, 6).map(grawa.Every),
    st.integers(1, 6).map(grawa.SharedCount),
    st.tuples(st.integers(1, 6), st.integers(0, 4)).map(lambda t: grawa.Warmup(t[0], steps=t[1])),
    st.integers(1, 6).map(lambda tau: grawa.Quadratic(tau, growth=0.1)),
)

combinations = st.fixed_dictionaries({
    "strategy": st.sampled_from(list(STRATEGIES.values())),
    "schedule": schedules,
    "overlap_steps": st.integers(0, 3),
    "alpha": st.sampled_from([None, None, 0.5]),
    "fragments": st.integers(1, 4),
    "comm_dtype": st.sampled_from([None, "bf16", "int8", grawa.TopK(fraction=0.2)]),
    "optimizer_state": st.sampled_from(["local", "average", "reset"]),
    "optimizer_state_every": st.integers(1, 2),
    "buffers": st.sampled_from(["average", "local"]),
    "guard": st.sampled_from([None, grawa.Guard()]),
})


def run(hosted: int, **options: Any) -> tuple[str, Any]:
    """Trains; how it went, and what all processes must agree on."""
    first = dist.get_rank() * hosted if dist.is_initialized() else 0
    data = DATA.workers(range(first, first + hosted))
    fleet = Fleet(hosted, with_batchnorm)
    try:
        averager = grawa.Averager(fleet.models, fleet.optimizers, **options)
    except grawa.UserError as error:
        return "refused", str(error)
    with averager:
        while averager.total_steps < STEPS * 4:
            fleet.train(data.steps(averager.step, averager.step + 1), averager)
    return "trained", (averager.round, sound(fleet, averager.consensus()))


def run_modelled(**options: Any) -> tuple[str, Any]:
    """The same on a virtual clock."""
    fleet = Fleet(4, with_batchnorm)
    clock = VirtualClock(0.1, speeds=[1.0, 0.7, 1.0, 0.5], jitter=0.1, link=Link(1e5, 0.01))
    strategy = options.pop("strategy")
    try:
        simulated = Simulated(fleet, strategy, clock, **options)
    except grawa.UserError as error:
        return "refused", str(error)
    if simulated.engine.plan.individually:
        simulated.train_one_by_one(DATA, STEPS * 4)
    else:
        simulated.train(DATA.steps(0, STEPS))
    simulated.engine.leave()
    return "trained", (simulated.engine.round, sound(fleet, simulated.engine.consensus()))


def sound(fleet: Fleet, consensus: dict[str, Tensor]) -> Tensor:
    """The consensus's parameters, where all is finite."""
    values = [v for v in consensus.values() if v.is_floating_point()]
    assert all(bool(torch.isfinite(value).all()) for value in values)
    assert bool(torch.isfinite(fleet.parameters()).all())
    names = [name for name, _ in fleet.models[0].named_parameters()]
    return torch.cat([consensus[name].flatten() for name in names])


def check(outcome: tuple[str, Any]) -> None:
    kind, found = outcome
    if kind == "refused":
        assert len(found) > 20
        assert "\n" not in found
    else:
        rounds, consensus = found
        assert rounds >= 1
        assert math.isfinite(float(consensus.sum()))


@given(combinations, st.booleans())
@settings(max_examples=150, deadline=None)
def test_in_one_process(options: dict[str, Any], modelled: bool) -> None:
    check(run_modelled(**options) if modelled else run(4, **options))


ARRANGEMENTS: list[tuple[int, list[list[int]] | None]] = [
    (2, None),
    (4, None),
    (4, [[0, 1], [2, 3]]),
    (4, [[0, 1, 2], [3]]),
]
"""Numbers of processes, and the hosts that they are on."""


@pytest.mark.world
@given(combinations, st.sampled_from(ARRANGEMENTS))
@settings(max_examples=48, deadline=None)
def test_in_several_processes(
    options: dict[str, Any], arrangement: tuple[int, list[list[int]] | None]
) -> None:
    processes, hosts = arrangement
    found = on_ranks(processes, run, 4 // processes, hosts=hosts, **options)
    for outcome in found:
        check(outcome)
        assert outcome[0] == found[0][0]
        if outcome[0] == "trained":
            assert outcome[1][0] == found[0][1][0]
            assert torch.equal(outcome[1][1], found[0][1][1])
