"""When a training is over."""

from dataclasses import dataclass

from torch import Tensor

from grawa.lab.train.settings import Settings
from grawa.rounds.report import RoundReport


@dataclass
class Ending:
    """Follows a training to its end; the same on every process.

    Args:
        settings: what ends it.
        steps: local steps of each worker after which it ends; `None` for no such end.

    Attributes:
        is_over: whether a round has found that a budget is spent, or an error reached.
    """

    settings: Settings
    steps: int | None
    is_over: bool = False
    _last: float = 0.0

    @classmethod
    def of(cls, settings: Settings, shards: list[Tensor]) -> "Ending":
        """The end that the settings ask for; an epoch is a pass over the smallest shard."""
        if settings.epochs is None:
            return cls(settings, settings.steps)
        smallest = min(len(samples) for samples in shards)
        return cls(settings, max(1, round(settings.epochs * smallest / settings.batch_size)))

    def progress(self, steps: float, elapsed: float) -> float:
        """How much is done, in [0, 1].

        Args:
            steps: local steps made, on average over the workers.
            elapsed: seconds since the start.

        Returns:
            The larger of the shares of steps and of time.
        """
        done = 0.0 if self.steps is None else steps / self.steps
        spent = 0.0 if self.settings.budget is None else elapsed / self.settings.budget
        return min(1.0, max(done, spent))

    def after_round(self, report: RoundReport, error: float | None) -> None:
        """Decides whether this round was the last.

        A budget ends at the round that is nearest to it, the next one taken to be as far away as
        the last.

        Args:
            report: of the round.
            error: the metric after it, if it was measured.
        """
        budget, target = self.settings.budget, self.settings.until_error
        if budget is not None:
            until_next = report.elapsed - self._last
            self.is_over |= report.elapsed + until_next / 2 >= budget
            self._last = report.elapsed
        if target is not None and error is not None:
            self.is_over |= error <= target
