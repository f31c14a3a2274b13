"""EDiT: small displacements count more, and those that are too large for a worker are left out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import put_
from grawa.math.moving import Moving
from grawa.math.weights import softmax_norm
from grawa.scores.displacement import DisplacementLengths
from grawa.scores.groups import Grouping, by_block
from grawa.scores.protocol import Score
from grawa.strategies.center import (
    Outer,
    OuterNesterov,
    first_center,
    next_center,
    outer_of,
    stretch_to,
)
from grawa.strategies.checks import check_positive, groups_by
from grawa.strategies.protocol import OF_WORKERS, Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class EDiT(Strategy):
    """Weights by displacements, without those that are unusually large, and an outer optimizer.

        G_i = ||x_i - c||                                        by groups of parameters
        z_i = (G_i - mean_i) / deviation_i                       moving ones, of this worker
        w_i = exp(-G_i / temperature) / sum over those with z_j <= threshold
        D   = sum_i w_i (x_i - c),    D <- D min(1, clip / ||D||)
        c  <- a step of the outer optimizer toward c + D
        x_i <- c

    In a group in which all workers are outliers all restart from the last center. What was known
    of a worker's displacements is part of the state. Outliers enter their worker's moving mean
    and deviation too, so that a lasting change is accepted after some rounds.

    Args:
        outer: the outer optimizer.
        temperature: the larger, the more equal are the weights.
        threshold: in deviations; a worker with a displacement so far above its moving mean is left
            out of the group in this round.
        warmup_rounds: rounds of a worker in which it is never an outlier.
        share: how much a new round counts in the moving means, in (0, 1).
        clip: the largest length of a group's merged displacement.
        group_by: which parameters have weights together, `by_block` by default.

    Source: Cheng et al. (2025), "EDiT: A Local-SGD-Based Efficient Distributed Training Method for
    Large Language Models" (arXiv 2412.07210), algorithm 2, the pseudo gradient penalty. We had the
    abstract and a description of the algorithm, not the paper's text; what enters the moving means
    is as in the authors' public code.
    Deviation: the moving means are corrected for their start, so that fewer than the 120 rounds of
    the authors' code are enough for a warm-up; its threshold does not grow with the spread of
    recent deviations, as theirs does. A group that a worker has not moved gets weight zero, where
    the formula's is the largest. Layers are merged in one round, not during the forward pass.
    """

    score: Score | None = field(default=DisplacementLengths(), init=False, repr=False)

    outer: Outer = field(default_factory=partial(OuterNesterov, lr=0.8, momentum=0.85))
    temperature: float = 1.0
    threshold: float = 3.0
    warmup_rounds: int = 20
    share: float = 0.02
    clip: float = 10.0
    group_by: Grouping = by_block

    def __post_init__(self) -> None:
        object.__setattr__(self, "outer", outer_of(self.outer))
        for name in ("temperature", "threshold", "clip"):
            check_positive(name, getattr(self, name))
        if not self.warmup_rounds >= 2:
            raise UserError(
                f"warmup_rounds must be at least 2, which make a deviation, got "
                f"{self.warmup_rounds}"
            )
        if not 0.0 < self.share < 1.0:
            raise UserError(f"share must lie in (0, 1), got {self.share}")

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The groups that `group_by` returns."""
        return groups_by(self.group_by, names)

    def init(self, params: Stack) -> State:
        """The initial parameters are the first center; the outer state is zero."""
        return first_center(params, self.outer)

    def init_workers(self, names: Sequence[str], num_workers: int) -> Leaves:
        """The moving means and variances of the displacements, and of how many rounds."""
        widths = dict.fromkeys(("mean", "variance"), max(self.groups(names)) + 1) | {"rounds": 1}
        zeros = partial(torch.zeros, dtype=torch.float64, device="cpu")
        return Leaves.copy_of({name: zeros(1, num_workers, c) for name, c in widths.items()})

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        assert scores is not None, "the driver gathers what `score` asks for"
        groups = self.groups(list(params))
        counted = self._counted(scores, Moving(**state[OF_WORKERS]), comm.active.unsqueeze(1))
        is_moved = counted.any(dim=0)
        weights = softmax_norm(
            scores, self.temperature, counted | (comm.active.unsqueeze(1) & ~is_moved)
        )
        kept = _copies(state, [n for n, g in zip(params, groups, strict=True) if not is_moved[g]])
        center = next_center(
            params,
            weights[:, list(groups)],
            state,
            comm,
            self.outer,
            round,
            lambda mean: stretch_to(
                mean, state, groups, comm, lambda found: found.clamp_max(self.clip)
            ),
        )
        for leaf, before in kept:
            leaf.copy_(before)
        put_(params, center)
        return weights

    def _counted(self, norms: Tensor, moving: Moving, active: Tensor) -> Tensor:
        """Which workers count in which groups, (N, G); adds what is new to the moving means."""
        outliers = moving.z_scores(norms) > self.threshold
        outliers &= moving.rounds >= self.warmup_rounds
        moving.add(norms, active, self.share)
        return active & ~outliers

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]


def _copies(state: State, names: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Leaves of the center and its optimizer, with copies of them."""
    common = [leaves for key, leaves in state.items() if key != OF_WORKERS]
    found = [leaves[name] for leaves in common for name in names if name in leaves]
    return [(leaf, leaf.clone()) for leaf in found]
