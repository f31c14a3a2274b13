"""All workers in this process: for simulations, tests, and a run without a process group."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grawa.comm.plan import plan_of
from grawa.comm.protocol import Team
from grawa.errors import DivergedError, UserError
from grawa.math.leaves import Leaves, Stack, private
from grawa.math.mean import RunningMean


class InProcessCommunicator:
    """The communicator of N workers that are all hosted here (K = N); nothing is sent.

    Args:
        num_workers: N.

    Raises:
        ValueError: if there is no worker.

    >>> comm = InProcessCommunicator(2)
    >>> rows = {"x": torch.tensor([[1.0], [3.0]])}
    >>> comm.weighted_mean(rows, torch.tensor([[0.5], [0.5]]))["x"]
    tensor([2.])
    """

    def __init__(self, num_workers: int) -> None:
        if num_workers < 1:
            raise ValueError(f"there must be at least one worker, got {num_workers}")
        self._num_workers = num_workers
        self._bytes = 0
        self._count = 0
        self._teams: dict[int, list[Team]] = {}

    @property
    def num_workers(self) -> int:
        """N."""
        return self._num_workers

    @property
    def num_hosted(self) -> int:
        """K, which is N here."""
        return self._num_workers

    @property
    def num_processes(self) -> int:
        """One."""
        return 1

    @property
    def process(self) -> int:
        """The only one."""
        return 0

    @property
    def bytes_sent(self) -> int:
        """What one of N processes with a worker each would have sent by now, on average."""
        teams = [team for split in self._teams.values() for team in split]
        in_teams = sum(team.comm.bytes_sent * team.comm.num_workers for team in teams)
        return (self._bytes + in_teams) // self._num_workers

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """See `Communicator.allocate`."""
        return private(size, dtype, device)

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """The rows themselves, on the CPU in float64."""
        gathered = rows.detach().to("cpu", torch.float64)
        self._bytes += self._num_workers * (self._num_workers - 1) * rows[0].numel() * 8
        return lambda: gathered

    def hosted(self, rows: Tensor) -> Tensor:
        """All of them."""
        return rows

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """See `Communicator.weighted_mean`."""
        mean = Leaves.like(rows, multiple=self._num_workers) if out is None else out
        per_leaf = weights_per_leaf(weights, len(rows))
        mean_of_rows(rows, per_leaf, mean)
        self._bytes += plan_of(mean, self._num_workers).bytes_sent_by_all(per_leaf)
        return mean

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """Nobody is there to exchange with; the bytes count."""
        self._bytes += sent

    def count(self, steps: int) -> int:
        """See `Communicator.count`."""
        self._count += steps
        return self._count

    def split(self, size: int) -> Sequence[Team]:
        """See `Communicator.split`."""
        if size not in self._teams:
            check_split(self._num_workers, size)
            self._teams[size] = [
                Team(slice(i, i + size), slice(i, i + size), InProcessCommunicator(size))
                for i in range(0, self._num_workers, size)
            ]
        return self._teams[size]


def check_split(num_workers: int, size: int) -> None:
    """Refuses teams that leave workers over."""
    if not 1 <= size <= num_workers or num_workers % size:
        raise UserError(f"{num_workers} workers can't be split into teams of {size}")


def weights_per_leaf(weights: Tensor, num_leaves: int) -> list[list[float]]:
    """Weights as Python numbers, one for each leaf.

    Args:
        weights: (N, L) or (N, 1).
        num_leaves: L.

    Returns:
        N lists of L numbers.

    Raises:
        DivergedError: if a weight is not finite.
        ValueError: if a weight is negative, or a column has no positive one.
    """
    if not bool(torch.isfinite(weights).all()):
        raise DivergedError(
            f"a worker's weight is not finite, because its score is not: {weights.tolist()}; the "
            "guard keeps such workers out"
        )
    if bool((weights < 0).any()) or not bool((weights.sum(dim=0) > 0).all()):
        raise ValueError(
            "weights must not be negative, and each column needs a positive sum, got "
            f"{weights.tolist()}"
        )
    lists: list[list[float]] = weights.expand(-1, num_leaves).tolist()
    return lists


def mean_of_rows(rows: Stack, weights: list[list[float]], out: Leaves) -> None:
    """The weighted mean of the rows of one stack, into `out`; a column without weight is left."""
    mean = RunningMean(list(out.values()))
    by_worker = zip(*(leaf.unbind(0) for leaf in rows.values()), strict=True)
    for row, row_weights in zip(by_worker, weights, strict=True):
        mean.add(row, row_weights)
