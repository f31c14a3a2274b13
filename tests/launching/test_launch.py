"""Functions on several new processes: what they return, how they fail, and that none is left."""

import os
import signal
import sys
import threading
import time
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import grawa
from tests.helpers import Fleet, batches
from tests.lab.cli.processes import all_gone, children_of, until
from tests.world import forks

WORKERS = 2


def trained(rank: int, hosted: int) -> Tensor:
    """The consensus of workers on the same data, however they are hosted."""
    fleet = Fleet(hosted)
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2) as averager:
        fleet.train(batches(6, WORKERS).workers(range(rank, rank + hosted)), averager)
    return torch.cat([x.flatten() for x in averager.consensus().values()])


def test_a_function_of_a_cell_trains_on_several_processes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "7")  # of another launcher
    told = "from here"

    def train() -> tuple[Tensor, str]:
        rank = dist.get_rank()
        print(f"{told}: rank {rank}")
        print("é and a part", end="", file=sys.stderr)
        with grawa.distributed() as device:  # as in a script of torchrun's
            assert device.type == "cpu"
        assert "TORCHELASTIC_RESTART_COUNT" not in os.environ
        return trained(rank, 1), os.environ["RANK"]

    found, rank = grawa.launch(train, WORKERS)
    torch.testing.assert_close(found, trained(0, WORKERS), rtol=1e-12, atol=1e-12)
    assert rank == "0" and "RANK" not in os.environ and not dist.is_initialized()
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["from here: rank 0", "from here: rank 1"]
    assert err == "é and a part" * WORKERS
    assert grawa.launch(lambda: dist.get_world_size(), workers=1) == 1


class NotSentError(Exception):
    """An error that can't be made again of what is pickled."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one + other)


def fail(how: str) -> None:
    """One worker fails while the other waits for it."""
    if dist.get_rank() == 1:
        failures: dict[str, Any] = {
            "raised": partial(int, "x"),
            "not sent": lambda: (_ for _ in ()).throw(NotSentError("a", "b")),
            "exited": partial(sys.exit, 3),
            "ended": partial(os._exit, 4),
            "killed": partial(os.kill, os.getpid(), signal.SIGKILL),
            "nested": partial(grawa.launch, answer, workers=1),
        }
        failures[how]()
    dist.all_reduce(torch.zeros(1))


@pytest.mark.parametrize(
    ("how", "kind", "told"),
    [
        ("raised", ValueError, "invalid literal"),
        ("not sent", RuntimeError, "worker 1 failed: NotSentError: ab"),
        ("exited", RuntimeError, "worker 1 failed: SystemExit: 3"),
        ("ended", RuntimeError, "worker 1 ended with exit code 4 before"),
        ("killed", RuntimeError, "worker 1 was killed by SIGKILL"),
        ("nested", grawa.UserError, "this process is one of several already"),
    ],
)
def test_what_fails_on_a_worker_ends_all_and_is_raised_here(
    how: str, kind: type[Exception], told: str
) -> None:
    before = children_of(os.getpid())
    with pytest.raises(kind, match=told) as raised:
        grawa.launch(lambda: fail(how), WORKERS)
    assert children_of(os.getpid()) == before
    if how in ("raised", "nested"):
        cause = str(raised.value.__cause__)
        assert cause.startswith("in worker 1:\nTraceback") and f"{__file__}" in cause


def test_what_can_not_be_started_or_sent_is_refused() -> None:
    with pytest.raises(grawa.UserError, match="a function, can't be sent"):
        grawa.launch(lambda: lambda: 1, workers=1)
    with pytest.raises(grawa.UserError, match="workers must be a whole number, at least 1, got 0"):
        grawa.launch(dist.get_rank, workers=0)
    with pytest.raises(grawa.UserError, match="a function without arguments, got 'train'"):
        grawa.launch("train", workers=1)  # type: ignore[arg-type]
    with (
        patch("torch.cuda.device_count", return_value=1),
        pytest.raises(grawa.UserError, match=r"each of the 2 workers needs a GPU.* has 1 that"),
    ):
        grawa.launch(dist.get_rank, workers=2)


class Interrupted(StringIO):
    """Where Ctrl-C comes when something is printed."""

    def write(self, text: str) -> NoReturn:
        raise KeyboardInterrupt


def sleep() -> None:
    print("asleep")
    time.sleep(1000.0)


def test_an_interrupt_ends_all() -> None:
    before = children_of(os.getpid())
    with pytest.raises(KeyboardInterrupt), redirect_stdout(Interrupted()):
        grawa.launch(sleep, WORKERS)
    assert children_of(os.getpid()) == before


def test_none_is_left_when_the_caller_is_killed() -> None:
    caller = forks().Process(target=grawa.launch, args=(sleep, WORKERS))
    caller.start()
    found: set[int] = set()

    def begun() -> bool:
        found.update(children_of(caller.pid or 0))
        return len(found) >= WORKERS

    until(begun, "the workers")
    caller.kill()
    caller.join()
    all_gone(sorted(found))


def compute() -> int:
    """Something that needs all threads."""
    torch.randn(10**6).exp().sum()
    return torch.get_num_threads()


def compute_here_and_there() -> None:
    del os.environ["OMP_NUM_THREADS"]
    torch.set_num_threads(2)
    compute()
    with patch("grawa.launching.launch.threads_each", return_value=2):
        assert grawa.launch(compute, workers=1) == 2


def test_forks_compute_with_several_threads_after_their_parent_has() -> None:
    process = forks().Process(target=compute_here_and_there)
    process.start()
    try:
        until(lambda: process.exitcode is not None, "the end")
    finally:
        process.kill()
    assert process.exitcode == 0


def answer() -> int:
    """A function that can be imported, in a thread as any."""
    assert threading.current_thread() is not threading.main_thread()
    return 40 + dist.get_world_size()


def test_where_forks_are_impossible_the_function_is_imported() -> None:
    """As on a machine with GPUs, which are in use, or asked for; and on another system."""
    with (
        patch("torch.cuda.device_count", return_value=2),
        patch("torch.cuda.is_initialized", side_effect=[True, False]),
    ):
        for reason in ("CUDA is in use", "has asked for CUDA already"):
            with pytest.raises(grawa.UserError, match=rf"{reason}.* put the function into a file"):
                grawa.launch(lambda: 1, workers=2)
    with patch("sys.platform", "darwin"):
        assert grawa.launch(answer, workers=1) == 41
