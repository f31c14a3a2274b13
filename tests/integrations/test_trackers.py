"""Rounds in trackers: a real one of dicts, loggers of trainers, and what is none."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import grawa
from tests.helpers import Fleet, batches

PROGRAM = """
import trackio
from tests.integrations.test_trackers import rounds
trackio.init(project="grawa", name="run", auto_log_cpu=False, embed=False)
rounds(trackio.log)
trackio.finish()
"""


def rounds(log: Any) -> list[grawa.RoundReport]:
    """Three rounds of two workers, logged; their reports."""
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(2)
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=4, measure_distance=True,
        on_round=[reports.append, grawa.integrations.LogRounds(log)],
    ) as averager:  # fmt: skip
        fleet.train(batches(12, 2), averager)
    return reports


def test_trackio_has_every_round_at_its_step(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    told = {"TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": path}
    words = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        words, env=os.environ | told, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "grawa.db") as database:
        rows = database.execute("select step, metrics from metrics order by step").fetchall()
    database.close()
    assert [step for step, _ in rows] == [4, 8, 12]
    for number, (_, metrics) in enumerate(rows, start=1):
        found = json.loads(metrics)
        assert found["grawa/round"] == number
        assert {"grawa/weights/worker1", "grawa/consensus_distance"} <= set(found)


class Logger:
    """As a logger of Lightning's."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Mapping[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.told.append((step, metrics))


def test_a_trainers_logger_gets_numbers_that_are_known() -> None:
    logger = Logger()
    reports = rounds(logger)
    assert [step for step, _ in logger.told] == [report.applied_step for report in reports]
    for (_, numbers), report in zip(logger.told, reports, strict=True):
        assert numbers == report.as_scalars()
        assert numbers["grawa/left_out"] == len(report.left_out)


def test_what_logs_nothing_is_refused() -> None:
    with pytest.raises(grawa.UserError, match=r"a function like wandb\.log"):
        grawa.integrations.LogRounds("runs/")
