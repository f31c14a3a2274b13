"""Starts the processes of a run on this machine, again if need be, and reports which one failed."""

import signal
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from os import getppid
from typing import TypeVar

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.errors import CommunicationError, DivergedError, UserError
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.fork_server import Command
from grawa.lab.train.start import Started, Starter, starter
from grawa.lab.train.stop import (
    CAUGHT,
    SAME_SIGNAL_SECONDS,
    STOP_WITHIN_SECONDS,
    StoppedError,
    StopSignals,
    announce,
)

Event = TypeVar("Event")

LOOK_SECONDS = 0.05
"""Between two looks at the processes."""


def launch(
    command: Command,
    processes: int,
    *,
    max_restarts: int = 0,
    on_start: Callable[[], None] = lambda: None,
    on_restart: Callable[[WorkerFailedError, int], None] = lambda error, restart: None,
    stop_within: float = STOP_WITHIN_SECONDS,
) -> None:
    """Runs a command in several new processes of this machine and waits for them.

    They have the environment variables that torchrun sets, but no address: they find each other
    through a file without a name, and nothing listens for them. If one fails, all are ended; they
    end as well when this process is killed. A process should run its work within `distributed`, in
    a function decorated with `torch.distributed.elastic`'s `record`. If one raises a `UserError`,
    so does this function; all have ended by then. SIGINT is blocked in a new process, which should
    let it through when it is ready.

    SIGINT, SIGTERM or SIGHUP sends all processes SIGTERM, at which they should stop at the next
    chance, and exit as a `StoppedError` says, which this function then raises, too. Another signal,
    or SIGQUIT, ends them at once.

    Args:
        command: what they do.
        processes: number of processes.
        max_restarts: how often all are started again after one was killed or failed by an error
            that need not come again; `grawa.process_group.restart_count` tells them.
        on_start: called when all processes have been started; until then they are silent.
        on_restart: called with the error and the number of the restart, from 1, before each; what
            it raises ends the run.
        stop_within: seconds until processes that were asked to stop are ended.

    Raises:
        WorkerFailedError: if a process failed otherwise; it names the rank and the cause.
    """
    signals = StopSignals()
    with (
        signals.caught(CAUGHT),
        saying_what_did_not_start(processes),
        starter(command, processes, check=signals.check) as several,
    ):
        for restart in count(1):
            try:
                _attempt(several, restart - 1, signals, on_start, stop_within)
                return
            except WorkerFailedError as error:
                if signals.first or error.comes_again or restart > max_restarts:
                    raise
                on_restart(error, restart)


def _attempt(
    several: Starter,
    restarts: int,
    signals: StopSignals,
    on_start: Callable[[], None],
    within: float,
) -> None:
    """Runs the processes once."""
    with several.started(restarts) as group:
        on_start()
        failures = _failures(group, signals, within)
        stopped, has_ended = group.stopped(), group.has_ended()
    if stopped is not None:
        raise StoppedError(signals.first or stopped, saved=True)
    killed = any(-failure.exitcode in CAUGHT for failure in failures.values())
    if signals.first is not None and (killed or not (failures or has_ended)):
        raise StoppedError(signals.first, saved=False)
    if failures:
        raise error_of(*_first_cause(failures))


@contextmanager
def saying_what_did_not_start(processes: int) -> Generator[None]:
    """Turns the system's refusal of more processes into a `WorkerFailedError` that says so."""
    try:
        yield
    except OSError as error:
        text = f"can't start {processes} processes: {error}"
        raise WorkerFailedError(text, comes_again=True) from error


def _failures(group: Started, signals: StopSignals, within: float) -> dict[int, ProcessFailure]:
    """Waits until all processes have ended, or one has failed, or all must be ended.

    They must where one has stopped, or was to stop, and others go on for too long.

    Returns:
        Those that have failed.
    """
    deadline: float | None = None
    while not (failures := group.failures()) and not group.has_ended() and not signals.at_once:
        if deadline is None and (signals.first or group.stopped()):
            deadline = time.monotonic() + within
            group.ask()
            if signals.first:
                announce(signals.first, within)
        if deadline is not None and time.monotonic() > deadline:
            break
        time.sleep(LOOK_SECONDS)
    await_same_signal(failures)
    return failures


def await_same_signal(failures: Mapping[int, ProcessFailure]) -> None:
    """Waits a moment for a signal that has ended processes, and may come to the launcher too."""
    if any(-failure.exitcode in CAUGHT for failure in failures.values()):
        time.sleep(SAME_SIGNAL_SECONDS)


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
