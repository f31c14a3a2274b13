"""torchft's lighthouse: a small server that knows which workers are alive, and its client."""

import os
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from threading import Event, Thread
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

from grawa.comm.elastic import Elastic
from grawa.errors import CommunicationError, UserError

HEARTBEAT_SECONDS = 0.5
"""Between a worker's signs of life."""

DEAD_AFTER = timedelta(seconds=4)
"""A worker without a sign of life for so long counts as dead. It is what a kill costs the others
if no connection of theirs breaks."""

_LONGEST = timedelta(minutes=10)
"""How long a slow worker is waited for without a grace time."""

_TICK = timedelta(milliseconds=20)
"""How often the lighthouse looks whether a grace time has passed."""

_CONNECT = timedelta(seconds=3)


class Quorum(NamedTuple):
    """The workers that have come to a meeting; the same for all of them."""

    name: str
    """Unique; of two quorums the later one's is the larger."""
    members: list[dict[str, Any]]
    """What each has said of itself."""


@cache
def torchft() -> ModuleType:
    """Torchft's coordination module, quiet unless something is wrong.

    Returns:
        The module.

    Raises:
        UserError: if it is not installed.
    """
    try:
        with patch.dict(os.environ, {"RUST_LOG": "warn"}):  # it is read at the first import only
            from torchft import coordination
    except ImportError as error:
        raise UserError(
            "elastic training needs torchft, which is not installed: pip install 'grawa[elastic]'"
        ) from error
    module: ModuleType = coordination
    return module


@contextmanager
def lighthouse(elastic: Elastic, bind: str = "127.0.0.1:0") -> Generator[str]:
    """Runs a lighthouse in this process, which must live as long as the job.

    Whoever can reach it can take part in the job, and stop it: bind it to an address that only
    the job's machines can reach.

    Args:
        elastic: the options of the job, of which `grace` matters here.
        bind: where it listens; port 0 for any free one.

    Yields:
        Where it is, "host:port".

    Raises:
        UserError: if torchft is not installed, or it can't listen there.
    """
    longest = elastic.times.grace or _LONGEST
    try:
        server = torchft().LighthouseServer(
            bind=bind,
            min_replicas=1,  # workers themselves wait for `min_workers`, and say so
            join_timeout_ms=_milliseconds(longest),
            quorum_tick_ms=_milliseconds(_TICK),
            heartbeat_timeout_ms=_milliseconds(DEAD_AFTER),
        )
    except RuntimeError as error:
        raise UserError(f"no lighthouse can listen at {bind} ({error})") from error
    host = bind.rpartition(":")[0]
    try:
        yield f"{host}:{server.address().rpartition(':')[2]}"
    finally:
        server.shutdown()


class Beacon:
    """A worker's connection to the lighthouse: signs of life, and quorums.

    Args:
        address: "host:port" of the lighthouse.
        name: of this process, different from that of any other.
        wait: how long the lighthouse may be out of reach.
    """

    def __init__(self, address: str, name: str, wait: timedelta) -> None:
        self._address, self._name = address, name
        self._wait = wait.total_seconds()
        self._make = torchft().LighthouseClient
        self._client: Any = None
        self._heard = time.monotonic()
        self._stop = Event()
        self._stop.set()

    def start(self) -> None:
        """Begins to send signs of life, from a thread of its own."""
        if self._stop.is_set():
            self._stop = Event()
            self._heard = time.monotonic()
            Thread(target=self._beat, args=(self._stop,), name="grawa alive", daemon=True).start()

    def stop(self) -> None:
        """Ends the signs of life."""
        self._stop.set()

    def _beat(self, stop: Event) -> None:
        client = None
        while not stop.wait(HEARTBEAT_SECONDS):
            try:
                client = client or self._make(f"http://{self._address}", _CONNECT)
                client.heartbeat(self._name, timeout=_CONNECT)
                self._heard = time.monotonic()
            except (RuntimeError, TimeoutError):
                client = None

    def quorum(self, said: Mapping[str, Any]) -> Quorum:
        """Waits for the others who come to the next meeting.

        Args:
            said: what this worker says of itself; JSON.

        Returns:
            Who has come, this worker among them. `CommunicationError` is raised if the lighthouse
            is out of reach for too long.
        """
        self.start()
        while True:
            answer = _Answer(lambda: self._ask(said))
            while not answer.done.wait(1.0):
                self._check_heard(answer.error)
            if answer.found is not None:
                self._heard = time.monotonic()
                return answer.found
            self._client = None
            self._check_heard(answer.error)
            self._stop.wait(HEARTBEAT_SECONDS)

    def _ask(self, said: Mapping[str, Any]) -> Quorum:
        if self._client is None:
            self._client = self._make(f"http://{self._address}", _CONNECT)
        found = self._client.quorum(replica_id=self._name, timeout=_LONGEST, data=dict(said))
        created = found.created
        name = f"{created.seconds:012d}.{created.nanos:09d}.{found.quorum_id}"
        return Quorum(name, [member.data for member in found.participants])

    def _check_heard(self, error: Exception | None) -> None:
        silent = time.monotonic() - self._heard
        if silent > self._wait:
            why = "" if error is None else f" ({str(error).splitlines()[0]})"
            raise CommunicationError(
                f"the lighthouse at {self._address} has been out of reach for {silent:.0f} s, "
                f"longer than wait allows{why}; nothing is lost: save a checkpoint, start it again "
                "there, and resume"
            ) from error


class _Answer:
    """A call in a thread of its own, since it can't be broken off."""

    def __init__(self, call: Callable[[], Quorum]) -> None:
        self.found: Quorum | None = None
        self.error: Exception | None = None
        self.done = Event()
        self._call = call
        Thread(target=self._run, name="grawa quorum", daemon=True).start()

    def _run(self) -> None:
        try:
            self.found = self._call()
        except Exception as error:  # whatever it is, the caller says so
            self.error = error
        self.done.set()


def _milliseconds(time: timedelta) -> int:
    return max(1, round(time.total_seconds() * 1e3))
