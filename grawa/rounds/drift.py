"""The proximal pull between rounds, which several local steps make at once."""

import math
from collections.abc import Sequence

from grawa.math.leaves import Leaves, Rows
from grawa.strategies.protocol import Strategy
from grawa.strategies.prox import Proximal

_MOST = 0.0025
"""Most of the way to the center that a worker is pulled at once instead of step by step. With the
default prox of 0.01, four times between two rounds."""


class Drift:
    """Makes the strategy's `drift` after local steps, for several of them at once.

    Each pull is a pass over the parameters and the center. By `prox` they are small, and n pulls
    by s are as strong as one by 1 - (1 - s)^n, so it is made when that has come to 0.25%, and
    before the center changes. A strategy that drifts in another way, without a `prox`, does so
    after every step.

    Args:
        strategy: whose `drift` it is.
        hosted: the numbers of the hosted workers among all.
    """

    def __init__(self, strategy: Strategy, hosted: Sequence[int]) -> None:
        self._strategy, self._hosted = strategy, hosted
        self._prox: float | None = getattr(strategy, "prox", None)
        self._owed = [0.0] * len(hosted)
        """-log of the part of the way to the center that the pulls due would leave; without a
        `prox`, their shares."""

    def bind(self, params: Rows, seen: dict[str, Leaves]) -> None:
        """Uses these views of the parameters, and this state, from now on.

        Args:
            params: of the hosted workers, name -> (K, *shape).
            seen: the strategy's state that `drift` uses.
        """
        self._params, self._seen = params, seen
        several = range(len(self._owed)) if len(self._owed) > 1 else ()
        self._by_worker = [params.worker(k) for k in several]

    def add(self, workers: slice, share: float, steps: Sequence[int]) -> bool:
        """Notes the pull after a local step of these hosted workers.

        Args:
            workers: the hosted workers.
            share: which part of the steps of a round it is.
            steps: local steps of each hosted worker, with this one.

        Returns:
            Whether `make` is to be called.
        """
        for k in range(len(self._owed))[workers]:
            self._owed[k] += self._owed_after(self._hosted[k], steps[k], share)
        return self._prox is None or max(self._owed[workers]) >= _MOST

    def _owed_after(self, worker: int, step: int, share: float) -> float:
        if self._prox is None:
            return share
        prox = self._prox
        if isinstance(self._strategy, Proximal):
            prox = self._strategy.prox_at(worker, step)
        strength = prox * share
        return -math.log1p(-strength) if strength < 1.0 else math.inf

    def is_due(self) -> bool:
        """Whether a pull was noted that has not been made."""
        return any(self._owed)

    def make(self, workers: slice = slice(None)) -> None:
        """Makes the pulls that were noted, so that parameters are as if made after each step."""
        found = range(len(self._owed))[workers]
        together = len(set(self._owed[workers])) == 1
        for some in [workers] if together else [slice(k, k + 1) for k in found]:
            owed = self._owed[some][0]
            share = owed if self._prox is None else -math.expm1(-owed) / self._prox
            whole = len(self._owed[some]) == len(self._owed)
            for params in [self._params] if whole else self._by_worker[some]:
                self._strategy.drift(params, self._seen, share)
            self._owed[some] = [0.0] * len(self._owed[some])

    def state_dict(self) -> dict[str, Sequence[float]]:
        """What must be saved so that training resumes bit for bit."""
        return {"owed": list(self._owed)}

    def load_state_dict(self, state: dict[str, Sequence[float]]) -> None:
        """Restores what `state_dict` returned."""
        self._owed = [float(owed) for owed in state["owed"]]
