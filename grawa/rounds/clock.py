"""Clocks that time the workers: by the wall, or in the laboratory by a model of the machines."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from grawa.comm.protocol import Transport


class Clock(Protocol):
    """The hosted workers' time: seconds since the start, averaged over them."""

    @property
    def individual(self) -> bool:
        """Whether each hosted worker has its own time, and the one that is earliest steps next."""
        ...

    @property
    def by_worker(self) -> Sequence[str]:
        """Entries of the state that have a value for each hosted worker."""
        ...

    def meter(self, comm: Transport) -> Transport:
        """Wraps a communicator so that the clock can time its messages."""
        ...

    def now(self) -> float:
        """The current time."""
        ...

    def stepped(self, workers: slice) -> None:
        """Called when these hosted workers have made a local step."""
        ...

    def scored(self) -> None:
        """Called when the hosted workers have computed their scores for a round."""
        ...

    def joined(self) -> float:
        """Called when all workers have joined a round; returns when the last one did."""
        ...

    def finished(self) -> float:
        """Called when a round is over; returns when it ended."""
        ...

    def arrive(self, moment: float) -> None:
        """Makes the hosted workers wait until that time, if it is not past."""
        ...

    def disregard(self) -> None:
        """Ignores messages since the last round that were not part of training."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that time continues from here."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        ...


class WallClock:
    """Wall-clock time.

    >>> clock = WallClock()
    >>> clock.now() <= clock.joined() <= clock.finished() < 60.0
    True
    """

    individual = False
    by_worker: Sequence[str] = ()

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def meter(self, comm: Transport) -> Transport:
        """The same communicator: wall-clock time includes its messages already."""
        return comm

    def now(self) -> float:
        """See `Clock.now`."""
        return time.perf_counter() - self._start

    def stepped(self, workers: slice) -> None:
        """Nothing to do: the step has taken wall-clock time already."""

    def scored(self) -> None:
        """Nothing to do, as for `stepped`."""

    def joined(self) -> float:
        """Now."""
        return self.now()

    def finished(self) -> float:
        """Now."""
        return self.now()

    def arrive(self, moment: float) -> None:
        """Nothing to do: that time is past already."""

    def disregard(self) -> None:
        """Nothing to do: wall-clock time can't be given back."""

    def state_dict(self) -> dict[str, Any]:
        """See `Clock.state_dict`."""
        return {"now": self.now()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Clock.load_state_dict`."""
        self._start = time.perf_counter() - state["now"]
