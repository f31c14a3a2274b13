"""The curves of a run with real processes are those of the run in one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab.cli.processes import grawa

RUN = (
    "train", "digits:train_size=400", "--workers", "4", "--steps", "48", "--sync-every", "8",
    "--batch-size", "8", "--evaluate-every", "1", "--seed", "7",
)  # fmt: skip


def curve(path: Path, processes: int, *options: str) -> list[dict[str, Any]]:
    """What was measured in a run, without what time it took."""
    done = grawa(*RUN, *options, "--processes", str(processes), "--out", path)
    assert (done.code, done.err) == (0, "")
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [event for event in events if event["kind"] in {"round", "evaluated", "finished"}]


def numbers(events: list[dict[str, Any]], kind: str, name: str) -> list[Any]:
    return [event[name] for event in events if event["kind"] == kind]


@pytest.mark.world
@pytest.mark.parametrize(
    "options",
    [
        ("--strategy", "lgrawa", "--fault", "wrong-labels:3"),
        ("--strategy", "easgd", "--overlap-steps", "3", "--fragments", "2"),
    ],
    ids=lambda options: "-".join(options[1::2]),
)
def test_real_processes_and_hosted_workers_have_one_curve(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    hosted = curve(tmp_path / "hosted", 1, *options)
    real = curve(tmp_path / "real", 4, *options)
    for kind in ("evaluated", "finished"):
        errors = numbers(hosted, kind, "error")
        # An image more or less of 1,397 is a rounding error at the border of two classes.
        assert numbers(real, kind, "error") == pytest.approx(errors, abs=1.5 / 1397)
    assert len(numbers(hosted, "evaluated", "error")) >= 6
    for name in ("losses", "consensus_distance"):
        own, other = numbers(real, "round", name), numbers(hosted, "round", name)
        torch.testing.assert_close(torch.tensor(own), torch.tensor(other), rtol=1e-3, atol=1e-4)
    losses = torch.tensor(numbers(hosted, "round", "losses"))
    assert losses[-1].mean() < losses[0].mean()
