"""The loss on a batch that all workers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from grawa.scores.groups import check_one_group
from grawa.scores.probing import Probed, ProbeTracker


@dataclass(frozen=True, kw_only=True)
class ProbeLoss(Probed):
    """The loss on a probe batch that is the same for every worker, new each round.

    It costs one forward pass a round, a third of what the norms on that batch cost. Beside
    `ProbeGradientNorms` it is the control that tells whether it is the norm that helps, or the
    batch.

    Args:
        probe: computes the hosted workers' losses, (K, 1), when a round is due; it is given how
            many probes there were before. `grawa.LossProbe` is one that works with any model.
        decay: how much of the average is kept at each round.

    Source: ours, after the shared batch of Dimlioglu and Choromanska (2024), section 4.
    """

    is_norm: ClassVar[bool] = False

    def tracker(self, groups: Sequence[int], num_hosted: int) -> ProbeTracker:
        """See `Score.tracker`."""
        check_one_group(groups)
        return ProbeTracker(self.probe, self.decay, (0,))
