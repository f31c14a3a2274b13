"""The program of a fork server: does the imports, and is then each of the processes that it forks.

Arguments: the launcher's process; the descriptor of the socket for requests; and room for the
command line of those processes.
"""

import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import warnings
from dataclasses import dataclass

import torch

from grawa.lab.train.fork_server import Command
from grawa.lab.train.process_title import show
from grawa.lab.train.stop import CAUGHT
from grawa.launching.shared import tied_to

_LOOK_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)
class Request(Command):
    """A process that is to be started: JSON in a line. The answer is its number, or an error.

    Args:
        variables: more of its environment.
    """

    variables: dict[str, str]

    def run(self) -> None:
        """Does in this process what is requested."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, set(CAUGHT) - {signal.SIGINT})
        os.environ |= self.variables
        words = [sys.executable, "-m", self.module, *self.arguments]
        show(words, self.variables)
        if torch.cuda._is_in_bad_fork():  # an import has used CUDA, which a fork then can't
            os.execv(sys.executable, words)
        sys.argv[1:] = self.arguments
        runpy.run_module(self.module, run_name="__main__", alter_sys=True)


def serve(launcher: int, requests: socket.socket) -> Request:
    """Forks a process for each request, and ends with the launcher.

    A process is forked from one in between, which ends at once: so the launcher adopts it.

    Args:
        launcher: its process.
        requests: where they come from.

    Returns:
        In each new process, its request.
    """
    with requests, requests.makefile("r", encoding="utf-8") as lines:
        for line in lines:
            request = Request(**json.loads(line))
            try:
                for name in request.imports:
                    importlib.import_module(name)
                if os.fork():
                    os.wait()
                    continue
            except (ImportError, OSError) as error:
                _refuse(requests, error)
                continue
            _leave_a_child(requests)
            tied_to(launcher)()
            requests.sendall(str(os.getpid()).encode())
            return request
    sys.exit(0)


def _leave_a_child(requests: socket.socket) -> None:
    """Ends this process, and returns in a child of it, when it has ended."""
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError as error:
        _refuse(requests, error)
        os._exit(1)
    if child:
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)


def _refuse(requests: socket.socket, error: Exception) -> None:
    """Answers why no process was started; with some text, since the launcher waits for it."""
    requests.sendall((str(error) or type(error).__name__).encode())


def main(launcher: str, descriptor: str, *_: str) -> None:
    """Serves, and does in each new process what was requested.

    Args:
        launcher: its process.
        descriptor: of the socket for requests.
    """
    with warnings.catch_warnings():
        # Of Python, about threads: they are OpenBLAS's, which ends them before a fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        request = serve(int(launcher), socket.socket(fileno=int(descriptor)))
    request.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
