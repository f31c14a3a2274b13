"""Which files a checkpoint has, and who writes which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine

FORMAT = 1
"""Version of checkpoints; raised when a file changes its meaning."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The files of a checkpoint, as one process sees them.

    A worker's model and optimizers are in a file of its own, so that its number and not its process
    tells where to look; what is the same on all workers is there once.

    Args:
        process: which one this is.
        processes: how many there are.
        part: which of the processes of a worker this is.
        parts: how many a worker has.
        hosted: the numbers of the workers of this process.
        workers: N.
    """

    process: int
    processes: int
    part: int
    parts: int
    hosted: Sequence[int]
    workers: int

    @classmethod
    def of(cls, engine: Engine, agreement: Agreement) -> "Layout":
        """Of a checkpoint that is saved or restored here."""
        comm = engine.comm
        first = comm.process * comm.num_hosted
        return cls(
            process=agreement.process,
            processes=agreement.num_processes,
            part=agreement.part,
            parts=agreement.parts,
            hosted=range(first, first + comm.num_hosted),
            workers=comm.num_workers,
        )

    def counts(self) -> dict[str, int]:
        """How many there are of what, for the manifest."""
        return {
            "workers": self.workers,
            "processes": self.processes,
            "processes per worker": self.parts,
        }

    def was(self, manifest: Mapping[str, Any]) -> "Layout | None":
        """That of the process of this number when a checkpoint was saved.

        Args:
            manifest: of the checkpoint.

        Returns:
            The layout; `None` if the manifest's numbers can't be.
        """
        counts = [manifest.get(name) for name in self.counts()]
        if not all(type(count) is int and count > 0 for count in counts):
            return None
        workers, processes, parts = (int(str(count)) for count in counts)
        if processes % parts or workers % (processes // parts):
            return None
        hosted = workers * parts // processes
        first = self.process // parts * hosted
        return replace(
            self,
            processes=processes,
            parts=parts,
            hosted=range(first, first + hosted),
            workers=workers,
        )

    def __str__(self) -> str:
        """Such as "4 workers in 2 processes"."""
        return f"{_many(self.workers, 'worker')} in {_many(self.processes, 'process', 'es')}"

    def process_of(self, worker: int) -> int:
        """The process with this part of a worker."""
        return worker // len(self.hosted) * self.parts + self.part

    def worker_file(self, worker: int) -> str:
        """The name of the file with this process's part of a worker."""
        return f"worker-{worker}{self._suffix}.pt"

    def process_file(self, process: int) -> str:
        """The name of the file with what belongs to a process: counts, random state, extra."""
        return f"process-{process}.pt"

    @property
    def shared_file(self) -> str:
        """The name of the file with what is the same on all workers, such as the center."""
        return f"shared{self._suffix}.pt"

    @property
    def _suffix(self) -> str:
        return f"-part-{self.part}" if self.parts > 1 else ""

    def words(self, name: str) -> str:
        """What a file holds, for people."""
        kind, _, number = name.removesuffix(".pt").partition("-")
        texts = {
            "worker": f"model and optimizers of worker {number}",
            "process": f"counts, scores, random state and extra of process {number}",
        }
        return texts.get(kind, "what is the same on all workers")


def _many(count: int, word: str, plural: str = "s") -> str:
    return f"{count} {word}{'' if count == 1 else plural}"
