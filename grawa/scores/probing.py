"""What is found on a batch that all workers share, a new one each round."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from grawa.math.ema import Ema
from grawa.scores.groups import check_decay, sum_groups

PROBE_DECAY = 0.9**8
"""Per round; the published 0.9 per probe batch with eight batches a round."""

Probe = Callable[[int], Tensor]
"""What the hosted workers make of the i-th probe batch, the same for all N: norms, (K, L), or
losses, (K, 1)."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """What scores have in common that a probe finds.

    Args:
        probe: asks the hosted workers when a round is due; it is given how many probes there were
            before.
        decay: how much of the average is kept at each round.
    """

    needs_gradients: ClassVar[bool] = False
    needs_losses: ClassVar[bool] = False

    probe: Probe
    decay: float = PROBE_DECAY

    def __post_init__(self) -> None:
        check_decay(self.decay)


class ProbeTracker:
    """The running averages of what a probe finds."""

    def __init__(self, probe: Probe, decay: float, groups: Sequence[int]) -> None:
        self._probe = probe
        self._ema = Ema(decay)
        self._groups = tuple(groups)
        self._count = 0

    def note_gradients(self, norms: Tensor) -> None:
        """Training gradients don't count."""

    def note_losses(self, losses: Tensor) -> None:
        """Training losses don't count."""

    def read(self, anew: bool = True) -> Tensor:
        """Runs the probe, unless there is nothing new to find out; the average with it."""
        if anew or self._count == 0:
            self._ema.update(sum_groups(self._probe(self._count), self._groups))
            self._count += 1
        return self._ema.value()

    def restart(self) -> None:
        """The average goes on over rounds."""

    def state_dict(self) -> dict[str, Any]:
        """See `Tracker.state_dict`."""
        return {**self._ema.state_dict(), "probes": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Tracker.load_state_dict`."""
        self._ema.load_state_dict(state)
        self._count = state["probes"]
