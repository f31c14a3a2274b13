"""The roll call: the small exchange in which every process says what it calls for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.rounds.guard import Health
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import WHOLE, Purpose
from grawa.workers.buffers import BufferState, states_of
from grawa.workers.losses import RecentLosses
from grawa.workers.replicas import Replicas

ROW_LENGTH = 9
"""Numbers that a worker reports for every purpose: see `Roll`."""


class Roll(NamedTuple):
    """What all workers reported in a roll call."""

    purposes: tuple[Purpose, ...]
    """Of the N workers."""
    rounds: Tensor
    """(N,), rounds so far."""
    steps: Tensor
    """(N,), local steps so far."""
    new_steps: Tensor
    """(N,), local steps since the last round of the fragment."""
    lr: float
    """The lower median of the workers' learning rates."""
    elapsed: float
    """Seconds since the start, by worker 0's clock."""
    values: Tensor
    """(N,), a number from each for `Purpose.VALUES`; for a round see `Runner.digests`."""
    health: Health
    """What the guard needs to know."""
    marks: Tensor
    """(N, B), the state and form of each buffer: see `grawa.workers.buffers`."""
    has_gradient: Tensor
    """(N, L), or (N, 0) for a strategy that never shares gradients."""


class RollCall:
    """Collects while the hosted workers train what they report, and exchanges it with the others.

    Args:
        replicas: the hosted workers.
        comm: connects all workers.
        worker: connects the processes that the one hosted worker consists of, if they are several.
        plan: how rounds are run.
        groups: the group of each parameter.
        moves: whether rounds change parameters; if not, there are no scores.
        with_buffers: whether buffers are averaged.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Transport,
        worker: Transport | None,
        plan: RoundPlan,
        groups: Sequence[int],
        *,
        moves: bool = True,
        with_buffers: bool = False,
    ) -> None:
        score = plan.strategy.score if moves else None
        num_fragments = plan.num_fragments
        self._replicas, self._comm, self._worker = replicas, comm, worker
        self._num_scores = max(groups) + 1 if score else 0
        self._num_buffers = len(replicas.buffers.names) if with_buffers else 0
        self._shares = plan.strategy.shares_gradients(0)
        hosted = comm.num_hosted
        self._tracker = score.tracker(groups, hosted, num_fragments) if score else None
        self._is_norm = score is not None and score.is_norm
        self._losses = RecentLosses(replicas.gradients.zeros(), num_fragments)
        self._new_steps = torch.zeros(num_fragments, hosted, dtype=torch.float64, device="cpu")
        self.steps = [0] * hosted
        """Local steps of each hosted worker."""

    def note_step(self, norms: Tensor | None, workers: slice) -> None:
        """Counts a local step.

        Args:
            norms: (K, L), of the gradients, if the score needs them; NaN for workers without one.
            workers: the hosted workers that made it.
        """
        self._new_steps[:, workers] += 1
        self.steps[workers] = [step + 1 for step in self.steps[workers]]
        if self._tracker is not None and norms is not None:
            self._tracker.note_gradients(norms)

    def uncount(self, skipped: Tensor) -> None:
        """Subtracts steps that turned out to have been skipped: (K,), how many each."""
        self._new_steps -= skipped
        self.steps = [made - int(s) for made, s in zip(self.steps, skipped, strict=True)]

    def note_losses(self, losses: Tensor, workers: slice) -> None:
        """Records the losses of a local step of these hosted workers, one each."""
        self._losses.note(losses.to(self._replicas.gradients.zeros()), workers)
        if self._tracker is not None:
            noted = self._replicas.gradients.zeros().fill_(torch.nan)
            noted[workers] = torch.where(torch.isfinite(losses), losses, torch.inf).to(noted)
            self._tracker.note_losses(noted)

    def forget_losses(self, workers: Sequence[int]) -> None:
        """Drops the losses of hosted workers that have been reset, which no longer apply."""
        self._losses.forget(workers)

    def restart(self, fragment: int) -> None:
        """Called after each round of a fragment."""
        self._losses.restart(fragment)
        self._new_steps[fragment] = 0
        if self._tracker is not None:
            self._tracker.restart(fragment)

    def has_new_steps(self, fragment: int) -> bool:
        """Whether hosted workers have made steps since the fragment's last round."""
        return bool(self._new_steps[fragment].any())

    def rows(
        self,
        purpose: Purpose,
        fragment: int,
        *,
        rounds: int,
        elapsed: float,
        values: Tensor | float = 0.0,
    ) -> Tensor:
        """What the hosted workers report.

        Args:
            purpose: why they call.
            fragment: whose round is next.
            rounds: rounds so far.
            elapsed: seconds since the start.
            values: a number of each hosted worker for the others, (K,), or () of all.

        Returns:
            A row each, (K, C), of the same length for every purpose; scores and buffer states are
            zero except for a round.
        """
        whole = purpose in WHOLE
        sizes = self._replicas.gradients.sizes(self._replicas.params)
        losses = self._losses.read(fragment)
        marks = losses.new_zeros(len(losses), self._num_buffers, dtype=torch.float64)
        if purpose is Purpose.GRADIENTS:
            norms = self._replicas.gradients.gradient_norms().sum(dim=1)
            sizes = torch.where(torch.isfinite(norms), sizes, torch.nan)
        elif whole and self._num_buffers:
            buffers = self._replicas.buffers
            marks = buffers.marks(buffers.rows(), losses.device)
            broken = (states_of(marks) == BufferState.NAN).any(dim=1)
            sizes = torch.where(broken, torch.nan, sizes)
        same = [purpose, rounds, elapsed]
        columns = [losses.new_tensor(same, dtype=torch.float64).expand(len(losses), -1)]
        own = [
            losses.new_zeros(len(losses), dtype=torch.float64) + values,
            losses.new_tensor(self.steps),
            self._new_steps[fragment],
            self._replicas.lrs(),
            sizes,
            losses,
        ]
        columns.append(torch.stack([x.to(marks) for x in own], dim=1))
        columns.append(self._scores(fragment, whole=whole).to(marks))
        columns.append(marks)
        if self._shares:
            columns.append(self._replicas.gradients.has_gradient().to(marks))
        return torch.cat(columns, dim=1)

    def _scores(self, fragment: int, *, whole: bool) -> Tensor:
        if self._tracker is None or not whole:
            return torch.zeros(len(self.steps), self._num_scores, device="cpu")
        return self._tracker.read(self._replicas.gradients, fragment, self.has_new_steps(fragment))

    def call(self, rows: Tensor) -> Roll:
        """Gathers what all workers report; every process must call it, for whatever purpose.

        Args:
            rows: what the hosted workers report, as `rows` returned it.

        Returns:
            What all workers reported.
        """
        everyone = self._comm.gather(self._agreed(rows))()
        fixed, scores, marks, has_gradient = everyone.split(
            [
                ROW_LENGTH,
                self._num_scores,
                self._num_buffers,
                everyone.shape[1] - ROW_LENGTH - self._num_scores - self._num_buffers,
            ],
            dim=1,
        )
        purposes, rounds, elapsed, values, steps, new, lrs, sizes, losses = fixed.unbind(dim=1)
        health = Health(sizes, losses, scores if self._num_scores else None, self._is_norm, new)
        return Roll(
            purposes=tuple(Purpose(int(p)) for p in purposes.tolist()),
            rounds=rounds,
            steps=steps,
            new_steps=new,
            lr=float(lrs.median()),
            elapsed=float(elapsed[0]),
            values=values,
            health=health,
            marks=marks,
            has_gradient=has_gradient,
        )

    def _agreed(self, rows: Tensor) -> Tensor:
        """One row for a worker of several processes: means; not finite if one process's is not."""
        if self._worker is None:
            return rows
        everyone = self._worker.gather(rows)()
        agreed = everyone.mean(dim=0, keepdim=True)
        exact = slice(0, 2), slice(ROW_LENGTH + self._num_scores, None)
        for columns in exact:  # codes and flags, of which a mean would be meaningless
            agreed[:, columns] = everyone[:, columns].amax(dim=0)
        return agreed

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "tracker": self._tracker.state_dict() if self._tracker else None,
            "losses": self._losses.state_dict(),
            "new_steps": self._new_steps.clone(),
            "steps": list(self.steps),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._losses.load_state_dict(state["losses"])
        self._new_steps.copy_(state["new_steps"])
        self.steps = list(state["steps"])
