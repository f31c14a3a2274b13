"""What a checkpoint holds beside the workers and the averager: what its user needs to go on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Extras:
    """Plain values and tensors that belong to a process, to a worker or to all.

    Args:
        process: of this process.
        workers: of each hosted worker; they are found by the worker's number, wherever it is
            hosted when the checkpoint is restored. Empty where there are none.
        shared: what is the same on every process.
        about: what the checkpoint belongs to, the same on every process, as JSON can write it. It
            is in the manifest, and can be read before there is an averager.
    """

    process: Mapping[str, Any] = field(default_factory=dict)
    workers: Sequence[Mapping[str, Any]] = ()
    shared: Mapping[str, Any] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def of_worker(self, k: int) -> Mapping[str, Any]:
        """Of the k-th hosted worker."""
        return self.workers[k] if self.workers else {}
