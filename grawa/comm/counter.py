"""A count that processes share, which nobody waits for."""

import time
from collections.abc import Callable
from datetime import timedelta
from threading import Condition, Thread

from grawa.comm.count_file import Counts
from grawa.errors import CommunicationError


class SharedCounter:
    """Adds steps to a count in a store, by a thread that keeps the round trips to itself.

    One request is under way at a time; steps made meanwhile leave together with the next. The
    thread starts with the first step.

    Args:
        connect: returns a connection to the processes' store that nobody else waits on, or another
            place for counts; called by the thread.
        key: of the count in the store.
        timeout: how long a request may be under way.
    """

    def __init__(self, connect: Callable[[], Counts], key: str, timeout: timedelta) -> None:
        self._connect = connect
        self._key = key
        self._timeout = timeout.total_seconds()
        self._changed = Condition()
        self._thread: Thread | None = None
        self._generation = 0
        self._counted = 0  # generation of the last request
        self._waiting = 0  # steps that have not left yet
        self._asked = False
        self._leaving = 0  # steps of the request that is under way
        self._known = 0  # what the store said last
        self._since: float | None = None  # when what has no answer yet was asked
        self._error: Exception | None = None
        self._closed = False

    def add(self, steps: int) -> int:
        """Adds steps.

        Returns:
            The count as it was when the last answer came, with all steps of this process.

        Raises:
            CommunicationError: if a request has failed, or has been under way for too long.
        """
        with self._changed:
            if why := self._trouble():
                raise CommunicationError(
                    "lost contact while trying to count local steps together: the store of the "
                    f"process group, which lives where rank 0 does or in its launcher, {why}"
                ) from self._error
            self._waiting += steps
            self._ask()
            return self._known + self._leaving + self._waiting

    def reset(self, steps: int) -> None:
        """Starts a new count, to which this process adds `steps`; each process must call it."""
        with self._changed:
            self._generation += 1
            self._known = self._leaving = 0
            self._waiting = steps
            self._ask()

    def close(self, *, wait: bool) -> None:
        """Ends the thread, once the request that is under way is answered.

        Args:
            wait: until it has ended, for as long as a request may take.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if wait and self._thread is not None:
            self._thread.join(self._timeout)

    def _trouble(self) -> str:
        """What is wrong with the store, if anything."""
        if self._error is not None:
            return f"failed ({str(self._error).splitlines()[0]})"
        waited = 0.0 if self._since is None else time.monotonic() - self._since
        if waited <= self._timeout:
            return ""
        return (
            f"has not answered for {waited:.0f} s, longer than the timeout of {self._timeout:g} s"
        )

    def _ask(self) -> None:
        self._asked = True
        if self._since is None:
            self._since = time.monotonic()
        if self._thread is None:
            # A daemon, so that a process can end while the store is silent.
            self._thread = Thread(target=self._serve, name="grawa count", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _serve(self) -> None:
        try:
            store = self._connect()
            while self._next_request(store):
                pass
        except Exception as error:  # whatever it is, the next step says so
            with self._changed:
                self._error = error

    def _next_request(self, store: Counts) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._asked or self._closed)
            if self._closed:
                return False
            generation = self._generation
            self._asked = False
            self._leaving, self._waiting = self._waiting, 0
            steps = self._leaving
        total = store.add(f"{self._key}/{generation}", steps)
        with self._changed:
            self._since = time.monotonic() if self._asked else None
            if generation == self._generation:
                self._known, self._leaving = total, 0
        if generation > self._counted:
            self._counted = generation
            store.delete_key(f"{self._key}/{generation - 2}")  # all have begun the one after it
        return True
