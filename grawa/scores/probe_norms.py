"""Norms of the gradient on a batch that all workers share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from grawa.scores.probing import Probed, ProbeTracker


@dataclass(frozen=True, kw_only=True)
class ProbeGradientNorms(Probed):
    """Norms of the gradient on a probe batch that is the same for every worker, new each round.

    It costs one forward and backward pass a round. The batch must be drawn from all the training
    data; 64 samples or more. `grawa.GradientProbe` is one that works with any model.

    Args:
        probe: computes the hosted workers' norms, (K, L), when a round is due; it is given how
            many probes there were before.
        decay: how much of the average is kept at each round.

    Source: Dimlioglu and Choromanska (2024), section 4.
    Deviation: the authors' probe ran in train mode and so moved the BatchNorm statistics; ours
    runs in eval mode and changes nothing.
    """

    is_norm: ClassVar[bool] = True

    def tracker(self, groups: Sequence[int], num_hosted: int) -> ProbeTracker:
        """See `Score.tracker`."""
        return ProbeTracker(self.probe, self.decay, groups)
