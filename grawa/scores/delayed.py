"""A score that is used from a later round on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.scores.protocol import Observed, Score, Tracker


@dataclass(frozen=True, kw_only=True)
class Delayed:
    """Another score, except in the first rounds, in which all workers report 1: equal weights.

    While losses are near chance, gradients grow as a worker learns, so the workers that learn least
    have the smallest norms and would get most of the weight. Later, gradients shrink as it learns.

    Args:
        score: the score that is used afterwards.
        rounds: number of first rounds in which it is not used.

    Source: ours; `docs/negative-results.md`, 2026-11-24.
    """

    score: Score
    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise UserError(f"rounds must not be negative, got {self.rounds}")

    @property
    def is_norm(self) -> bool:
        """The same as for the other score."""
        return self.score.is_norm

    @property
    def needs_gradients(self) -> bool:
        """The same as for the other score."""
        return self.score.needs_gradients

    @property
    def norm_steps(self) -> int | None:
        """The same as for the other score."""
        return self.score.norm_steps

    @property
    def needs_losses(self) -> bool:
        """The same as for the other score."""
        return self.score.needs_losses

    @property
    def needs_center(self) -> bool:
        """The same as for the other score."""
        return self.score.needs_center

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "DelayedTracker":
        """See `Score.tracker`."""
        tracker = self.score.tracker(groups, num_hosted, num_fragments)
        return DelayedTracker(tracker, self.rounds, num_fragments)


class DelayedTracker:
    """Another tracker, and how many rounds of each fragment remain until its scores are used."""

    def __init__(self, tracker: Tracker, rounds: int, num_fragments: int) -> None:
        self._tracker = tracker
        self._left = [rounds] * num_fragments

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """See `Tracker.note_gradients`."""
        self._tracker.note_gradients(norms, steps)

    def note_losses(self, losses: Tensor) -> None:
        """See `Tracker.note_losses`."""
        self._tracker.note_losses(losses)

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """See `Tracker.read`; scores that are not finite are reported from the start."""
        scores = self._tracker.read(workers, fragment, anew)
        if self._left[fragment] == 0:
            return scores
        return torch.where(torch.isfinite(scores), torch.ones_like(scores), scores)

    def restart(self, fragment: int = 0) -> None:
        """See `Tracker.restart`; one more round is over."""
        self._left[fragment] = max(0, self._left[fragment] - 1)
        self._tracker.restart(fragment)

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {"tracker": self._tracker.state_dict(), "left": list(self._left)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._tracker.load_state_dict(state["tracker"])
        self._left = list(state["left"])
