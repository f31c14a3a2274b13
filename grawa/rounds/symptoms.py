"""What looks wrong though nothing fails, said once."""

import warnings

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.rounds.purposes import Purpose, listed
from grawa.rounds.roll_call import Roll

_ROUNDS = 8
"""For so many first rounds norms are looked at; what is clipped is clipped from the beginning."""

_SAME = 1e-5
"""Totals that differ by less than this share were made equal by clipping."""

_ASKED = Purpose.CONSENSUS, Purpose.SYNCHRONIZE
"""What every process has to ask for."""

_PATIENCE = 2
"""Rounds through which a worker may wait for a consensus before that is said."""

_DIFFERENT = 1e-3
"""By so much a single tensor's norm varies where gradients are not simply all equal."""


class Symptoms:
    """Notices gradients that were clipped before their norms were read, and workers that are equal.

    Each is said once, as a warning.
    """

    def __init__(self) -> None:
        self._norms: list[Tensor] = []
        self._rounds = 0
        self._clipping_said = False
        self._equal_rounds = 0
        self._equal_said = False
        self._waited = 0
        self._waiting_said = False

    def note_norms(self, norms: Tensor) -> None:
        """Takes the norms of a local step's gradients, (K, L), as the optimizer saw them."""
        if self._rounds < _ROUNDS and not self._clipping_said:
            self._norms.append(norms)

    def note_waiting(self, roll: Roll) -> None:
        """Looks at a meeting at which workers came for different things, and a round goes first."""
        waits = torch.tensor([purpose in _ASKED for purpose in roll.purposes])
        idle = bool((waits & (roll.new_steps == 0)).any())
        self._waited = self._waited + 1 if idle else 0
        if self._waited == _PATIENCE and not self._waiting_said:
            self._waiting_said = True
            warnings.warn(
                f"a worker has waited through {_PATIENCE} rounds of the others without a step of "
                f"its own (now: {listed(roll.purposes)}): every process must call consensus() and "
                "synchronize() equally often",
                stacklevel=2,
            )

    def note_round(self, roll: Roll) -> None:
        """Looks at what is known after a round; says what looks wrong."""
        self._rounds += 1
        self._look_for_clipping()
        self._look_for_equals(roll)

    def _look_for_clipping(self) -> None:
        norms, self._norms = self._norms, []
        if len(norms) < 3 or norms[0].shape[1] < 2:
            return
        steps = torch.stack(norms)  # (S, K, L)
        totals = vector_norm(steps, dim=2)
        bound = (totals > totals.amax(dim=0) * (1 - _SAME)).sum(dim=0) >= 3
        spread = (steps.amax(dim=0) - steps.amin(dim=0)) / steps.amax(dim=0)
        if bool((bound & (spread.nan_to_num().amax(dim=1) > _DIFFERENT)).any()):
            self._clipping_said = True
            warnings.warn(
                "gradients are clipped before their norms are read, which makes all workers look "
                "alike: call averager.clip_grad_norm_(max_norm) in place of "
                "torch.nn.utils.clip_grad_norm_; it clips the same, and notes the norms before",
                stacklevel=2,
            )

    def _look_for_equals(self, roll: Roll) -> None:
        sizes = roll.health.sizes
        equal = len(sizes) > 1 and bool((sizes == sizes[0]).all() & (roll.new_steps > 0).all())
        self._equal_rounds = self._equal_rounds + 1 if equal else 0
        if self._equal_rounds >= 2 and not self._equal_said:
            self._equal_said = True
            warnings.warn(
                f"all {len(sizes)} workers had exactly equal parameters before two rounds in a "
                "row, so averaging them does nothing. Likely reasons: the model is wrapped in "
                "DDP, which makes gradients equal; every worker draws the same batches, from one "
                "seed; or the loader has no DistributedSampler",
                stacklevel=2,
            )
