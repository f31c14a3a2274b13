"""The examples, from their command lines to what they print."""

import os
import re
import runpy
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.lab.cli.processes import grawa
from tests.world import launched, results

EXAMPLES = Path(__file__).parents[1] / "examples"


def ran(name: str, *args: str) -> str:
    """What an example prints, run as a script in this process."""
    out = StringIO()
    with redirect_stdout(out), patch.object(sys, "argv", [name, *args]):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return out.getvalue()


def error(printed: str) -> float:
    """The test error that an example prints, in percent."""
    found = re.search(r"test error ([\d.]+)%", printed)
    assert found, printed
    return float(found[1])


def test_one_worker_trains_in_a_loop_of_its_own(tmp_path: Path) -> None:
    printed = ran("own_loop.py", str(tmp_path / "consensus.pt"))
    assert printed.startswith("workers 1, ")
    assert error(printed) < 8.0
    assert (tmp_path / "consensus.pt").exists()


def torchrun(name: str, *args: str) -> str:
    """What an example prints that a real torchrun starts in two processes."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(EXAMPLES / name), *args,
        ],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loop_of_ones_own_is_started_by_torchrun(tmp_path: Path) -> None:
    printed = torchrun("own_loop.py", str(tmp_path / "consensus.pt"))
    assert printed.startswith("workers 2, ")
    assert error(printed) < 8.0


@pytest.mark.parametrize(
    ("name", "package"),
    [("accelerate_loop.py", "accelerate"), ("lightning_trainer.py", "lightning")],
)
def test_trainers_train(name: str, package: str) -> None:
    pytest.importorskip(package)
    assert error(torchrun(name)) < 8.0


def test_a_language_model_is_trained_by_transformers() -> None:
    pytest.importorskip("transformers")
    printed = torchrun("transformers_trainer.py")
    found = re.findall(r"bits per byte ([\d.]+)", printed)
    assert len(found) == 1 and float(found[0]) < 5.5, printed


@pytest.mark.world
def test_mixed_precision_and_accumulation_go_on_two_ranks() -> None:
    first, other = results(launched(2, ran, "amp_accumulation.py"))
    assert "round 10 after step 160" in first
    assert "steps 160, rounds 10" in first
    assert error(first) < 8.0
    assert other == ""


def test_a_strategy_of_ones_own_trains() -> None:
    printed = ran("new_strategy.py")
    assert printed.startswith("LossWeighted(score=")
    assert error(printed) < 8.0


@pytest.mark.world
def test_a_median_is_one_file_that_the_command_takes_too(tmp_path: Path) -> None:
    assert error(ran("median.py")) < 8.0  # one worker learns too fast
    for name, options in (("median.py:Median", "4"), ("krum.py:Krum:faulty=0", "1")):
        words = ["train", "digits", "--strategy", f"{EXAMPLES / name}", "--processes", options]
        done = grawa(*words, "--steps", "64", "--out", str(tmp_path / name))
        assert "test error of the consensus" in done.out, done.err


def kill_a_worker_while_it_saves(folder: Path, launcher: subprocess.Popen[str]) -> None:
    """Kills with -9, when there are checkpoints and another one is in writing."""
    while launcher.poll() is None:
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        if len(names) > 2 and any(name.endswith(".new") for name in names):
            workers = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
            os.kill(int(workers.split()[-1]), signal.SIGKILL)
            return


@pytest.mark.world
def test_a_loop_that_was_killed_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    job = subprocess.Popen(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(EXAMPLES / "resume.py"), str(folder),
        ],
        env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    kill_a_worker_while_it_saves(folder, job)
    whole, _ = results(launched(2, ran, "resume.py", str(tmp_path / "whole")))
    assert job.wait(timeout=60) != 0
    again, _ = results(launched(2, ran, "resume.py", str(folder)))
    assert "epoch 1," in whole and "epoch 1," not in again and "epoch 8," in again
    assert again.splitlines()[-1] == whole.splitlines()[-1]


def test_a_worker_that_dies_is_started_again_and_joins() -> None:
    """In processes of their own, as a launcher starts them."""
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "elastic.py")],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert re.search(r"worker 1 dies.*started again.*worker 1 joins after round \d", told, re.S)
    errors = [float(found) for found in re.findall(r"test error ([\d.]+)%", told)]
    assert len(errors) == 4 and max(errors) < 15.0
