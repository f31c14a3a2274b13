"""Runs whose workers die and come back while the others go on, as processes of their own."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from grawa import Elastic
from grawa import lighthouse as running_lighthouse
from grawa.checkpoints.places import round_of
from grawa.lab.experiments.run_folder import RunFolder
from tests.lab.cli.processes import Command, all_gone, environment, grawa, started, training, until

pytestmark = pytest.mark.world

QUADRATIC = ("train", "quadratic", "--workers", "2")
ELASTIC = ("--elastic", "--min-workers", "2")


def rounds_of(folder: Path) -> list[int]:
    return [event["round"] for event in RunFolder(folder).events() if event["kind"] == "round"]


def starts_of(folder: Path) -> list[tuple[bool, int]]:
    """Of each worker that has begun, whether it was late, and after which round."""
    events = [event for event in RunFolder(folder).events() if event["kind"] == "started"]
    return [(event["late"], event["round"]) for event in events]


def test_without_faults_it_is_the_plain_run_whoever_starts_the_workers(tmp_path: Path) -> None:
    plain, elastic = tmp_path / "plain", tmp_path / "elastic"
    options = (*QUADRATIC, "--steps", "640")
    assert grawa(*options, "--out", plain).code == 0
    command = [sys.executable, "-m", "grawa", *options, *ELASTIC, "--out", str(elastic)]
    with running_lighthouse(Elastic(min_workers=2)) as at, ExitStack() as ended:
        told = {"TORCHFT_LIGHTHOUSE": at, "WORLD_SIZE": "2"}
        both = [
            subprocess.Popen(command, env=environment() | told | {"RANK": str(i)}) for i in range(2)
        ]
        for each in both:
            ended.callback(each.kill)
        assert [each.wait(60) for each in both] == [0, 0]
    models = [(out / "model.safetensors").read_bytes() for out in (plain, elastic)]
    assert models[0] == models[1]
    assert rounds_of(elastic) == rounds_of(plain) == list(range(1, 21))
    assert starts_of(elastic) == [(False, 0), (False, 0)]
    assert [event["kind"] for event in RunFolder(elastic).events()].count("finished") == 1
    assert not list(tmp_path.glob(".new-*"))


def kill(command: Command, *workers: int) -> None:
    pids = command.workers()
    for worker in workers:
        os.kill(pids[worker], signal.SIGKILL)
    all_gone([pids[worker] for worker in workers])


def test_who_dies_comes_back_to_the_others_and_when_all_die_to_their_checkpoints(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    options = ("--steps", "9600", "--checkpoint-every", "9", "--out", out)
    with started(tmp_path / "output", *QUADRATIC, *ELASTIC, *options) as command:
        until(lambda: {path.parent.name for path in RunFolder(out).saved()} == BOTH, "checkpoints")
        kill(command, 0)  # whose turn it is to write the rounds
        until(lambda: True in [late for late, _ in starts_of(out)], "worker 0 again")
        kill(command, 0, 1)
        code, output = command.wait()
    assert code == 0, output
    assert "worker 0 failed: killed by SIGKILL; it is started again, and the others go on" in output
    assert rounds_of(out) == list(range(1, 301))
    late = [late for late, _ in starts_of(out)]
    assert late == [False, False, True, False, False]
    latest = starts_of(out)[-1][1]
    assert latest > 0 and latest % 9 == 0
    assert (out / "model.safetensors").exists()


BOTH = {"worker-0", "worker-1"}


def test_if_too_few_are_left_they_wait_and_end_with_a_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (*ELASTIC, "--timeout", "0.2", "--checkpoint-every", "0")
    with training(out, *options) as command:
        workers = command.workers()
        until(lambda: bool(rounds_of(out)), "a round")
        os.kill(workers[1], signal.SIGKILL)
        code, output = command.wait()
        all_gone(list(workers.values()))
    (line,) = [line for line in output.splitlines() if line.startswith("grawa: ")]
    assert code == 1
    died = "since these died and were not started again: worker 1 (killed by SIGKILL)"
    assert f"too few workers are left, {died}; the others waited for 2 s" in line
    assert line.endswith(f"`grawa resume {out}` continues")
    (saved,) = RunFolder(out).saved()
    assert saved.parent.name == "worker-0"
    assert round_of(saved) == rounds_of(out)[-1]


def test_two_jobs_do_not_train_in_one_folder_and_a_signal_stops_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with training(out, *ELASTIC, "--checkpoint-every", "0") as command:
        for _ in range(2):
            refused = grawa("resume", out)
            assert refused.code == 2
            assert f"{out} is being written by process" in refused.err
            # as if both had looked before either began
            monkeypatch.setattr("grawa.lab.cli.run.check_free", lambda _: None)
        refused = grawa("resume", out, "--workers", "3")
        assert "an elastic run goes on from each worker's newest checkpoint" in refused.err
        os.kill(command.pid, signal.SIGTERM)
        code, output = command.wait()
    assert code == 143, output
    assert "grawa: stopped by SIGTERM after round " in output
    assert {path.parent.name for path in RunFolder(out).saved()} == BOTH
