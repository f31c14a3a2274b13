"""What each process does that `grawa.launch` has started."""

import io
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from threading import Event, Lock, Thread
from typing import Any

import torch

from grawa.errors import CommunicationError, UserError
from grawa.launching.output import Form, Forwarded, flush
from grawa.launching.shared import tied_to, without_launchers
from grawa.process_group import distributed

_LOOK_SECONDS = 1.0
"""Between two looks whether the parent process is there."""

_STREAMS = "stdout", "stderr"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all processes are told.

    Args:
        train: what they do.
        device: see `grawa.distributed`.
        timeout: see `grawa.distributed`.
        variables: of their environment.
        threads: how many each computes with; `None` for what the environment says.
        parent: the process that starts them.
        forms: of the streams to which their output is forwarded, by name; the others they share.
    """

    train: Callable[[], Any]
    device: str
    timeout: timedelta
    variables: Mapping[str, str]
    threads: int | None
    parent: int
    forms: Mapping[str, Form]


@dataclass(frozen=True)
class Printed:
    """A message: what a process has printed, and on which stream."""

    stream: str
    text: str


@dataclass(frozen=True)
class Done:
    """A message: what `train` has returned, as bytes; nothing but from the first process."""

    result: bytes


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A message: why a process can't go on.

    Args:
        error: as bytes, if it can be sent.
        text: the error in words.
        traceback: where it was raised.
    """

    error: bytes | None
    text: str
    traceback: str

    @classmethod
    def by(cls, error: BaseException) -> "Failed":
        """By this error, which this module has caught."""
        inside = error.__traceback__ and error.__traceback__.tb_next
        lines = traceback.format_exception(type(error), error, inside)
        text = f"{type(error).__name__}: {error}"
        return cls(error=_pickled(error), text=text, traceback="".join(lines))


class _Pipe:
    """Sends messages to the parent process, from any thread."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, Lock()

    def send(self, message: Printed | Done | Failed) -> None:
        with self._lock:
            self._connection.send(message)

    def finish(self, message: Done | Failed) -> None:
        """Sends the last message, after all that was printed."""
        for name in _STREAMS:
            flush(getattr(sys, name))
        self.send(message)


def work(job: Job, rank: int, connection: Connection) -> None:
    """The life of a process."""
    tied_to(job.parent)()
    # The parent gets Ctrl-C, too, and ends all. Its handler of SIGTERM is none of ours.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for name in os.environ.keys() - without_launchers().keys():
        del os.environ[name]
    os.environ |= {**job.variables, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    pipe = _Pipe(connection)
    for name in _STREAMS:
        _redirect(name, job.forms.get(name), pipe)
    # A fork of a process that has computed with several threads may do so in another thread only:
    # OpenMP would wait for threads that were left behind.
    thread = Thread(target=_train, args=(job, rank, pipe), name="grawa train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_SECONDS)
        if os.getppid() != job.parent:
            os._exit(1)


def _redirect(name: str, form: Form | None, pipe: _Pipe) -> None:
    """Has whole lines appear at once; forwards them where the parent's stream is no file."""
    own = getattr(sys, name)
    if form is not None:
        descriptor = 1 + _STREAMS.index(name)
        send = partial(_print, pipe, name)
        setattr(sys, name, Forwarded(send, form, descriptor))
    elif isinstance(own, io.TextIOWrapper):
        own.reconfigure(line_buffering=True)


def _print(pipe: _Pipe, name: str, text: str) -> None:
    pipe.send(Printed(name, text))


def _train(job: Job, rank: int, pipe: _Pipe) -> None:
    """Opens the process group, trains, and tells the parent what came of it."""
    try:
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        with distributed(job.device, job.timeout):
            try:
                result = job.train()
            except CommunicationError:  # others may know the cause
                raise
            except BaseException as error:
                pipe.finish(Failed.by(error))
                Event().wait()  # until the parent has ended all: none loses contact before
        pipe.finish(Done(_saved(result) if rank == 0 else b""))
    except BaseException as error:
        pipe.finish(Failed.by(error))


def _saved(result: Any) -> bytes:
    """A result as bytes; `UserError` if it can't be sent."""
    file = io.BytesIO()
    try:
        torch.save(result, file)
    except (AttributeError, TypeError, RuntimeError, pickle.PicklingError) as error:
        raise UserError(
            f"what train returned, a {type(result).__name__}, can't be sent to the process that "
            f"called launch ({error}): return numbers, tensors or a state dict"
        ) from error
    return file.getvalue()


def _pickled(error: BaseException) -> bytes | None:
    """An error as bytes; `None` if it can't be made of them again."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data
