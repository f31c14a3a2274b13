"""All workers in this process: for simulations, tests, and a run without a process group."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grawa.comm.carrier import Alone
from grawa.comm.compression import Compression
from grawa.comm.exchange import checked_weights
from grawa.comm.levels import OneLevel
from grawa.comm.plan import Plan, plan_of
from grawa.comm.protocol import TeamTransport
from grawa.comm.rows import (
    checked_active,
    distances_of,
    flat_form,
    reduce_rows,
    squares_by_section,
)
from grawa.errors import UserError
from grawa.math.columns import RowFunction
from grawa.math.leaves import Form, Leaves, Stack


class InProcessCommunicator:
    """The transport of N workers that are all hosted here (K = N); nothing is sent.

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
        self._teams: dict[int, list[TeamTransport]] = {}

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
    def arrangement(self) -> str:
        """See `Transport.arrangement`."""
        return f"{self._num_workers} in one process"

    @property
    def bytes_sent(self) -> int:
        """What one of N processes with a worker each would have sent by now, on average."""
        teams = [team.transport for split in self._teams.values() for team in split]
        in_teams = sum(team.bytes_sent * team.num_workers for team in teams)
        return (self._bytes + in_teams) // self._num_workers

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """The rows themselves, on the CPU."""
        gathered = rows.detach().resolve_conj().resolve_neg().to("cpu", copy=True)
        self._bytes += self._num_workers * (self._num_workers - 1) * rows[0].nbytes
        return lambda: gathered

    def hosted(self, rows: Tensor) -> Tensor:
        """All of them."""
        return rows

    @torch.no_grad()
    def weighted_mean(
        self,
        rows: Stack,
        weights: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.weighted_mean`."""
        lists = checked_weights(rows, weights)
        mean = Leaves.like(rows) if out is None else out
        levels = OneLevel(Alone())
        coded = levels.weighted_mean(self._num_workers, rows, lists, mean, compression)
        self._bytes += coded or self._bytes_of_mean(mean, lists)
        return mean

    def _bytes_of_mean(self, mean: Leaves, weights: list[list[float]]) -> int:
        """What N processes would send; where one alone has weight, it sends to the owners."""
        if sum(any(own) for own in weights) == 1:
            return sum(flat.nbytes for flat in mean.flats) * (self._num_workers - 1)
        return plan_of(mean.form, self._num_workers).bytes_sent_by_all(weights)

    @torch.no_grad()
    def reduce_rows(
        self,
        rows: Stack,
        function: RowFunction,
        active: Tensor,
        out: Leaves | None = None,
        compression: Compression | None = None,
    ) -> Leaves:
        """See `Transport.reduce_rows`."""
        taking_part = checked_active(rows, active)
        found = Leaves.like(rows) if out is None else out
        coded = reduce_rows(Alone(), rows, function, taking_part, found, compression)
        plan = self._plan_of_rows(found.form)
        self._bytes += coded or plan.bytes_sent_by_all(_weights(taking_part, found.form))
        return found

    @torch.no_grad()
    def pairwise_distances(self, rows: Stack, active: Tensor) -> Tensor:
        """See `Transport.pairwise_distances`."""
        taking_part = checked_active(rows, active)
        squares, _ = squares_by_section(Alone(), rows, taking_part)
        # On the device "meta", since only the form is needed, and not the memory.
        form = Leaves.like({name: values.to("meta") for name, values in rows.items()}).form
        self._bytes += self._plan_of_rows(form).bytes_of_rows(_weights(taking_part, form))
        return distances_of(self.gather(squares)(), active)

    def _plan_of_rows(self, form: Form) -> Plan:
        """How N processes with a worker each would exchange rows."""
        return plan_of(flat_form(form), self._num_workers)

    def count(self, steps: int) -> int:
        """See `Transport.count`; exact here."""
        self._count += steps
        return self._count

    def reset_count(self, steps: int) -> None:
        """See `Transport.reset_count`."""
        self._count = steps

    def split(self, size: int) -> Sequence[TeamTransport]:
        """See `Transport.split`."""
        if size not in self._teams:
            check_split(self._num_workers, size)
            self._teams[size] = [
                TeamTransport(slice(i, i + size), slice(i, i + size), InProcessCommunicator(size))
                for i in range(0, self._num_workers, size)
            ]
        return self._teams[size]

    def release(self) -> None:
        """See `Transport.release`; nothing is held."""


def _weights(active: Sequence[bool], form: Form) -> list[list[float]]:
    """Of each worker in each flat tensor."""
    return [[float(its)] * len(form.flats) for its in active]


def check_split(num_workers: int, size: int) -> None:
    """Refuses teams that leave workers over."""
    if not 1 <= size <= num_workers or num_workers % size:
        raise UserError(f"{num_workers} workers can't be split into teams of {size}")
