"""RDA: direction and length of the workers' displacements are averaged apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_
from grawa.math.weights import inverse_norm
from grawa.scores.displacement import DisplacementLengths
from grawa.scores.groups import Grouping, by_tensor
from grawa.scores.protocol import Score
from grawa.strategies.center import (
    Outer,
    OuterNesterov,
    first_center,
    next_center,
    outer_of,
    stretch_to,
)
from grawa.strategies.checks import groups_by
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class RDA(Strategy):
    """Radial-directional averaging, and an outer optimizer: the merge of Decoupled DiLoCo.

        d_i    = x_i - c                                   by groups of parameters
        length = mean_i ||d_i||
        c_x    = c + length u / ||u||,    u = mean_i d_i / ||d_i||
        c     <- a step of the outer optimizer toward c_x
        x_i   <- c

    Displacements of workers with different data are nearly orthogonal, so the mean of N of them
    is shorter by a factor of about sqrt(N). Here its length is theirs, however many they are. Its
    direction is GRAWA's with weights by `DisplacementNorms`. If all displacements have the same
    length and direction, this is DiLoCo. A worker that has not moved has no direction, and counts
    in the length only. Both means are weighted by `Averager(weigh_by=)`.

    Args:
        outer: the outer optimizer.
        group_by: which parameters have a direction and a length together, `by_tensor` by default.

    Source: Douillard et al. (2026), "Decoupled DiLoCo for Resilient Distributed Pre-training"
    (arXiv 2604.21428). The paper was out of our reach: the formula is as public reimplementations
    state it.
    Deviation: by their account the paper weights learners by tokens times tokens per step, and
    merges embeddings by a plain mean; here workers are weighted by steps or samples, if at all,
    and all parameters are merged alike.
    """

    score: Score | None = field(default=DisplacementLengths(), init=False, repr=False)

    outer: Outer = field(default_factory=OuterNesterov)
    group_by: Grouping = by_tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "outer", outer_of(self.outer))

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The groups that `group_by` returns."""
        return groups_by(self.group_by, names)

    def init(self, params: Stack) -> State:
        """The initial parameters are the first center; the outer state is zero."""
        return first_center(params, self.outer)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        assert scores is not None, "the driver gathers what `score` asks for"
        groups = self.groups(list(params))
        lengths = torch.where(comm.active.unsqueeze(1), scores, 0.0)
        mean_length = (comm.shares.unsqueeze(1) * lengths).sum(dim=0)
        weights = inverse_norm(lengths, active=comm.active)
        center = next_center(
            params,
            weights[:, list(groups)],
            state,
            comm,
            self.outer,
            round,
            lambda mean: stretch_to(mean, state, groups, comm, lambda found: mean_length),
        )
        put_(params, center)
        return weights

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
