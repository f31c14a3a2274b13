"""Parses the option `--score`."""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NoReturn

from grawa.errors import UserError
from grawa.lab import written
from grawa.scores import (
    Delayed,
    DisplacementNorms,
    GradientNorms,
    NormTimesLoss,
    ProbeLoss,
    ProbeNorms,
    RmsGradientNorms,
    TrainingLoss,
)
from grawa.scores.protocol import Loss, Score
from grawa.strategies import GRAWA
from grawa.strategies.protocol import Strategy
from grawa.strategies.soft_pull import SoftPull


def _not_yet(*_: Any) -> NoReturn:
    """A placeholder for a probe's batch and loss, until the data are loaded."""
    raise AssertionError("a probe needs the run's data: see `ScoreChoice.bound`")


_PROBE_NORMS = partial(ProbeNorms, batch=_not_yet, loss=_not_yet)
_PROBE_LOSS = partial(ProbeLoss, batch=_not_yet, loss=_not_yet)

_OF_NORMS: dict[str, Callable[[], Score]] = {
    "norm": GradientNorms,
    "rms": RmsGradientNorms,
    "probe": _PROBE_NORMS,
    "displacement": DisplacementNorms,
}
"""Names of norms in a product."""

LOSSES: dict[str, Callable[[], Score]] = {"loss": TrainingLoss, "probe-loss": _PROBE_LOSS}

NORMS: dict[str, Callable[[], Score]] = {
    "training": GradientNorms,
    "rms": RmsGradientNorms,
    "probe": _PROBE_NORMS,
    "displacement": DisplacementNorms,
    **{
        f"{of_norms}-times-{loss}": partial(NormTimesLoss, norms=norms(), loss=LOSSES[loss]())
        for of_norms, norms in _OF_NORMS.items()
        for loss in LOSSES
    },
}

PROBE_SIZE = 64

_LOSS_PASSES = 1.0 / 3.0
"""Cost of a forward pass, relative to a forward and a backward pass."""


@dataclass(frozen=True, kw_only=True)
class ScoreChoice:
    """A score, and a run's options for it.

    Attributes:
        name: of the score.
        score: still without probe batches.
        size: samples in a probe batch.
        start: the first round in which it is used, from 1.
    """

    name: str
    score: Score
    size: int
    start: int

    @classmethod
    def parse(cls, text: str) -> "ScoreChoice":
        """Parses a score written as `name` or `name:option=value:option=value`.

        Args:
            text: the text; scores with a probe have the option `size`, and all have `from`.

        Returns:
            The choice.

        Raises:
            UserError: if there is no such score or option.

        >>> ScoreChoice.parse("rms:decay=0.9:from=3").start
        3
        """
        name, *options = text.split(":")
        own = [o for o in options if not o.startswith(("size=", "from="))]
        score = written.read("score", {**NORMS, **LOSSES}, ":".join([name, *own]))
        numbers = {"size": PROBE_SIZE, "from": 1}
        for option in options:
            key, _, value = option.partition("=")
            if key in numbers:
                numbers[key] = _positive(f"{key} of score {name}", value)
                if key == "size" and not _passes(score):
                    raise UserError(f"score {name} has no option 'size': it uses no probe batch")
        return cls(name=name, score=score, size=numbers["size"], start=numbers["from"])

    @property
    def samples(self) -> float:
        """Its cost at each round, as a number of samples with forward and backward pass."""
        return self.size * _passes(self.score)

    def check(self, strategy: Strategy, name: str) -> None:
        """Refuses a score that the strategy can't use.

        Args:
            strategy: the strategy.
            name: its name on the command line.

        Raises:
            UserError: with the scores that it can use.
        """
        if strategy.score is None:
            raise UserError(f"strategy {name} uses no score, so leave out --score {self.name}")
        if not all(field.init for field in fields(strategy) if field.name == "score"):
            raise UserError(
                f"strategy {name} has a score of its own, the workers' displacements, so leave out "
                f"--score {self.name}"
            )
        known = NORMS if isinstance(strategy, GRAWA) else LOSSES
        if self.name not in known:
            raise UserError(
                f"strategy {name} can't use the score {self.name!r}; it can use {', '.join(known)}"
            )
        if self.start > 1 and not isinstance(strategy, SoftPull):
            raise UserError(
                f"option 'from' is for strategies that weight workers by their score, not {name}"
            )

    def bound(self, batch: Callable[[int], Any], loss: Loss) -> Score:
        """The score with probe batches and loss.

        Args:
            batch: makes the i-th probe batch.
            loss: computes the loss of a model on a batch.

        Returns:
            The score for the strategy.
        """
        score = _bound(self.score, batch, loss)
        return Delayed(score=score, rounds=self.start - 1) if self.start > 1 else score


def _positive(what: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < 1:
        raise UserError(f"{what} must be a whole number, at least 1, got {value[:40]!r}")
    return int(value)


def _passes(score: Score) -> float:
    """Number of forward and backward passes over a probe batch."""
    if isinstance(score, NormTimesLoss):
        return _passes(score.norms) + _passes(score.loss)
    if isinstance(score, ProbeLoss):
        return _LOSS_PASSES
    return float(isinstance(score, ProbeNorms))


def _bound(score: Score, batch: Callable[[int], Any], loss: Loss) -> Score:
    if isinstance(score, NormTimesLoss):
        norms, factor = _bound(score.norms, batch, loss), _bound(score.loss, batch, loss)
        return replace(score, norms=norms, loss=factor)
    if isinstance(score, ProbeNorms | ProbeLoss):
        return replace(score, batch=batch, loss=loss)
    return score
