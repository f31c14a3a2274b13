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
from grawa.lab.chaos.session import Session
from grawa.lab.chaos.verdict import Result
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
        (
            ["digits", "--options", "workers=3"],
            "workers can't be given in --options, because `grawa chaos` sets it itself",
        ),
        (["digits", "--options", "seed=3"], "seed can't be given in --options"),
        (["digits", "--options", "lr=-1"], "lr must be positive"),
        (["digits", "--checkpoint-every", "0", "--kinds", "checkpoint"], "no checkpoints are"),
        (["quadratic", "--kinds", "labels"], "no kind of fault is left (labels: quadratic has no"),
        (["math:nothing"], "math has no 'nothing'"),
        (["math:sqrt"], "math:sqrt can't be called with a folder"),
        (["json:dump", "--steps", "3"], "steps is for tasks"),
        (["json:dump", "--strategy", "mgrawa"], "strategy is for tasks"),
        (["json:dump", "--kinds", "nan"], "no kind of fault is left (nan: workers of a function"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(
    args: list[str], said: str, command: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = command("chaos", *args)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "runs").exists()


def test_an_existing_folder_is_refused(command: Callable[..., Ended], tmp_path: Path) -> None:
    ended = command("chaos", "digits", "--out", tmp_path)
    assert ended.code == 2
    assert "exists already" in ended.err


SMALL = ("--workers", "2", "--sync-every", "16", "--faults", "1", "--timeout", "5")
NO_HOSTS = why_no_hosts()


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def in_world(session: Session) -> Result:
    """Stands in for `Session.undisturbed`, in processes that have done their imports."""
    run = session.out / "undisturbed" / "run"
    assert grawa("train", "--config", session.out / "config.toml", "--out", run).code == 0
    return session.subject.result(run)


@pytest.mark.world
def test_a_job_on_one_host_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grawa.lab.cli.chaos_checks.why_no_hosts", lambda: "not today")
    monkeypatch.setattr(Session, "undisturbed", in_world)
    out = tmp_path / "out"
    ended = grawa("chaos", "digits", *SMALL, "--kinds", "kill,host", "--out", out)
    assert ended.code == 0, ended.err
    assert "left out: host (not today)" in ended.out
    assert "all 2 workers run on this machine as one host" in ended.out
    found = results(out)
    (kill,) = found["outcomes"]
    assert (kill["kind"], kill["starts"]) == ("kill", 1)
    assert kill["noticed_seconds"] < kill["recovered_seconds"]
    assert 0 < kill["steps_lost"] <= kill["step"]
    assert found["disturbed"]["digest"] == found["undisturbed"]["digest"]
    assert found["broken"] == []


@pytest.mark.world
def test_elastic_workers_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grawa.lab.cli.chaos_checks.why_no_hosts", lambda: "not today")
    out = tmp_path / "out"
    elastic = ("--elastic", "--min-workers", "2", "--steps", "2560", "--kinds", "kill,launcher")
    ended = grawa("chaos", "digits", *SMALL, *elastic, "--out", out)
    assert ended.code == 0, ended.err
    assert "left out: launcher (elastic workers have no launcher)" in ended.out
    found = results(out)
    (kill,) = found["outcomes"]
    assert (kill["kind"], kill["starts"], kill["steps_lost"]) == ("kill", 0, 0)
    assert found["disturbed"]["rounds"] == found["undisturbed"]["rounds"]
    assert found["broken"] == []


@pytest.mark.world
@pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))
def test_a_job_on_two_hosts_survives(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = grawa("chaos", "digits", *SMALL, "--seed", "1", "--kinds", "host", "--out", out)
    assert ended.code == 0, ended.err
    found = results(out)
    (host,) = found["outcomes"]
    assert (host["kind"], host["starts"]) == ("host", 1)
    assert 0.0 < host["noticed_seconds"] < host["recovered_seconds"]
    assert found["disturbed"]["digest"] == found["undisturbed"]["digest"]
    assert found["broken"] == []


@pytest.mark.world
def test_nothing_stays_when_the_command_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with started(tmp_path / "output", "chaos", "digits", *SMALL, "--out", out) as command:
        workers: list[int] = []

        def are_there() -> bool:
            workers[:] = [pid for pid in of_job(out) if "RANK" in environment_of(pid)]
            return len(workers) == 2

        until(are_there, "the workers")
        everyone = of_job(out)
        os.kill(command.pid, signal.SIGKILL)
        all_gone(everyone)


def of_job(out: Path) -> list[int]:
    """The processes that are told where this command's temporary files are."""
    everyone = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in everyone if str(out) in environment_of(pid).get("TMPDIR", "")]
