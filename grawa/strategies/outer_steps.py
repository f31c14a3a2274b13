"""Outer steps: an outer optimizer on the displacement of a single worker."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.strategies.center import (
    Outer,
    OuterNesterov,
    first_center,
    outer_of,
    restart_from_center,
)
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class OuterSteps(Strategy):
    """An outer optimizer for one worker: Nesterov momentum on each `sync_every` local steps.

        d <- c - x,    m <- momentum m + d,    c <- c - lr (d + momentum m),    x <- c

    c is the parameters at the last round. This is the only method that changes the training of a
    single worker. With several workers x is their mean, which makes it the same as `DiLoCo`. The
    paper reports gains for large language models over many outer steps; short runs can get worse
    (`docs/decisions.md`).

    Args:
        outer: the outer optimizer, as in DiLoCo; `OuterNesterov(lr=0.5, momentum=0)` is Lookahead.

    Source: Kallusky et al. (2025), "SNOO: Step-K Nesterov Outer Optimizer" (arXiv 2510.15830);
    Zhang et al. (2019), "Lookahead Optimizer: k Steps Forward, 1 Step Back", without momentum.
    """

    moves_one_worker: ClassVar[bool] = True

    outer: Outer = field(default_factory=OuterNesterov)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outer", outer_of(self.outer))

    def init(self, params: Stack) -> State:
        """The initial parameters are the first center, the outer state is zero."""
        return first_center(params, self.outer)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        restart_from_center(params, state, comm, self.outer, round)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
