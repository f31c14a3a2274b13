"""What happens after local steps: they are counted, norms are noted and proximal pulls made."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from grawa.math.leaves import Leaves, Rows
from grawa.rounds.drift import Drift
from grawa.rounds.fragment import Fragment
from grawa.rounds.noting import Noting
from grawa.rounds.roll_call import RollCall
from grawa.rounds.symptoms import Symptoms
from grawa.strategies.protocol import OF_WORKERS, Strategy
from grawa.workers.replicas import Replicas


class LocalSteps:
    """Follows the hosted workers' local steps.

    Args:
        strategy: how workers are averaged.
        replicas: the hosted workers.
        fragments: of the model.
        roll_call: counts steps, and gets norms.
        symptoms: looks at norms.
        first: the number of the first hosted worker among all.
        moves: whether rounds change parameters; if not, steps are only counted.
    """

    def __init__(
        self,
        strategy: Strategy,
        replicas: Replicas,
        fragments: Sequence[Fragment],
        roll_call: RollCall,
        symptoms: Symptoms,
        *,
        first: int,
        moves: bool,
    ) -> None:
        self._replicas, self._fragments = replicas, fragments
        self._roll_call, self._symptoms = roll_call, symptoms
        score, hosted = strategy.score, len(replicas.models)
        self._needs_norms = moves and score is not None and score.needs_gradients
        # A score of a user's own may lack the attribute: then all steps count.
        self._noting = Noting(getattr(score, "norm_steps", None), hosted)
        self._drift = (
            Drift(strategy, range(first, first + hosted)) if moves and strategy.drifts else None
        )
        self._join()

    def follow(self) -> None:
        """Takes new views of the parameters if a module has moved them in memory."""
        if self._replicas.follow():
            for fragment in self._fragments:
                fragment.bind(self._replicas.params)
            self._join()

    def _join(self) -> None:
        """Sees all fragments as one, so that a pull is one pass however many there are."""
        if self._drift is None:
            return
        parts = self._fragments
        params = Rows.joined([part.params for part in parts])
        kept = set(parts[0].seen).intersection(*(part.seen for part in parts)) - {OF_WORKERS}
        keys = [key for key in parts[0].seen if key in kept]
        self._drift.bind(params, {k: Leaves.joined([part.seen[k] for part in parts]) for k in keys})

    def note(self, workers: slice, noted: Tensor | None, share: float, left: float) -> None:
        """Counts a local step; notes its norms and makes the proximal pull if they are due.

        Args:
            workers: the hosted workers that made it.
            noted: the norms of its gradients, if they are known already, (K, L).
            share: which part of a cycle a local step is.
            left: how many more there will be before the next round, as far as is known.
        """
        self._roll_call.counts.add_step(workers)
        if self._needs_norms:
            self._note_norms(workers, noted, left)
        steps = self._roll_call.counts.steps
        if self._drift is not None and self._drift.add(workers, share, steps):
            self.follow()
            self._drift.make(workers)

    def _note_norms(self, workers: slice, noted: Tensor | None, left: float) -> None:
        steps = self._noting.steps(workers, self._roll_call.counts.steps[workers][0], left)
        if not steps:
            return
        norms = self._replicas.gradients.gradient_norms(workers) if noted is None else noted
        self._roll_call.note_norms(norms, steps)
        if noted is None:
            self._symptoms.note_norms(norms)

    def catch_up(self) -> None:
        """Makes the pulls that are due, before others see the parameters or the center changes."""
        self.follow()
        if self._drift is not None and self._drift.is_due():
            self._drift.make()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        owed = [0.0] * len(self._replicas.models)
        drift = {"owed": owed} if self._drift is None else self._drift.state_dict()
        return {"noting": self._noting.state_dict(), "drift": drift}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        self._noting.load_state_dict(state["noting"])
        if self._drift is not None:
            self._drift.load_state_dict(state["drift"])
