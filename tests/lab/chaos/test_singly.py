"""A scheduler that starts elastic workers one by one."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grawa.lab.chaos.places import ThisMachine
from grawa.lab.chaos.singly import Singly

WORKER = """
import os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
assert os.environ["TORCHFT_LIGHTHOUSE"].startswith("127.0.0.1:") and os.environ["WORLD_SIZE"] == "2"
(folder / f"{rank}.{os.environ['TORCHELASTIC_RESTART_COUNT']}").touch()
while True:
    for code in (0, 1):
        for path in (folder / f"{rank}-ends-{code}", folder / f"all-end-{code}"):
            if path.exists():
                path.unlink() if path.name.startswith(rank) else None
                sys.exit(code)
    time.sleep(0.01)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Singly:
    monkeypatch.setattr("grawa.lab.chaos.singly._LIGHTHOUSE", "this")
    (tmp_path / "logs").mkdir()
    return Singly(
        [ThisMachine()],
        1,
        2,
        lambda _: [sys.executable, "-c", WORKER, str(tmp_path)],
        lambda _: {},
        tmp_path / "logs",
        "a mark of no job",
        "127.0.0.1",
        "",
        patience=2,
    )


def until(job: Singly, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < end
        job.tend()
        time.sleep(0.01)


def test_one_that_fails_is_started_again_until_another_has_come_to_the_end(
    job: Singly, tmp_path: Path
) -> None:
    job.start()
    try:
        until(job, lambda: (tmp_path / "1.0").exists())
        (tmp_path / "1-ends-1").touch()
        until(job, lambda: (tmp_path / "1.1").exists())
        assert {worker.host for worker in job.workers().values()} == {0}
        assert not job.launchers()
        (tmp_path / "0-ends-0").touch()
        until(job, lambda: 0 not in job.workers())
        (tmp_path / "1-ends-1").touch()
        until(job, lambda: job.over)
    finally:
        job.end()
    assert sorted(path.name for path in tmp_path.glob("?.?")) == ["0.0", "1.0", "1.1"]


def test_workers_that_only_fail_are_given_up(job: Singly, tmp_path: Path) -> None:
    (tmp_path / "all-end-1").touch()
    job.start()
    try:
        until(job, lambda: bool(job.failure))
    finally:
        job.end()
    assert "its workers failed 5 times without a round" in job.failure
