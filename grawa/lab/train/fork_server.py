"""Starts the processes of a run by forks of one that has done their imports already.

The imports take seconds, which all processes would spend at each start and restart. Nothing listens
for the fork server, and it leaves nothing: it reads requests from a socket without a name, and ends
with the launcher. Its forks are made children of the launcher, as if that had started them.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from select import select
from subprocess import Popen

from grawa.lab.train.process_title import room_for, room_for_variables
from grawa.lab.train.stop import CAUGHT
from grawa.launching.shared import tied_to

_IMPORT_SECONDS = 600.0
"""How long the imports may take, as from a slow file system, before the start counts as failed."""

_LOOK_SECONDS = 0.1
"""Between two looks whether the start was called off."""

_LAST_SECONDS = 1.0
"""How long an answer may take that is owed at the end."""

_SET_ADOPTING, _IS_ADOPTING = 36, 37
"""PR_SET_CHILD_SUBREAPER and PR_GET_CHILD_SUBREAPER of Linux."""


@dataclass(frozen=True)
class Command:
    """What each process of a run does.

    Args:
        module: run as by `python -m`.
        arguments: its command line.
        imports: modules that take long to import. They are imported once, before the processes are
            forked, so that doing it must neither start a thread nor touch a GPU.
    """

    module: str
    arguments: Sequence[str] = ()
    imports: Sequence[str] = ()


class Child:
    """A process that was forked for this one, and is its child.

    Args:
        pid: its number.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, below zero for a signal; `None` while it runs."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Waits until it has ended."""
        return self._wait(0)

    def _wait(self, flags: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, flags)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it by force."""
        self.send_signal(signal.SIGKILL)


Process = Child | Popen[bytes]


class ForkServer:
    """Starts processes that run one command, each with variables of its own.

    Args:
        command: what they do.
        environment: theirs.
        descriptors: files that they inherit.
        check: called while the imports are waited for; what it raises ends that.
    """

    def __init__(
        self,
        command: Command,
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        check: Callable[[], None],
    ) -> None:
        self._command, self._environment = command, environment
        self._descriptors, self._check = descriptors, check
        self._server: Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._is_owed = False  # an answer

    def start(self, variables: Mapping[str, str]) -> Process:
        """Starts a process, in which SIGINT is blocked.

        Args:
            variables: more of its environment.

        Returns:
            The process.

        Raises:
            OSError: if it can't be started.
        """
        command = self._command
        if sys.platform != "linux":
            words = ["-m", command.module, *command.arguments]
            return self._popen(words, {**self._environment, **variables}, [signal.SIGINT])
        request = json.dumps({**asdict(command), "variables": dict(variables)}) + "\n"
        answer = self._ask(request) or self._ask(request)  # the server may just have been killed
        if not answer.isdigit():
            raise OSError(answer or "the process that does the imports has failed")
        return Child(int(answer))

    def _ask(self, request: str) -> str:
        """What the fork server answers; "" if it ends instead."""
        if self._server is None or self._server.poll() is not None:
            self._begin()
        assert self._socket is not None
        try:
            self._is_owed = True
            self._socket.sendall(request.encode())
            answer = self._answer(self._socket)
            self._is_owed = False
        except TimeoutError:
            return f"the imports took longer than {_IMPORT_SECONDS:.0f} s"
        except ConnectionError:
            answer = ""
        if not answer:
            self.close()
        return answer

    def _answer(self, from_server: socket.socket) -> str:
        """The answer, when it has come; a `TimeoutError` if that takes too long."""
        deadline = time.monotonic() + _IMPORT_SECONDS
        while not select([from_server], [], [], _LOOK_SECONDS)[0]:
            self._check()
            if time.monotonic() > deadline:
                raise TimeoutError
        return from_server.recv(4096).decode()

    def _begin(self) -> None:
        """Starts the process that does the imports."""
        self.close()
        self._socket, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            room = room_for([self._command.module, *self._command.arguments])
            self._server = self._popen(
                ["-m", "grawa.lab.train.forked", str(os.getpid()), str(descriptor), room],
                {**self._environment, **room_for_variables()},
                CAUGHT,  # what all processes of a run get must not end this one
                [descriptor, *self._descriptors],
            )

    def _popen(
        self,
        words: Sequence[str],
        environment: Mapping[str, str],
        blocked: Sequence[int],
        descriptors: Sequence[int] | None = None,
    ) -> Popen[bytes]:
        """Starts a Python interpreter that dies with this process."""
        tie = tied_to(os.getpid())

        def begin() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
            tie()

        return Popen(
            [sys.executable, *words],
            env=environment,
            pass_fds=self._descriptors if descriptors is None else descriptors,
            preexec_fn=begin,
        )

    def close(self) -> None:
        """Ends the process that has done the imports; those that it has forked go on.

        One that it was forking when this process stopped listening, as for Ctrl-C, is ended.
        """
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        if self._socket is not None:
            with self._socket, suppress(OSError):
                self._socket.settimeout(_LAST_SECONDS)
                if self._is_owed and (pid := self._socket.recv(4096).decode()).isdigit():
                    unknown = Child(int(pid))
                    unknown.kill()
                    unknown.wait()


@contextmanager
def fork_server(
    command: Command,
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    check: Callable[[], None] = lambda: None,
) -> Generator[ForkServer]:
    """Provides a `ForkServer` for a block; the arguments are those of the class.

    Yields:
        It.
    """
    server = ForkServer(command, environment, descriptors, check)
    try:
        with _adopting():
            yield server
    finally:
        server.close()


@contextmanager
def _adopting() -> Generator[None]:
    """Makes processes children of this one if it has started their parent, and that has ended."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = ctypes.c_int()
    libc.prctl(_IS_ADOPTING, ctypes.byref(before))
    libc.prctl(_SET_ADOPTING, 1)
    try:
        yield
    finally:
        libc.prctl(_SET_ADOPTING, before.value)
