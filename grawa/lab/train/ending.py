"""Decides when training ends."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from grawa.lab.train.settings import Settings
from grawa.rounds.report import RoundReport


@dataclass
class Ending:
    """Decides when training ends; the same on every process.

    Args:
        settings: the settings, which say what ends training.
        steps: local steps of each worker after which it ends; `None` if steps don't end it.

    Attributes:
        is_over: whether, at the last round, the budget was spent or the target error reached.
    """

    settings: Settings
    steps: int | None
    is_over: bool = False
    _last: float = 0.0

    @classmethod
    def of(cls, settings: Settings, shards: list[Tensor]) -> "Ending":
        """The end that the settings define; an epoch is a pass over the smallest shard."""
        if settings.epochs is None:
            return cls(settings, settings.steps)
        smallest = min(len(samples) for samples in shards)
        return cls(settings, max(1, round(settings.epochs * smallest / settings.batch_size)))

    def progress(self, steps: float, elapsed: float) -> float:
        """The fraction of the training that is done, in [0, 1].

        Args:
            steps: local steps so far, averaged over the workers.
            elapsed: seconds since the start.

        Returns:
            The larger of the fractions of steps and of time.
        """
        done = 0.0 if self.steps is None else steps / self.steps
        spent = 0.0 if self.settings.budget is None else elapsed / self.settings.budget
        return min(1.0, max(done, spent))

    def after_round(self, report: RoundReport, error: float | None) -> None:
        """Decides whether this round was the last.

        A budget ends at the round nearest to it, where the time to the next round is assumed to be
        the same as to this one.

        Args:
            report: the round's report.
            error: the metric after it, if it was measured.
        """
        budget, target = self.settings.budget, self.settings.until_error
        if budget is not None:
            until_next = report.elapsed - self._last
            self.is_over |= report.elapsed + until_next / 2 >= budget
            self._last = report.elapsed
        if target is not None and error is not None:
            self.is_over |= error <= target

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training ends at the same round."""
        return {"is_over": self.is_over, "last": self._last, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any], done: float, workers: int) -> None:
        """Restores what `state_dict` returned.

        Args:
            state: what it returned.
            done: local steps so far, averaged over the workers.
            workers: how many there were. If epochs end the training, the steps that are left of
                them are shared by the workers that there are now.
        """
        self.is_over, self._last = state["is_over"], state["last"]
        if self.settings.epochs is not None:
            left = max(0.0, state["steps"] - done)
            more = left * (workers / self.settings.workers - 1)
            self.steps = state["steps"] + round(more)
