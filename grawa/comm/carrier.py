"""How sections of a mean get from one process to another: by messages, or through memory."""

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from grawa.comm.plan import Run


class Carrier(Protocol):
    """Carries small rows to everyone, and the two phases of a mean: see `grawa.comm.plan`."""

    @property
    def num_processes(self) -> int:
        """P."""
        ...

    @property
    def process(self) -> int:
        """Which of them this is."""
        ...

    @property
    def most_bytes(self) -> int | None:
        """How much of a mean is exchanged at a time; `None` for all of it."""
        ...

    @property
    def name(self) -> str:
        """What messages go by, such as "gloo" or "shared memory"."""
        ...

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """Starts to bring every process's bytes to all.

        Args:
            own: (C,), uint8; as many on every process.

        Returns:
            A function that waits for them: (P, C).
        """
        ...

    def staging(self, spare: Sequence[Tensor]) -> list[Tensor]:
        """Flat tensors in which to write what is to leave.

        Args:
            spare: flat tensors that may be used for it; their forms are the same everywhere.

        Returns:
            These, or others of their forms.
        """
        ...

    def rows(
        self,
        staged: Sequence[Tensor],
        leaving: Sequence[Sequence[Run]],
        arriving: Sequence[Sequence[Run]],
    ) -> list[list[Tensor]]:
        """Phase one: sends each process's rows to the owners of sections.

        Args:
            staged: as `staging` gave them, with what leaves written in them.
            leaving: for each process, the runs that it is to get.
            arriving: for each process, the runs of its staged tensors that this one is to get.

        Returns:
            For each process, the tensors of `arriving`, valid until the next call; the own ones
            are those of `staged`.
        """
        ...

    def sections(
        self, flats: Sequence[Tensor], runs: Sequence[Sequence[Run]], receivers: Sequence[int]
    ) -> None:
        """Phase two: sends the owners' sections of the mean to the others.

        Args:
            flats: of the same form on every process; the others' runs are overwritten.
            runs: for each process, what it owns.
            receivers: the processes that are to get it.
        """
        ...

    def wait_for_all(self) -> None:
        """Waits until all have read what they got; needed between two calls of the same phase."""
        ...

    def close(self) -> None:
        """Tells the others that this process will send nothing more."""
        ...


class Alone:
    """The carrier of a process that has no others."""

    num_processes = 1
    process = 0
    most_bytes = None
    name = "nothing"

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`."""
        return lambda: own.unsqueeze(0)

    def staging(self, spare: Sequence[Tensor]) -> list[Tensor]:
        """See `Carrier.staging`."""
        return list(spare)

    def rows(
        self,
        staged: Sequence[Tensor],
        leaving: Sequence[Sequence[Run]],
        arriving: Sequence[Sequence[Run]],
    ) -> list[list[Tensor]]:
        """See `Carrier.rows`."""
        return [[run.of(staged) for run in arriving[0]]]

    def sections(
        self, flats: Sequence[Tensor], runs: Sequence[Sequence[Run]], receivers: Sequence[int]
    ) -> None:
        """See `Carrier.sections`."""

    def wait_for_all(self) -> None:
        """See `Carrier.wait_for_all`."""

    def close(self) -> None:
        """See `Carrier.close`."""
