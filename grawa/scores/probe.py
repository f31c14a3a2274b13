"""Scores from a probe batch: the same for all workers, and a new one each round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from grawa.math.ema import Ema
from grawa.scores.groups import check_decay, check_one_group, sum_groups
from grawa.scores.protocol import Loss, Observed

PROBE_DECAY = 0.9**8
"""Per round; the paper uses 0.9 per probe batch, with eight batches a round."""

_Find = Callable[[Observed, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What scores from a probe batch have in common."""

    needs_gradients: ClassVar[bool] = False
    norm_steps: ClassVar[int | None] = None
    needs_losses: ClassVar[bool] = False
    needs_center: ClassVar[bool] = False

    batch: Callable[[int], Any]
    loss: Loss
    decay: float = PROBE_DECAY

    def __post_init__(self) -> None:
        check_decay(self.decay)


@dataclass(frozen=True, kw_only=True)
class ProbeNorms(_Probe):
    """Norms of the gradient on a probe batch that is the same for every worker, new each round.

    It costs one forward and backward pass a round, in eval mode; `.grad`, buffers, modes and random
    number generators are restored afterwards.

    Args:
        batch: makes the i-th probe batch, i = 0, 1, ... It must be the same on every worker, so
            draw it from all the training data with a generator seeded by i; 64 samples or more.
        loss: computes the loss of a model on a batch, a scalar.
        decay: how much of the average over rounds is kept at each round.

    >>> import torch
    >>> inputs = torch.eye(100)
    >>> score = ProbeNorms(batch=lambda i: inputs[i : i + 64], loss=lambda model, x: model(x).sum())

    Source: Dimlioglu and Choromanska (2024), section 4.
    Deviation: the authors' probe ran in train mode and so moved the BatchNorm statistics.
    """

    is_norm: ClassVar[bool] = True

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "ProbeTracker":
        """See `Score.tracker`."""

        def find(workers: Observed, batch: Any) -> Tensor:
            return sum_groups(workers.gradient_norms_on(batch, self.loss), groups)

        rows = num_hosted, max(groups) + 1
        return ProbeTracker(self.batch, find, self.decay, num_fragments, rows)


@dataclass(frozen=True, kw_only=True)
class ProbeLoss(_Probe):
    """The loss on a probe batch that is the same for every worker, new each round.

    It costs one forward pass a round, about a third of the cost of `ProbeNorms`. Compared with
    `ProbeNorms` it shows whether an advantage comes from the norm or from the shared batch.

    Args:
        batch: as for `ProbeNorms`.
        loss: as for `ProbeNorms`.
        decay: as for `ProbeNorms`.

    Source: ours, after the shared batch of Dimlioglu and Choromanska (2024), section 4.
    """

    is_norm: ClassVar[bool] = False

    def tracker(
        self, groups: Sequence[int], num_hosted: int, num_fragments: int = 1
    ) -> "ProbeTracker":
        """See `Score.tracker`."""
        check_one_group(groups)

        def find(workers: Observed, batch: Any) -> Tensor:
            return workers.losses_on(batch, self.loss)

        rows = num_hosted, max(groups) + 1
        return ProbeTracker(self.batch, find, self.decay, num_fragments, rows)


class ProbeTracker:
    """Running averages of norms or losses on probe batches, one for each fragment.

    Args:
        batch: makes the i-th batch.
        find: computes the hosted workers' norms or losses on a batch, (K, G).
        decay: how much of an average is kept at each round.
        num_fragments: number of fragments; each has its own sequence of batches.
        rows: K and G.
    """

    def __init__(
        self,
        batch: Callable[[int], Any],
        find: _Find,
        decay: float,
        num_fragments: int,
        rows: tuple[int, int],
    ) -> None:
        self._batch = batch
        self._find = find
        self._ema, self._rows = Ema(decay, num_fragments), rows
        self._probes = [0] * num_fragments

    def note_gradients(self, norms: Tensor, steps: int = 1) -> None:
        """Ignored: only the probe counts."""

    def note_losses(self, losses: Tensor) -> None:
        """Ignored: only the probe counts."""

    def read(self, workers: Observed, fragment: int = 0, anew: bool = True) -> Tensor:
        """Runs the probe, unless no step was made since the last one; returns the average."""
        index = self._probes[fragment]
        if anew or index == 0:
            self._ema.update(self._find(workers, self._batch(index)), fragment)
            self._probes[fragment] = index + 1
        return self._ema.value(fragment)

    def restart(self, fragment: int = 0) -> None:
        """Nothing to do: the average extends over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {**self._ema.state_dict(), "probes": list(self._probes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._ema.load_state_dict(state, self._rows)
        self._probes = list(state["probes"])
