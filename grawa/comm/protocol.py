"""What a strategy, and the driver, ask of whatever carries the traffic between workers."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from grawa.comm.compression import Compression
from grawa.math.columns import RowFunction
from grawa.math.leaves import Leaves, Stack
from grawa.math.norms import Norms


class Communicator(Protocol):
    """What a strategy sees of the other workers in a round.

    Every method is collective: each process calls it, in the same order.
    """

    @property
    def num_workers(self) -> int:
        """N, including workers that are left out of this round."""
        ...

    @property
    def active(self) -> Tensor:
        """True for the workers that take part in this round: (N,), bool, on the CPU."""
        ...

    @property
    def shares(self) -> Tensor:
        """How much each worker counts, before the weights of a method: (N,), float64, on the CPU.

        They sum to 1 over the workers that take part, and are zero for the others. They are equal
        unless workers are weighted by steps or samples; `weighted_mean` applies them by itself.
        """
        ...

    @property
    def norms(self) -> Norms:
        """Computes the L2 norms of hosted workers, over all shards if they are sharded."""
        ...

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """Sum over the workers that take part of weight times row, over the sum of the weights.

        Where workers count by steps or samples, the weights are multiplied by `shares`. A row with
        weight zero contributes exactly nothing, also when it holds NaN; equal rows give that row
        bit for bit; every process ends with the same bits.

        Args:
            rows: name -> (K, *shape).
            weights: (N, L) for L leaves or (N, 1) for all of them, float64, on the CPU, the same
                on every process; not negative, each column with a positive sum. A worker that is
                left out has weight zero, whatever is given here.
            out: where to put the mean, overwritten; may not share memory with `rows`.

        Returns:
            `out`, or new leaves.
        """
        ...

    def reduce_rows(self, rows: Stack, function: RowFunction, out: Leaves | None = None) -> Leaves:
        """Applies a function to the values that the workers have for each parameter.

        For what is no weighted mean, such as a median: `comm.reduce_rows(params, median)`, with
        `grawa.math.order.median`. It costs about as much as a mean, but between hosts that
        have W workers each W times as much, since no host can begin alone.

        Args:
            rows: name -> (K, *shape).
            function: (M, C) -> (C,), with a row for each of the M workers that take part, in the
                order of workers, and a column for each of some numbers of the model. It may be
                called often, with other columns each time and in several processes, so what it
                makes of a column must not depend on the others. 16-bit rows come as float32.
            out: where to put the result, overwritten; may not share memory with `rows`.

        Returns:
            `out`, or new leaves; the same bits on every process.

        Raises:
            UserError: if the function returns anything but one number for each column.
        """
        ...

    def pairwise_distances(self, rows: Stack) -> Tensor:
        """The L2 distances between the workers' rows, over all leaves, and over all shards.

        For what chooses among workers, such as Krum: one that is chosen is then a `weighted_mean`
        with a one-hot weight. The rows are sent as they are, whatever `comm_dtype` is: half the
        bytes of a mean, and between hosts as for `reduce_rows`.

        Args:
            rows: name -> (K, *shape).

        Returns:
            (N, N), float64, on the CPU, the same bits on every process. Zero on the diagonal;
            infinite for a worker that is left out, and where a distance is not finite.
        """
        ...

    def leaf_distances(self, leaves: Leaves, others: Leaves) -> Tensor:
        """The L2 distance between each two leaves, over all shards.

        Processes may add the squares up in different orders, so they take the numbers of one: each
        sends one for each leaf.

        Args:
            leaves: the same on every process.
            others: of the same names and shapes, the same on every process.

        Returns:
            (L,), float64, on the CPU, the same bits on every process.
        """
        ...

    def split(self, size: int) -> "Sequence[Team]":
        """The teams of `size` consecutive workers in which this process hosts workers.

        Teams in which no worker takes part are left out.

        Raises:
            UserError: if the workers can't be split so.
        """
        ...


class Team(NamedTuple):
    """Some of all workers, with a communicator of their own."""

    workers: slice
    """Which of the N workers."""
    hosted: slice
    """Which of the K hosted workers."""
    comm: Communicator


class Transport(Protocol):
    """All traffic between N workers, K of which are hosted by this process.

    Every method is collective, `count` and `reset_count` aside. A call that can't be finished
    within the transport's timeout raises `CommunicationError`.
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
    def arrangement(self) -> str:
        """How the workers reach each other, in words for users."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload that have been sent, per hosted worker."""
        ...

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """Starts to bring every worker's row to every process.

        Args:
            rows: (K, C), of any dtype.

        Returns:
            A function that waits for the rows and returns them: (N, C), of the same dtype and
            bit for bit, on the CPU.
        """
        ...

    def hosted(self, rows: Tensor) -> Tensor:
        """The hosted workers' part of what was gathered: (N, C) -> (K, C)."""
        ...

    def weighted_mean(
        self,
        rows: Stack,
        weights: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Communicator.weighted_mean`; over all workers.

        Args:
            rows: name -> (K, *shape).
            weights: (N, L) or (N, 1).
            out: where to put the mean.
            compression: sends differences from the last mean in fewer bits; the same object for
                means of the same rows, since it keeps that mean.

        Returns:
            `out`, or new leaves.

        Raises:
            DivergedError: if a weight, or a mean that travels in fewer bits, is not finite.
            UserError: if a row is of a dtype that can't be averaged.
        """
        ...

    def reduce_rows(
        self,
        rows: Stack,
        function: RowFunction,
        active: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Communicator.reduce_rows`.

        Args:
            rows: name -> (K, *shape).
            function: of columns.
            active: who takes part, (N,).
            out: where to put the result.
            compression: as for `weighted_mean`, but for results of the function.

        Returns:
            `out`, or new leaves.

        Raises:
            DivergedError: if a result that travels in fewer bits is not finite.
            UserError: if a row is of a dtype that can't be averaged.
        """
        ...

    def pairwise_distances(self, rows: Stack, active: Tensor) -> Tensor:
        """See `Communicator.pairwise_distances`; without those over other shards.

        Args:
            rows: name -> (K, *shape).
            active: who takes part, (N,).

        Returns:
            (N, N), float64, on the CPU.

        Raises:
            UserError: if a row is of a dtype that can't be averaged.
        """
        ...

    def count(self, steps: int) -> int:
        """Adds to a count that all processes share; never waits for the others.

        Args:
            steps: how many local steps to add.

        Returns:
            The count, as far as this process knows it, with its own steps.

        Raises:
            CommunicationError: if the count has been out of reach for longer than the timeout.
        """
        ...

    def reset_count(self, steps: int) -> None:
        """Starts the count anew; every process must call it as often as the others.

        Args:
            steps: what this process adds to the new count, which starts at zero.
        """
        ...

    def split(self, size: int) -> "Sequence[TeamTransport]":
        """The teams of `size` consecutive workers in which this process hosts workers.

        The transports are made by the first call for a size, which is collective, and kept.

        Raises:
            UserError: if the workers can't be split so.
        """
        ...

    def release(self) -> None:
        """Gives back what it holds, for the next transport between the same processes.

        Call it on all processes, after the last message has arrived. Whoever uses it afterwards
        connects again, on all processes; the count of `count` then starts anew.
        """
        ...


class TeamTransport(NamedTuple):
    """Some of all workers, with a transport of their own."""

    workers: slice
    """Which of the N workers."""
    hosted: slice
    """Which of the K hosted workers."""
    transport: Transport
