"""What is told about a round."""

import json
import re
from dataclasses import replace

import pytest
import torch

import grawa
from tests.helpers import (
    Fleet,
    alone,
    averaged,
    batches,
    poison,
)

DATA = batches(steps=8, workers=3)


def test_a_report_says_what_happened() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(2)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LGRAWA(score=grawa.GradientNorms(decay=0.0)),
        sync_every=2,
        guard=None,
        on_round=[reports.append],
    )
    averager.attach()
    fleet.train(DATA.workers([0, 1]).steps(0, 2), averager)
    norms = torch.stack([
        torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
        for model in fleet.models
    ])
    report = reports[0]
    assert (report.round, report.step, report.left_out) == (1, 2, {})
    assert report.scores is not None
    assert report.weights is not None
    torch.testing.assert_close(report.scores, norms, rtol=1e-14, atol=0.0)
    torch.testing.assert_close(report.weights, (1 / norms) / (1 / norms).sum(dim=0))
    assert report.consensus_distance is None
    assert report.round_seconds >= report.wait_seconds >= 0.0
    assert report.round_seconds >= report.exposed_seconds > 0.0
    assert report.compute_seconds >= 0.0


def test_losses_are_means_over_rounds_that_are_short() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(2)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2, on_round=[reports.append]
    )
    averager.attach()
    for loss in (1.0, 3.0, 10.0, 20.0):
        fleet.backward(DATA.inputs[0, :2], DATA.targets[0, :2])
        averager.record_loss(torch.tensor([loss, loss + 0.25]))
        for optimizer in fleet.optimizers:
            optimizer.step()
    assert [report.losses.tolist() for report in reports] == [[2.0, 2.25], [8.5, 8.75]]


def test_the_consensus_distance_is_the_root_mean_square_distance_to_the_center() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LocalSGD(),
        sync_every=3,
        guard=None,
        measure_distance=True,
        on_round=[reports.append],
    )
    averager.attach()
    fleet.train(DATA.steps(0, 3), averager)
    before = alone(DATA.steps(0, 3))
    expected = (before - before.mean(dim=0)).norm(dim=1).square().mean().sqrt()
    assert reports[0].consensus_distance == pytest.approx(float(expected), rel=1e-12)


def test_a_report_counts_the_bytes_of_its_round() -> None:
    reports: list[grawa.RoundReport] = []
    averaged(grawa.LocalSGD(), batches(6, 4), on_round=[reports.append])
    # Each of 4 workers sends 12 numbers to 3 others, three quarters of its 50 parameters, and
    # three times its quarter of their mean; all in float64.
    expected = 8 * (3 * 12 + 0.75 * 50 + 0.75 * 50)
    assert [report.bytes_sent for report in reports[1:]] == [expected] * 2
    # The first report has the traffic of the start as well.
    assert reports[0].bytes_sent > expected


def test_a_report_is_plain_json() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    )
    averager.attach()
    poison(fleet.models[1])
    fleet.train(DATA.steps(0, 2), averager, tell_loss=False)
    plain = reports[0].as_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["losses"] == [None, None, None]
    assert plain["scores"][1] == [None] * 4
    assert plain["left_out"] == {"1": "parameters are not finite"}
    assert plain["weights"][1] == [0.0] * 4
    assert plain["consensus_distance"] is None
    assert (plain["round"], plain["step"]) == (1, 2)


def test_a_report_and_an_averager_are_one_line_to_read() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    strategy = grawa.MGRAWA(pull=0.3, score=grawa.ProbeLoss(batch=batch, loss=probe))
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, strategy, sync_every=2, on_round=reports.append
    )
    assert repr(averager) == (
        "Averager(MGRAWA(score=ProbeLoss(batch=batch, loss=probe), pull=0.3), "
        "Every(sync_every=2), workers=3, step=0, round=0)"
    )
    averager.attach()
    poison(fleet.models[2])
    fleet.train(DATA.steps(0, 2), averager)
    assert re.fullmatch(
        r"RoundReport\(round 1, step 2, losses [\d.]+ [\d.]+ inf, weights 0\.5 0\.5 0, "
        r"[\d.e-]+ s with [\d.e-]+ s of waiting, without worker 2 \(.* not finite\)\)",
        repr(reports[0]),
    )
    many = replace(reports[0], losses=torch.arange(9.0), weights=None, left_out={})
    assert "losses 0 to 8, " in repr(many)


def batch(index: int) -> torch.Tensor:
    return torch.ones(1)


def probe(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return torch.ones(())
