"""Times what encoding and decoding add to rounds between running processes."""

from collections.abc import Sequence

import torch

from grawa.comm import DistributedCommunicator
from grawa.comm.compression import Compression
from grawa.lab.planning.links import Hosts
from grawa.lab.planning.predict import WIDTHS
from grawa.lab.planning.timing import LEAST_TIMES, agreed, median_of
from grawa.lab.simulate.network import Network
from grawa.math.codec import Precision
from grawa.math.leaves import Leaves, Rows
from grawa.math.weights import uniform

LEAST_NUMBERS = 2**18
"""In an exchange; less is not worth encoding."""


class CodecProbe:
    """Times means that travel in fewer bits between all processes, as rounds do; collective.

    Processes that share cores encode at the same time, and encode while others still send. So the
    time is not that of encoding alone: it is what a mean takes longer than its messages would.

    Args:
        hosts: the ranks of each host.
        network: the links that were measured between them.
        sent: bytes that the busiest link carries in float32, over those of the parameters.
        sizes: of the parameters' tensors, in numbers.
        device: where the parameters live.
        exchange_seconds: of a mean in float32 that is timed; a part of the parameters that takes
            so long stands for all of them.
    """

    def __init__(
        self,
        hosts: Hosts,
        network: Network,
        sent: float,
        sizes: Sequence[int],
        device: torch.device,
        exchange_seconds: float,
    ) -> None:
        self._comm = DistributedCommunicator(device=device, hosts=hosts)
        self._network, self._device = network, device
        model_bytes = 4.0 * sum(sizes)
        fitting = exchange_seconds / network.busiest_seconds(sent * model_bytes)
        least = LEAST_NUMBERS / sum(sizes)
        self._part = min(1.0, max(fitting, least))
        numbers = [max(1, int(self._part * size)) for size in sizes]
        rows = {str(i): torch.zeros(1, n, device=device) for i, n in enumerate(numbers)}
        self._rows = Rows(rows.items())
        self._sent_bytes = sent * 4.0 * sum(numbers)
        self._plain = self._rest(None)

    def seconds(self, precision: Precision) -> float:
        """What encoding and decoding all parameters adds to a round, on the slowest process.

        Args:
            precision: in which they travel.

        Returns:
            Seconds.
        """
        return max(0.0, self._rest(precision) - self._plain) / self._part

    def _rest(self, precision: Precision | None) -> float:
        """Median seconds of a mean, less those of its messages."""
        compression = None
        if precision is not None:
            compression = Compression(precision, Leaves.copy_of(self._rows))
        weights = uniform(self._comm.num_workers)
        out = self._comm.weighted_mean(self._rows, weights, None, compression)

        def mean() -> None:
            self._comm.weighted_mean(self._rows, weights, out, compression)

        seconds = agreed(median_of(mean, LEAST_TIMES, self._device))
        width = WIDTHS["same" if precision is None else precision]
        return seconds - self._network.busiest_seconds(self._sent_bytes, width)

    def close(self) -> None:
        """Frees the transport; collective."""
        self._comm.release()
