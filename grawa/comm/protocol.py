"""What a strategy, and the driver, ask of whatever carries the traffic between workers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from grawa.math.leaves import Leaves, Stack


class Team(NamedTuple):
    """Some of all workers, with a communicator of their own."""

    workers: slice
    """Which of the N workers."""
    hosted: slice
    """Which of the K hosted workers."""
    comm: "Communicator"


class Communicator(Protocol):
    """All traffic between N workers, K of which are hosted by this process.

    Every method is collective: each process calls it, in the same order. A call that can't be
    finished within the communicator's timeout raises `CommunicationError`.
    """

    @property
    def num_workers(self) -> int:
        """N."""
        ...

    @property
    def num_hosted(self) -> int:
        """K."""
        ...

    @property
    def num_processes(self) -> int:
        """P = N / K."""
        ...

    @property
    def process(self) -> int:
        """Which of them this is; it hosts workers K process to K process + K - 1."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload that have been sent, per hosted worker."""
        ...

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Makes a flat tensor for what is to be averaged, where that is fastest; uninitialised.

        Args:
            size: in elements; each process asks for as many, in the same order.
            dtype: of the elements.
            device: where it is to be.

        Returns:
            (size,).
        """
        ...

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """Starts to bring every worker's row to every process.

        Args:
            rows: (K, C).

        Returns:
            A function that waits for the rows and returns them: (N, C), float64, on the CPU.
        """
        ...

    def hosted(self, rows: Tensor) -> Tensor:
        """The hosted workers' part of what was gathered: (N, C) -> (K, C)."""
        ...

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """Sum over all N workers of weight times row, divided by the sum of the weights.

        A row with weight zero contributes exactly nothing, also when it holds NaN; equal rows
        give that row bit for bit; every process ends with the same bits.

        Args:
            rows: name -> (K, *shape).
            weights: (N, L) for L leaves or (N, 1) for all of them, float64, on the CPU, the same
                on every process; not negative, each column with a positive sum.
            out: where to put the mean, overwritten; may not share memory with `rows`.

        Returns:
            `out`, or new leaves.
        """
        ...

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """Sends a buffer to each process, and receives one from each.

        Args:
            outgoing: P buffers, uint8, contiguous; the own one stays.
            incoming: P buffers of the sizes that the others send; the own one is left alone.
            sent: bytes to count for it, of all hosted workers together.
            most: bytes that the busiest of all workers sends, which decide how long it takes.
        """
        ...

    def count(self, steps: int) -> int:
        """Adds to a count that all processes share. Not collective: nobody waits.

        Args:
            steps: how many local steps to add.

        Returns:
            The count, with everything that was added until now.
        """
        ...

    def split(self, size: int) -> Sequence[Team]:
        """The teams of `size` consecutive workers in which this process hosts workers.

        The communicators are made by the first call for a size, which is collective, and kept.

        Raises:
            UserError: if the workers can't be split so.
        """
        ...
