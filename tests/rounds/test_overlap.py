"""Rounds in the background: what is added later is what the round would have moved."""

import threading
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import grawa
from grawa.strategies.protocol import State
from tests.helpers import Fleet, batches, mlp, plain_sgd, poison, sgd
from tests.world import on_ranks, outcomes

WORKERS, STEPS, TAU, DELAY = 3, 11, 4, 2
DATA = batches(STEPS, WORKERS)


def trained(strategy: grawa.Strategy, data: Any = DATA, **options: Any) -> Fleet:
    fleet = Fleet(data.inputs.shape[1])
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, strategy, sync_every=TAU, guard=None, **options
    )
    averager.attach()
    fleet.train(data, averager)
    return fleet


def put(fleet: Fleet, rows: Tensor) -> None:
    for model, row in zip(fleet.models, rows, strict=True):
        torch.nn.utils.vector_to_parameters(row, model.parameters())


def transcribed(pull: float, prox: float, alpha: float | None = None) -> Tensor:
    """A soft pull to the mean by the formulas: the displacement of step s is added at s + 2.

    With `alpha` workers are mixed with where the pull has put them.
    """
    fleet = Fleet(WORKERS)
    center, before, moved = fleet.parameters().mean(dim=0), torch.zeros(0), torch.zeros(0)
    for step in range(1, STEPS + 1):
        fleet.train(DATA.steps(step - 1, step))
        rows = fleet.parameters()
        rows = rows + prox / TAU * (center - rows)
        if step % TAU == 0:
            before, found = rows.clone(), rows.mean(dim=0)
            moved = pull * (found - rows)
        if step % TAU == DELAY and step > TAU:
            mixed = None if alpha is None else alpha * rows + (1 - alpha) * (before + moved)
            rows, center = rows + moved if mixed is None else mixed, found
        put(fleet, rows)
    return fleet.parameters()


@pytest.mark.parametrize(("pull", "prox"), [(1.0, 0.0), (0.5, 0.0), (0.5, 0.2)])
def test_the_displacement_of_the_snapshot_is_added_later(pull: float, prox: float) -> None:
    found = trained(grawa.LocalSGD(pull=pull, prox=prox), overlap_steps=DELAY).parameters()
    torch.testing.assert_close(found, transcribed(pull, prox), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("pull", "prox"), [(1.0, 0.0), (0.5, 0.2)])
def test_workers_are_mixed_with_a_late_round(alpha: float, pull: float, prox: float) -> None:
    strategy = grawa.LocalSGD(pull=pull, prox=prox)
    found = trained(strategy, overlap_steps=DELAY, alpha=alpha).parameters()
    torch.testing.assert_close(found, transcribed(pull, prox, alpha), rtol=0.0, atol=1e-12)


def test_no_overlap_is_the_blocking_round_bit_for_bit() -> None:
    blocking = trained(grawa.LGRAWA()).parameters()
    assert torch.equal(trained(grawa.LGRAWA(), overlap_steps=0).parameters(), blocking)
    assert not torch.equal(trained(grawa.LGRAWA(), overlap_steps=1).parameters(), blocking)


def test_the_round_that_is_under_way_is_finished_at_the_end() -> None:
    fleet = Fleet(WORKERS)
    reports: list[grawa.RoundReport] = []
    data = DATA.steps(0, TAU)
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LocalSGD(),
        sync_every=TAU,
        overlap_steps=DELAY,
        on_round=[reports.append],
    ) as averager:
        fleet.train(data, averager)
        assert averager.round == 0
    assert averager.round == 1
    rows = fleet.parameters()
    torch.testing.assert_close(rows, rows.mean(dim=0).expand_as(rows), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(("fragments", "alpha"), [(1, None), (2, None), (1, 0.5)])
def test_a_broken_worker_is_whole_again_when_the_round_arrives(
    fragments: int, alpha: float | None
) -> None:
    fleet = Fleet(WORKERS)
    reports: list[grawa.RoundReport] = []
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LGRAWA(),
        sync_every=TAU,
        overlap_steps=1,
        fragments=fragments,
        alpha=alpha,
        on_round=[reports.append],
    )
    averager.attach()
    fleet.train(DATA.steps(0, 1), averager)
    poison(fleet.models[1])
    fleet.train(DATA.steps(1, TAU + 1), averager)
    assert list(reports[0].left_out) == [1]
    assert bool(torch.isfinite(fleet.parameters()).all())
    fleet.train(DATA.steps(TAU + 1, STEPS), averager)
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert len(reports) > 1
    assert all("on probation" in report.left_out[1] for report in reports[1:])


@dataclass(frozen=True, kw_only=True)
class Patient(grawa.LocalSGD):
    """Its round is not over before a local step has been made."""

    stepped: ClassVar[threading.Event] = threading.Event()

    def sync(self, params: Any, scores: Any, state: State, comm: Any, round: int) -> Any:
        if not self.stepped.wait(timeout=20.0):
            raise RuntimeError("the round held local steps up")
        return super().sync(params, scores, state, comm, round)


def train_patiently() -> int:
    """Rounds that were made; the first can't end while it holds local steps up."""
    Patient.stepped.clear()
    model = mlp()
    optimizer = sgd(model)
    with grawa.Averager(model, optimizer, Patient(), sync_every=2, overlap_steps=1) as averager:
        data = batches(3, 2).workers([dist.get_rank()])
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            if averager.step == 2:
                Patient.stepped.set()
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(inputs[0]), targets[0]).backward()
            optimizer.step()
    return averager.round


@pytest.mark.world
def test_local_steps_go_on_while_the_round_runs() -> None:
    assert on_ranks(2, train_patiently) == [2, 2]


@dataclass(frozen=True, kw_only=True)
class Failing(grawa.LocalSGD):
    """Fails in the first round."""

    why: str = field(default="the round went wrong")

    def sync(self, params: Any, scores: Any, state: State, comm: Any, round: int) -> Any:
        raise grawa.DivergedError(self.why)


def train_and_fail() -> None:
    model = mlp()
    optimizer = plain_sgd(model)
    averager = grawa.Averager(model, optimizer, Failing(), sync_every=3, overlap_steps=2)
    averager.attach()
    for step in range(1, 6):
        try:
            optimizer.step()
        except grawa.DivergedError:
            raise grawa.UserError(f"failed in step {step}") from None


@pytest.mark.world
def test_errors_in_the_background_surface_in_the_foreground() -> None:
    for outcome in outcomes(2, train_and_fail):
        assert str(outcome) == "failed in step 5"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap_steps": 4}, "below the 4 local steps between"),
        ({"overlap_steps": 2, "fragments": 2}, "below the 2 local steps between"),
        ({"overlap_steps": -1}, "at least 0"),
        ({"overlap_steps": 1.5}, "whole number"),
        ({"alpha": 0.5}, "needs overlap_steps"),
        ({"alpha": 1.0, "overlap_steps": 1}, r"alpha must lie in \[0, 1\), got 1.0"),
        ({"fragments": 0}, "at least 1"),
        ({"fragments": 5}, r"at most sync_every \(4\), since each needs"),
        ({"comm_dtype": "int4"}, "comm_dtype must be None or one of 'bf16'"),
        ({"comm_dtype": grawa.TopK}, r"one of 'bf16', 'int8' and grawa.TopK\(\), got <class"),
        ({"schedule": 3}, r"such as grawa\.SharedCount\(32\), got 3"),
        ({"schedule": grawa.SharedCount}, "must be an instance"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(grawa.UserError, match=message):
        trained(grawa.LocalSGD(), **options)
