"""What TensorBoard shows of a training."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import grawa
from grawa.integrations.tensorboard import TensorBoardRounds
from tests.helpers import Fleet, batches

event_accumulator: Any = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator"
)


MEASURED = {"consensus_distance", "center_cosine", "displacement_spread"}


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every curve in a folder: its points, step and value."""
    read = event_accumulator.EventAccumulator(str(folder))
    read.Reload()
    return {
        name: [(point.step, point.value) for point in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def trained(strategy: grawa.Strategy, folder: Path) -> list[grawa.RoundReport]:
    """Three rounds of two workers with TensorBoard; their reports."""
    reports: list[grawa.RoundReport] = []
    board = TensorBoardRounds(folder)
    fleet = Fleet(2)
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        strategy,
        sync_every=4,
        measure_distance=True,
        on_round=[reports.append, board],
    ) as averager:
        fleet.train(batches(12, 2), averager)
    board.close()
    return reports


def test_every_round_is_a_point_of_every_curve(tmp_path: Path) -> None:
    reports = trained(grawa.LGRAWA(), tmp_path)
    curves = scalars(tmp_path)
    assert set(curves) == {
        *(f"{what}/worker{i}" for what in ("weights", "scores", "losses") for i in range(2)),
        *(f"cost/{what}_seconds" for what in ("compute", "wait", "round", "exposed")),
        "cost/bytes_sent",
        "round",
        *MEASURED,
        "left_out",
    }
    assert [step for step, _ in curves.pop("center_cosine")] == [8, 12]  # from the second move on
    for points in curves.values():
        assert [step for step, _ in points] == [4, 8, 12]
    for index, report in enumerate(reports):
        assert report.weights is not None
        assert report.scores is not None
        for i in range(2):
            expected = {
                "weights": float(report.weights[i].mean()),
                "scores": float(report.scores[i].mean()),
                "losses": float(report.losses[i]),
            }
            for name, value in expected.items():
                assert math.isclose(curves[f"{name}/worker{i}"][index][1], value, rel_tol=1e-6)
        for name in ("consensus_distance", "displacement_spread"):
            assert math.isclose(curves[name][index][1], getattr(report, name), rel_tol=1e-6)
        assert curves["cost/bytes_sent"][index][1] == report.bytes_sent
        assert curves["left_out"][index][1] == len(report.left_out)


def test_a_strategy_without_weights_has_no_weight_curves(tmp_path: Path) -> None:
    trained(grawa.LocalSGD(), tmp_path)
    assert not [name for name in scalars(tmp_path) if name.startswith(("weights", "scores"))]


def test_a_worker_that_is_left_out_is_counted(tmp_path: Path) -> None:
    board = TensorBoardRounds(tmp_path)
    board(
        grawa.RoundReport(
            round=1,
            fragment=0,
            step=8,
            weights=torch.tensor([[1.0], [0.0]]),
            scores=torch.tensor([[2.0], [math.nan]]),
            losses=torch.tensor([0.5, math.nan]),
            steps_made=torch.tensor([8.0, 8.0]),
            consensus_distance=None,
            left_out={1: "parameters are not finite"},
            bytes_sent=10,
            elapsed=1.5,
            compute_seconds=1.0,
            wait_seconds=0.0,
            round_seconds=0.5,
            exposed_seconds=0.5,
        )
    )
    board.close()
    curves = scalars(tmp_path)
    assert curves["left_out"] == [(8, 1.0)]
    assert curves["weights/worker1"] == [(8, 0.0)]
    assert not MEASURED & set(curves)
