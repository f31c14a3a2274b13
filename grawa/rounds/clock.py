"""What time it is for the workers."""

import time
from typing import Any, Protocol

from grawa.comm.protocol import Transport


class Clock(Protocol):
    """What time it is for the hosted workers; in seconds since the start, averaged over them."""

    @property
    def individual(self) -> bool:
        """Whether each hosted worker has a time of its own, by which it is its turn to step."""
        ...

    def meter(self, comm: Transport) -> Transport:
        """The communicator to use, so that the clock learns of what it does."""
        ...

    def now(self) -> float:
        """The time."""
        ...

    def stepped(self, workers: slice) -> None:
        """These hosted workers have made a local step."""
        ...

    def scored(self) -> None:
        """The hosted workers have found out what they report in a round."""
        ...

    def joined(self) -> float:
        """All workers have joined a round; when the last one did."""
        ...

    def finished(self) -> float:
        """The round is over; when it was."""
        ...

    def arrive(self, moment: float) -> None:
        """The hosted workers wait until then, if it is not past."""
        ...

    def disregard(self) -> None:
        """What was sent since the last round is not to count: it serves no training."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that time goes on from here."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        ...


class WallClock:
    """The wall's time, which passes by itself.

    >>> clock = WallClock()
    >>> clock.now() <= clock.joined() <= clock.finished() < 60.0
    True
    """

    individual = False

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def meter(self, comm: Transport) -> Transport:
        """The same communicator: its time is seen on the wall."""
        return comm

    def now(self) -> float:
        """See `Clock.now`."""
        return time.perf_counter() - self._start

    def stepped(self, workers: slice) -> None:
        """The step took its time."""

    def scored(self) -> None:
        """That took its time."""

    def joined(self) -> float:
        """Now."""
        return self.now()

    def finished(self) -> float:
        """Now."""
        return self.now()

    def arrive(self, moment: float) -> None:
        """A moment that is over can't be waited for."""

    def disregard(self) -> None:
        """It took its time."""

    def state_dict(self) -> dict[str, Any]:
        """See `Clock.state_dict`."""
        return {"now": self.now()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Clock.load_state_dict`."""
        self._start = time.perf_counter() - state["now"]
