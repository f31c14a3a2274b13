"""`grawa chaos`: what is refused, and real jobs under a few faults."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.chaos.hosts import why_no_hosts
from grawa.lab.chaos.programs import environment_of
from tests.lab.cli.processes import Ended, all_gone, grawa, started, until


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nothing"], "there is no task 'nothing'"),
        (["digits", "--kinds", "kill,meteor"], "there is no kind of fault 'meteor'"),
        (["digits", "--kinds", "kill,kill"], "'kill' is given twice"),
        (["digits", "--faults", "0"], "faults must be at least 1"),
        (["digits", "--workers", "3"], "3 workers can't be spread evenly over 2 hosts"),
        (["digits", "--workers", "1"], "workers must be at least 2"),
        (["digits", "--timeout", "0"], "timeout must be positive"),
        (["digits", "--within", "nan"], "within must be positive"),
        (["digits", "--noise", "-1"], "noise must not be negative"),
        (["digits", "--strategy", "none"], "there is no strategy 'none'"),
        (["digits", "--options", "workers=3"], "workers can't be given in --options"),
        (["digits", "--options", "seed=3"], "seed can't be given in --options"),
        (["digits", "--options", "lr=-1"], "lr must be positive"),
        (["digits", "--checkpoint-every", "0", "--kinds", "checkpoint"], "no checkpoints are"),
        (["quadratic", "--kinds", "labels"], "no kind of fault is left (labels: quadratic has no"),
        (["math:nothing"], "there is no 'math:nothing'"),
        (["math:sqrt"], "there is no 'math:sqrt'"),
        (["json:dump", "--steps", "3"], "--steps is for tasks"),
        (["json:dump", "--kinds", "nan"], "no kind of fault is left (nan: workers of a function"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    args: list[str], said: str, command: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = command("chaos", *args)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert not (tmp_path / "runs").exists()


def test_an_existing_folder_is_refused(command: Callable[..., Ended], tmp_path: Path) -> None:
    ended = command("chaos", "digits", "--out", tmp_path)
    assert ended.code == 2
    assert "exists already" in ended.err


SMALL = ("--workers", "2", "--sync-every", "16", "--timeout", "5")
NO_HOSTS = why_no_hosts()


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.mark.world
def test_a_job_on_one_host_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grawa.lab.cli.chaos_config.why_no_hosts", lambda: "not today")
    out = tmp_path / "out"
    kinds = ("--kinds", "kill,host,clock", "--faults", "2", "--steps", "1600")
    ended = grawa("chaos", "digits", *SMALL, *kinds, "--out", out)
    assert ended.code == 0, ended.err
    assert "left out: host (not today)" in ended.out
    assert "all 2 workers run on this machine as one host" in ended.out
    found = results(out)
    kill, clock = sorted(found["outcomes"], key=lambda outcome: outcome["kind"], reverse=True)
    assert (kill["kind"], kill["starts"], clock["kind"], clock["starts"]) == ("kill", 1, "clock", 0)
    assert kill["steps_lost"] % 16 == 0
    assert found["disturbed"]["digest"] == found["undisturbed"]["digest"]
    assert found["broken"] == []


@pytest.mark.world
@pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))
def test_a_job_on_two_hosts_survives(tmp_path: Path) -> None:
    out = tmp_path / "out"
    kinds = ("--kinds", "nan,host", "--faults", "2", "--steps", "1600")
    ended = grawa("chaos", "digits", *SMALL, *kinds, "--out", out)
    assert ended.code == 0, ended.err
    found = results(out)
    host, nan = sorted(found["outcomes"], key=lambda outcome: str(outcome["kind"]))
    assert nan["starts"] == 0
    assert "left out" in nan["noticed_by"]
    assert host["starts"] == 1
    assert found["broken"] == []


@pytest.mark.world
def test_nothing_stays_when_the_command_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(tmp_path / "output", "chaos", "digits", *SMALL, "--out", out) as command:
        events = out / "undisturbed" / "run" / "events.jsonl"
        until(lambda: events.exists() and '"round"' in events.read_text(), "a round")
        control = str(out / "control")
        everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        of_job = [p for p in everyone if control in environment_of(p).get("TMPDIR", "")]
        assert len(of_job) >= 3  # a launcher and two workers at least
        os.kill(command.pid, signal.SIGKILL)
        all_gone(of_job)
