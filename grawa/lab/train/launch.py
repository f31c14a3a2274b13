"""Starts the processes of a run on this machine, again if need be, and reports which one failed."""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from os import getppid
from typing import TypeVar

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab.train.start import Started, started

Event = TypeVar("Event")

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Signals that end the launcher, which first ends the processes."""

LOOK_SECONDS = 0.05
"""Between two looks at the processes."""

_SAME_SIGNAL_SECONDS = 0.2
"""How much later the launcher may get a signal that was sent to all processes of the terminal."""


class WorkerFailedError(RuntimeError):
    """A process of the run failed, and all others were ended.

    Args:
        text: which one, and why.
        comes_again: whether it would fail in the same way if it were started again.
    """

    def __init__(self, text: str, *, comes_again: bool = False) -> None:
        super().__init__(text)
        self.comes_again = comes_again


def launch(
    command: Sequence[str],
    processes: int,
    *,
    max_restarts: int = 0,
    on_restart: Callable[[WorkerFailedError, int], None] = lambda error, restart: None,
) -> None:
    """Runs a command in several new processes of this machine and waits for them.

    They have the environment variables that torchrun sets, but no address: they find each other
    through a file without a name, and nothing listens for them. If one fails, all are ended; they
    end as well when this process is killed. A process should run its work within `distributed`, in
    a function decorated with `torch.distributed.elastic`'s `record`. If one raises a `UserError`,
    so does this function, and after Ctrl-C it raises `KeyboardInterrupt`; all have ended by then.
    SIGINT is blocked in a new process, which should let it through when it is ready.

    Args:
        command: arguments for the Python interpreter.
        processes: number of processes.
        max_restarts: how often all are started again after one was killed or failed by an error
            that need not come again; `grawa.process_group.restart_count` tells them.
        on_restart: called with the error and the number of the restart, from 1, before each; what
            it raises ends the run.

    Raises:
        WorkerFailedError: if a process failed otherwise; it names the rank and the cause.
    """
    with stops() as received:
        for restart in count(1):
            try:
                _attempt(command, processes, restart - 1, received)
                return
            except WorkerFailedError as error:
                if received or error.comes_again or restart > max_restarts:
                    raise
                on_restart(error, restart)


@contextmanager
def stops() -> Generator[list[signal.Signals]]:
    """Collects signals to end, instead of acting on them in the middle of something.

    Yields:
        Those that have come, as they come.
    """
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals go to the main thread
        return
    before = {
        number: signal.signal(number, lambda came, _: received.append(signal.Signals(came)))
        for number in _STOPS
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _attempt(
    command: Sequence[str], processes: int, restarts: int, received: Sequence[signal.Signals]
) -> None:
    """Runs the processes once."""
    try:
        with started(command, processes, restarts) as group:
            failures = _failures(group, received)
    except OSError as error:
        text = f"can't start {processes} processes: {error}"
        raise WorkerFailedError(text, comes_again=True) from error
    raise_stop(received)
    if failures:
        raise error_of(*_first_cause(failures))


def raise_stop(received: Sequence[signal.Signals]) -> None:
    """Raises what the launcher ends with after it has got a signal, if it has."""
    if received:
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise WorkerFailedError(f"ended by {received[0].name}")


def _failures(group: Started, received: Sequence[signal.Signals]) -> dict[int, ProcessFailure]:
    """Waits until all processes have ended, or one has failed, or a signal has come."""
    while not received and not (failures := group.failures()):
        if group.has_ended():
            return {}
        time.sleep(LOOK_SECONDS)
    if received:
        return {}
    await_same_signal(failures)
    return failures


def await_same_signal(failures: Mapping[int, ProcessFailure]) -> None:
    """Waits a moment for a signal that has ended processes, and may come to the launcher too."""
    if any(-failure.exitcode in _STOPS for failure in failures.values()):
        time.sleep(_SAME_SIGNAL_SECONDS)


def error_of(rank: int, cause: str) -> UserError | WorkerFailedError:
    """What the launcher raises if a process has failed.

    Args:
        rank: of the process.
        cause: see `cause_of`.

    Returns:
        The process's own `UserError`, or one that names the rank.
    """
    name, _, text = cause.partition(": ")
    if name == UserError.__name__:
        return UserError(text)
    comes_again = name == DivergedError.__name__
    return WorkerFailedError(f"rank {rank} failed: {cause}", comes_again=comes_again)


def _first_cause(failures: Mapping[int, ProcessFailure]) -> tuple[int, str]:
    """The rank that failed first, and why; not one that lost contact or that was ended for it."""
    causes = {rank: cause_of(failure) for rank, failure in failures.items()}
    ranks = sorted(causes, key=lambda rank: failures[rank].timestamp)
    free = [rank for rank in ranks if failures[rank].exitcode != -signal.SIGTERM]
    own = [rank for rank in free if not causes[rank].startswith(CommunicationError.__name__)]
    rank = (own or free or ranks)[0]
    return rank, causes[rank]


def cause_of(failure: ProcessFailure) -> str:
    """Why a process has failed: the name of its error and the text, or the signal."""
    details = failure.error_file_data.get("message")
    if isinstance(details, dict):
        return str(details["message"])
    if failure.exitcode < 0:
        return f"killed by {failure.signal_name()}"
    return f"exit code {failure.exitcode}; see its output above"


def while_parent_lives(events: Iterator[Event]) -> Iterator[Event]:
    """Passes events on as long as the parent process lives, which would otherwise end this one.

    Yields:
        The events.

    Raises:
        WorkerFailedError: if the parent process has ended.
    """
    parent = getppid()
    for event in events:
        if getppid() != parent:
            raise WorkerFailedError("the process that started this worker has ended")
        yield event
