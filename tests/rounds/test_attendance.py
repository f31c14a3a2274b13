"""Who is left out for how long, when it is reported, and what a dropped worker still does."""

import warnings
from typing import Any

import pytest
import torch

import grawa
from grawa.rounds.guard import Guard
from tests.helpers import Fleet, batches

DATA = batches(24, 3)


def told(
    guard: Guard,
    losses: list[float],
    steps: int,
    *,
    state: dict[str, Any] | None = None,
    **how: Any,
) -> tuple[list[grawa.RoundReport], list[str], dict[str, Any]]:
    """Trains three workers with these losses; the reports, the warnings and the end's state."""
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        averager = grawa.Averager(
            fleet.models,
            fleet.optimizers,
            grawa.LocalSGD(),
            guard=guard,
            on_round=[reports.append],
            **{"sync_every": 2, **how},
        )
        averager.attach()
        if state is not None:
            averager.load_state_dict(state)
        for inputs, targets in zip(DATA.inputs[:steps], DATA.targets[:steps], strict=True):
            fleet.backward(inputs, targets)
            averager.record_loss(torch.tensor(losses))
            for optimizer in fleet.optimizers:
                optimizer.step()
        state = averager.state_dict()
    return reports, [str(warning.message) for warning in caught], state


BAD = [1.0, 1.0, 9.0]


def test_a_worker_that_is_out_for_long_is_reported_once_with_the_reason_and_since_when() -> None:
    reports, said, _ = told(Guard(report_after=3), BAD, 12)
    (message,) = said
    assert message.startswith("worker 2 has been left out of 3 rounds in a row, since round 1")
    assert "loss 9 is above 2.3" in message
    last = reports[-1].absences[2]
    assert (last.state, last.since, last.in_a_row, last.in_total) == ("left out", 1, 6, 6)
    assert [report.absences[2].is_due for report in reports] == [i == 2 for i in range(6)]
    assert reports[-1].as_json()["absences"]["2"]["since"] == 1


def test_rounds_of_fragments_count_as_one_round_of_the_model() -> None:
    reports, said, _ = told(Guard(report_after=3), BAD, 12, sync_every=4, fragments=2)
    assert [report.round for report in reports if report.absences[2].is_due] == [6]
    assert len(said) == 1


def test_a_worker_on_probation_is_told_apart_from_one_with_a_large_loss() -> None:
    _, _, state = told(Guard(probation=8), BAD, 2)
    reports, said, _ = told(Guard(probation=8), [1.0, 1.0, 1.0], 20, state=state)
    states = [report.absences[2].state if report.absences else "in" for report in reports]
    # The mean of losses falls below 2.3 at step 14; then it needs 8 steps since step 12.
    assert states == ["left out"] * 5 + ["on probation"] * 3 + ["in"] * 2
    assert said == []


def test_a_dropped_worker_stays_out_whatever_its_loss_and_after_a_resume() -> None:
    guard = Guard(report_after=2, drop=True, probation=0)
    reports, said, state = told(guard, BAD, 8)
    assert [report.absences[2].state for report in reports] == ["left out"] + ["dropped"] * 3
    assert "since round 1, and is dropped for good" in said[0]
    again, said, _ = told(guard, [1.0, 1.0, 0.5], 24, state=state)
    assert all(report.absences[2].state == "dropped" for report in again)
    assert again[0].absences[2].in_total == 5
    assert said == []


@pytest.mark.parametrize("overlap", [0, 1])
def test_steps_that_a_worker_makes_before_it_is_reset_do_not_count_as_fit(overlap: int) -> None:
    _, _, state = told(Guard(), BAD, 3, sync_every=2, overlap_steps=overlap)
    assert state["runner"]["attendance"]["unfit_until"][2:] == [2.0 + overlap]


def test_a_worker_that_is_reset_again_and_again_never_reaches_the_center() -> None:
    reports: list[grawa.RoundReport] = []
    fleet, clean = Fleet(3), Fleet(2)
    averager, pair = (
        grawa.Averager(
            those.models,
            those.optimizers,
            grawa.LocalSGD(),
            sync_every=1,
            guard=Guard(report_after=99),
            on_round=[reports.append],
        )
        for those in (fleet, clean)
    )
    averager.attach()
    pair.attach()
    for step in range(12):
        # In two rounds of three it is only somewhat too large, which the guard can't see.
        with torch.no_grad():
            fleet.models[2].get_parameter("0.weight").mul_(1e4 if step % 3 == 0 else 1.5)
        fleet.train(DATA.steps(step, step + 1), averager, tell_loss=False)
        clean.train(DATA.workers([0, 1]).steps(step, step + 1), pair, tell_loss=False)
    assert [list(report.left_out) for report in reports[::2]] == [[2]] * 12
    torch.testing.assert_close(fleet.parameters()[:2], clean.parameters(), rtol=0.0, atol=1e-12)
