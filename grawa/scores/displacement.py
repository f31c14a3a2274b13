"""How far workers have moved since the last round."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from grawa.scores.groups import sum_groups
from grawa.scores.protocol import Observed


@dataclass(frozen=True, kw_only=True)
class _Displacement:
    """What the scores of displacements have in common."""

    needs_gradients: ClassVar[bool] = False
    norm_steps: ClassVar[int | None] = None
    needs_losses: ClassVar[bool] = False
    needs_center: ClassVar[bool] = True
    joint: ClassVar[bool]
    """Whether a group's tensors count as one vector; otherwise their norms are added."""

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "DisplacementTracker":
        """See `Score.tracker`."""
        return DisplacementTracker(groups, joint=self.joint)


@dataclass(frozen=True, kw_only=True)
class DisplacementNorms(_Displacement):
    """Norms of what each worker has changed since the last round.

        score_ig = sum over the group's tensors of ||x_i - c||

    x_i are its parameters, and c is the last center, which the strategy must keep. They need no
    gradients, nothing at local steps, and at a round one pass over the parameters. With a pull
    below 1, what is left of the distance to the center counts too.

    Source: Cheng et al. (2025), "EDiT", for the norm of a worker's displacement as the measure of
    how much it counts; in GRAWA's weights it is ours.
    """

    is_norm: ClassVar[bool] = True
    joint: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class DisplacementLengths(_Displacement):
    """The length of what each worker has changed since the last round, of each group.

        score_ig = ||x_i - c|| over all the group's tensors

    As `DisplacementNorms`, but a group's tensors count as one vector, and the guard does not raise
    small values: for methods in which a short displacement does not get nearly all the weight.

    Source: Cheng et al. (2025), "EDiT"; Douillard et al. (2026), "Decoupled DiLoCo".
    """

    is_norm: ClassVar[bool] = False
    joint: ClassVar[bool] = True


class DisplacementTracker:
    """Reads displacements at a round; there is nothing to keep between rounds."""

    def __init__(self, groups: Sequence[int], *, joint: bool) -> None:
        self._groups, self._joint = tuple(groups), joint

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """Ignored: only parameters count."""

    def note_losses(self, losses: Tensor) -> None:
        """Ignored: only parameters count."""

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """The norms, (K, G); zero for groups of other fragments."""
        norms = workers.displacement_norms(fragment)
        return joint_norms(norms, self._groups) if self._joint else sum_groups(norms, self._groups)

    def restart(self, fragment: int = 0) -> None:
        """Nothing to do."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""


def joint_norms(norms: Tensor, groups: Sequence[int]) -> Tensor:
    """The norm of each group's tensors as one vector: the root of the sum of squares.

    Args:
        norms: of the tensors, (K, L).
        groups: the group of each, numbered from 0.

    Returns:
        (K, G).
    """
    return sum_groups(norms.square(), groups).sqrt()
