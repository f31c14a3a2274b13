"""Times messages over a link."""

import torch

from grawa.comm import DistributedCommunicator
from grawa.lab.planning.timing import LEAST_TIMES, agreed, median_of
from grawa.lab.simulate.network import Link

EXCHANGE_SECONDS = 0.3
"""Of an exchange that is timed, if `MOST_BYTES` take so long; also of all small messages. A link
may let a megabyte pass at once after a pause, beside which this must be long."""

LEAST_BYTES = 2**20
MOST_BYTES = 2**24
"""That a host exchanges at a time."""

MOST_EXCHANGES = 20
MOST_MESSAGES = 200


class LinkProbe:
    """Times messages of one of several transports that share a link.

    Args:
        comm: this process's transport.
        device: where the parameters live.
        inside: between the processes of this host, which use the link too, if there are others.
        place: of this process among them.
        sharing: how many transports share the link.
    """

    def __init__(
        self,
        comm: DistributedCommunicator,
        device: torch.device,
        inside: DistributedCommunicator | None = None,
        place: int = 0,
        sharing: int = 1,
    ) -> None:
        self._comm, self._device = comm, device
        self._inside, self._place, self._sharing = inside, place, sharing
        self._row = torch.zeros(1, 1, device=device)

    def link(self, exchange_seconds: float) -> Link:
        """The link of a mesh that would take the same times; the same on every process."""
        latency = self._latency(exchange_seconds)
        num_bytes, took = LEAST_BYTES, self._exchange(LEAST_BYTES, 1)
        while took < exchange_seconds / 2 and num_bytes < MOST_BYTES:
            num_bytes *= 4
            took = self._exchange(num_bytes, 1)
        fitting = num_bytes * exchange_seconds / took
        num_bytes = int(min(max(fitting, LEAST_BYTES), MOST_BYTES))
        times = _times(LEAST_TIMES * exchange_seconds / took, MOST_EXCHANGES)
        seconds = self._exchange(num_bytes, times)
        sent = 2 * (self._comm.num_workers - 1) / self._comm.num_workers * num_bytes
        return Link(sent / max(seconds - 2 * latency, 1e-9), latency)

    def _latency(self, seconds: float) -> float:
        """Of small rows that the processes of the first place gather, while the others wait."""

        def median(times: int) -> float:
            first = self._place == 0
            return agreed(median_of(self._gather, times, self._device) if first else 0.0)

        return median(_times(seconds / median(LEAST_TIMES), MOST_MESSAGES))

    def _gather(self) -> None:
        self._comm.gather(self._row)()

    def _exchange(self, num_bytes: int, times: int) -> float:
        """Median seconds in which all transports together take the mean of so many bytes."""
        own_bytes = num_bytes // self._sharing
        rows = {"x": torch.zeros(1, own_bytes // 4, device=self._device)}
        workers = self._comm.num_workers
        equal = torch.full((workers, 1), 1.0 / workers, dtype=torch.float64)
        out = self._comm.weighted_mean(rows, equal)

        def exchange() -> None:
            self._comm.weighted_mean(rows, equal, out)
            if self._inside is not None:
                self._inside.gather(self._row)()

        return agreed(median_of(exchange, times, self._device))


def _times(fitting: float, most: int) -> int:
    """How often to repeat what would fit so many times."""
    return int(min(max(fitting, LEAST_TIMES), most))
