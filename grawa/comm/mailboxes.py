"""The carrier of processes that share a machine: they read each other's memory."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from grawa.comm.doorbell import Doorbell
from grawa.comm.group import Group
from grawa.comm.plan import Run
from grawa.comm.shared_memory import Region


class Mailboxes:
    """Each process has a mailbox that the others read; they tell each other when.

    A mailbox has blocks of rows and of sections, in which only what leaves is ever written:
    together they take `most_bytes`, however large the model is.

    Rows of the next mean may be written once all processes have finished their sections of this
    one, and sections once all have started the next mean; so all meet twice in each. Gathers write
    to two blocks in turn: when all have called the next gather, all have read this one.

    Args:
        group: the processes.
    """

    name = "shared memory"
    most_bytes = 2**23
    """Smaller chunks cost time, since processes meet for each; larger ones save none: see
    docs/decisions.md."""

    def __init__(self, group: Group) -> None:
        self._group = group
        meet = partial(group.everyone, purpose="share memory")
        self._bell = Doorbell(group)
        self._rows, self._sections = Region(meet), Region(meet)
        self._gathered = [Region(meet), Region(meet)]
        self._staged: list[list[Tensor]] = []

    @property
    def num_processes(self) -> int:
        """P."""
        return len(self._group.members)

    @property
    def process(self) -> int:
        """Which of them this is."""
        return self._group.process

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`."""
        self._gathered.reverse()
        everyone = [box for (box,) in self._gathered[0].flats([own])]
        everyone[self.process].copy_(own)
        times = self._bell.ring()

        def wait() -> Tensor:
            self._bell.wait(times, "gather rows")
            return torch.stack(everyone)

        return wait

    def staging(self, spare: Sequence[Tensor]) -> list[Tensor]:
        """See `Carrier.staging`."""
        self._staged = self._rows.flats(spare)
        return self._staged[self.process]

    def rows(
        self,
        staged: Sequence[Tensor],
        leaving: Sequence[Sequence[Run]],
        arriving: Sequence[Sequence[Run]],
    ) -> list[list[Tensor]]:
        """See `Carrier.rows`."""
        self._bell.meet("average parameters")
        return [
            [run.of(flats) for run in runs]
            for runs, flats in zip(arriving, self._staged, strict=True)
        ]

    def sections(
        self, flats: Sequence[Tensor], runs: Sequence[Sequence[Run]], receivers: Sequence[int]
    ) -> None:
        """See `Carrier.sections`."""
        boxes = self._sections.flats(flats)
        me = self.process
        _copy([run.of(boxes[me]) for run in runs[me]], [run.of(flats) for run in runs[me]])
        self._bell.meet("share the average")
        if me in receivers:
            for peer in self._group.peers():
                _copy(
                    [run.of(flats) for run in runs[peer]],
                    [run.of(boxes[peer]) for run in runs[peer]],
                )

    def wait_for_all(self) -> None:
        """See `Carrier.wait_for_all`."""
        self._bell.meet("average parameters")

    def close(self) -> None:
        """See `Carrier.close`."""
        self._bell.close()


def _copy(places: list[Tensor], values: list[Tensor]) -> None:
    if places:
        torch._foreach_copy_(places, values)
