"""Warnings about likely mistakes that raise no error, each given once."""

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.rounds.purposes import Purpose, listed
from grawa.rounds.roll_call import Roll
from grawa.warn import warn

_ROUNDS = 8
"""Norms are checked in this many first rounds only: a loop that clips does so from the start."""

_MOST_STEPS = 100
"""Norms are kept of this many first steps of a round, however long it is."""

_SAME = 1e-5
"""Total norms with a smaller relative difference were made equal by clipping."""

_ASKED = Purpose.CONSENSUS, Purpose.SYNCHRONIZE
"""What every process has to ask for."""

_PATIENCE = 2
"""Rounds through which a worker may wait for a consensus before a warning."""

_DIFFERENT = 1e-3
"""If a tensor's norm varies by more than this share, the gradients are not simply all equal."""


class Symptoms:
    """Warns once each of gradients clipped too early, of equal workers, and of a long wait.

    Args:
        speaks: whether this process warns of what happens in all of them.

    Attributes:
        suspects_equals: whether all workers' parameters had the same norm in the last round, so
            that `grawa.math.digest.digests` are to show in the next whether they are equal.
    """

    def __init__(self, *, speaks: bool) -> None:
        self._speaks = speaks
        self._norms: list[Tensor] = []
        self._last_norms: Tensor | None = None
        """(S, K, L), of the last round, on the CPU: a GPU copies them while it trains on."""
        self._rounds = 0
        self._clipping_said = not speaks
        self.suspects_equals = False
        self._equals_checked = False
        self._waited = 0
        self._waiting_said = False

    def note_norms(self, norms: Tensor) -> None:
        """Records the norms of a local step's gradients, (K, L), as the optimizer saw them."""
        looks = self._rounds < _ROUNDS and len(self._norms) < _MOST_STEPS
        if looks and not self._clipping_said:
            self._norms.append(norms)

    def note_waiting(self, roll: Roll) -> None:
        """Checks a roll call of different purposes, at which a round goes first."""
        waits = torch.tensor([purpose in _ASKED for purpose in roll.purposes])
        idle = bool((waits & (roll.new_steps == 0)).any())
        self._waited = self._waited + 1 if idle else 0
        if self._waited == _PATIENCE and not self._waiting_said:
            self._waiting_said = True
            warn(
                f"a worker has waited through {_PATIENCE} rounds of the others without a step of "
                f"its own (now: {listed(roll.purposes)}): every process must call consensus() and "
                "synchronize() equally often"
            )

    def note_round(self, roll: Roll) -> None:
        """Checks for clipping and for equal workers after a round."""
        self._rounds += 1
        self._look_for_clipping()
        self._look_for_equals(roll)

    def _look_for_clipping(self) -> None:
        """Looks at the norms of the round before this one, which have arrived by now."""
        steps, self._last_norms = self._last_norms, None
        norms, self._norms = self._norms, []
        if len(norms) >= 3 and norms[0].shape[1] >= 2:
            self._last_norms = torch.stack(norms).to("cpu", non_blocking=True)
        if steps is None or self._clipping_said:
            return
        totals = vector_norm(steps, dim=2)
        bound = (totals > totals.amax(dim=0) * (1 - _SAME)).sum(dim=0) >= 3
        spread = (steps.amax(dim=0) - steps.amin(dim=0)) / steps.amax(dim=0)
        if bool((bound & (spread.nan_to_num().amax(dim=1) > _DIFFERENT)).any()):
            self._clipping_said = True
            warn(
                "gradients are clipped before their norms are read, so all workers get nearly the "
                "same norms: call averager.clip_grad_norm_(max_norm) in place of "
                "torch.nn.utils.clip_grad_norm_; it clips the same, and records the norms before"
            )

    def _look_for_equals(self, roll: Roll) -> None:
        if self._equals_checked:
            return
        sizes, digests = roll.health.sizes, roll.values
        equal = len(sizes) > 1 and bool((sizes == sizes[0]).all() & (roll.new_steps > 0).all())
        if self.suspects_equals:
            # Workers that train on the same data are equal from the start, or never.
            equal = equal and bool((digests == digests[0]).all())
            self._equals_checked = True
            if equal and self._speaks:
                warn(
                    f"all {len(sizes)} workers have exactly equal parameters after local steps of "
                    "their own, so averaging them does nothing. Likely reasons: the model is "
                    "wrapped in DDP, which makes gradients equal; every worker draws the same "
                    "batches, from one seed; the loader has no DistributedSampler; or the steps "
                    "are too small to change any parameter"
                )
        self.suspects_equals = equal and not self._equals_checked
