"""The workers' own values that were replaced by worker 0's at the start, until training begins."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from grawa.errors import UserError
from grawa.math.digest import digests
from grawa.math.leaves import Rows
from grawa.workers.replicas import Replicas

_UNCERTAIN = (
    "it can't be seen whether the model was loaded before or after the Averager was made: call "
    "load_state_dict() right after making it, and load the model before or after both"
)


class Overwritten:
    """Copies of what hosted workers had before they became equal to worker 0.

    Who loads a model and then makes the `Averager`, to load its state next, expects the workers to
    be as they were loaded. So what the start replaces is kept, on the CPU, until the first local
    step, and put back by `Averager.load_state_dict`, unless the model was loaded meanwhile.

    Args:
        replicas: the hosted workers.
    """

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._kept: list[dict[str, Tensor]] = []
        self._digests: list[float] = []
        self._versions: list[int] = []

    def keep(self, stacks: Sequence[Mapping[str, Tensor]]) -> None:
        """Copies rows that are about to be replaced.

        Args:
            stacks: those of parameters, of frozen parameters and of buffers that are not equal on
                all workers, name -> (K, *shape).
        """
        self._kept = [{n: rows.to("cpu", copy=True) for n, rows in s.items()} for s in stacks]

    def replaced(self) -> None:
        """Called when they have been replaced."""
        if any(self._kept):
            self._digests, self._versions = self._current(), self._replicas.versions()

    def drop(self) -> None:
        """Frees the copies, because training has begun."""
        self._kept = []

    def uncertainty(self) -> UserError | None:
        """What is wrong if it can't be seen whether the model was loaded since; else `None`."""
        if not any(self._kept) or self._was_loaded():
            return None
        same = self._replicas.versions() == self._versions
        return None if same else UserError(_UNCERTAIN)

    def put_back(self) -> None:
        """Gives the workers what they had, unless their parameters were changed since."""
        if any(self._kept) and not self._was_loaded():
            for rows, kept in zip(self._stacks(), self._kept, strict=True):
                for name, own in kept.items():
                    if rows[name].shape == own.shape:
                        rows[name].copy_(own)
        self.drop()

    def _was_loaded(self) -> bool:
        return self._current() != self._digests

    def _current(self) -> list[float]:
        """Digests of the parameters that were replaced."""
        kept = zip(self._stacks()[:2], self._kept, strict=False)
        parts = [rows[n] for rows, own in kept for n in own if rows[n].numel()]
        return digests(parts).tolist() if parts else []

    def _stacks(self) -> tuple[Rows, Rows, Rows]:
        replicas = self._replicas
        return replicas.params, replicas.frozen(), replicas.buffers.rows()
