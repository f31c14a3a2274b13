"""A clock that computes how long local steps and rounds would take, instead of measuring it."""

import math
import random
from collections.abc import Sequence
from typing import Any

from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.lab.simulate.metered import Metered
from grawa.lab.simulate.network import Link, Topology, network_of

_MOST = 1e9
"""Of a speed; more, or less than its inverse, makes times that can't be written down."""


class VirtualClock:
    """Computed time: local steps have a given duration, and rounds that of their messages.

    Training itself is real; only time is modelled. A round takes as long as its messages over the
    modelled network; the computation in it is not counted. One process must host all workers.

    Args:
        step_time: seconds of a local step at speed 1.
        score_time: seconds in which a worker computes its score before a round, at speed 1, such as
            those of a probe's pass.
        speeds: of the workers; one with speed 0.5 takes twice as long. `None` for equal speeds.
        jitter: standard deviation of a step's duration over its mean; durations are log-normal.
        link: between workers, or between hosts; `None` for messages that take no time.
        topology: "ring", "mesh" or "star".
        hosts: hosts x workers on each, such as "2x4", if several workers share a host.
        inner_link: between the workers of a host; `None` for messages that take no time there.
        seed: of the jitter.

    Raises:
        UserError: if a value is out of range.

    >>> clock = VirtualClock(0.1, speeds=[1.0, 0.5])
    >>> from grawa.comm import InProcessCommunicator
    >>> _ = clock.meter(InProcessCommunicator(2))
    >>> clock.stepped(slice(None))
    >>> clock.times
    [0.1, 0.2]
    """

    individual = True
    by_worker: Sequence[str] = ("times", "lengths")

    def __init__(
        self,
        step_time: float,
        *,
        score_time: float = 0.0,
        speeds: Sequence[float] | None = None,
        jitter: float = 0.0,
        link: Link | None = None,
        topology: Topology = "ring",
        hosts: str | None = None,
        inner_link: Link | None = None,
        seed: int = 0,
    ) -> None:
        if not 0.0 < step_time < math.inf:
            raise UserError(f"the time of a step must be positive, got {step_time} s")
        if not 0.0 <= score_time < math.inf:
            raise UserError(f"the time of a score must not be negative, got {score_time} s")
        if speeds is not None and not all(0.0 < speed < math.inf for speed in speeds):
            raise UserError(f"speeds must be positive, got {list(speeds)}")
        if speeds is not None and not all(1.0 / _MOST <= speed <= _MOST for speed in speeds):
            raise UserError(f"speeds must lie between 1e-9 and 1e9, got {list(speeds)}")
        if not 0.0 <= jitter < math.inf:
            raise UserError(f"jitter must not be negative, got {jitter}")
        self._step_time = step_time
        self._score_time = score_time
        self._speeds = speeds
        # A log-normal factor with mean 1 and this standard deviation.
        self._sigma = math.sqrt(math.log1p(jitter * jitter))
        self._link = link
        self._topology = topology
        self._hosts, self._inner_link = hosts, inner_link
        self._random = random.Random(seed)
        self._comm: Metered | None = None
        self._free = 0.0
        self._joined = 0.0
        self._lengths: list[float] = []
        self.times: list[float] = []

    def meter(self, comm: Transport) -> Transport:
        """Wraps a communicator so that the duration of its messages is added up.

        Returns:
            The wrapper; the communicator itself without a link.

        Raises:
            UserError: if there are other processes, or another number of speeds than workers.
        """
        workers = comm.num_workers
        if comm.num_hosted < workers:
            raise UserError("a virtual clock needs all workers in one process: --processes 1")
        if self._speeds is not None and len(self._speeds) != workers:
            raise UserError(f"{workers} workers need {workers} speeds, got {len(self._speeds)}")
        self.times = [0.0] * workers
        self._lengths = [self._draw(k) for k in range(workers)]
        if self._link is None:
            return comm
        network = network_of(self._link, self._topology, workers, self._hosts, self._inner_link)
        self._comm = Metered(comm, network)
        return self._comm

    def now(self) -> float:
        """The mean of the workers' times."""
        return sum(self.times) / len(self.times)

    def next_worker(self, waiting: Sequence[bool]) -> int:
        """The worker that finishes a step next, of those that don't wait for a round.

        Args:
            waiting: whether each worker waits for a round.

        Returns:
            Its number; the smallest one if several finish at the same time.
        """
        ready = [k for k, waits in enumerate(waiting) if not waits]
        return min(ready, key=lambda k: self.times[k] + self._lengths[k])

    def stepped(self, workers: slice) -> None:
        """See `Clock.stepped`."""
        for k in range(len(self.times))[workers]:
            self.times[k] += self._lengths[k]
            self._lengths[k] = self._draw(k)

    def scored(self) -> None:
        """See `Clock.scored`."""
        for k in range(len(self.times)):
            self.times[k] += self._score_time / self._speed(k)

    def _draw(self, k: int) -> float:
        """Draws the duration of a worker's next step."""
        factor = math.exp(self._random.gauss(-(self._sigma**2) / 2, self._sigma))
        return self._step_time / self._speed(k) * factor

    def _speed(self, k: int) -> float:
        return 1.0 if self._speeds is None else self._speeds[k]

    def joined(self) -> float:
        """The time at which the last worker joined."""
        self._joined = max(self.times)
        return self._joined

    def finished(self) -> float:
        """The time at which the round's messages have arrived, after those of earlier rounds."""
        self._free = max(self._joined, self._free) + self._message_seconds()
        return self._free

    def _message_seconds(self) -> float:
        return 0.0 if self._comm is None else self._comm.take_seconds()

    def disregard(self) -> None:
        """See `Clock.disregard`."""
        self._message_seconds()

    def arrive(self, moment: float) -> None:
        """See `Clock.arrive`."""
        self.times = [max(own, moment) for own in self.times]

    def state_dict(self) -> dict[str, Any]:
        """See `Clock.state_dict`."""
        return {
            "times": list(self.times),
            "lengths": list(self._lengths),
            "free": self._free,
            "random": self._random.getstate(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Clock.load_state_dict`."""
        self.times, self._free = list(state["times"]), state["free"]
        self._lengths = list(state["lengths"])
        version, internal, gauss_next = state["random"]
        self._random.setstate((version, tuple(internal), gauss_next))
