"""The roll call: the small exchange in which every process says what it calls for."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.linalg import vector_norm

from grawa.comm.protocol import Transport
from grawa.math.host import on_host
from grawa.rounds.counts import Counts
from grawa.rounds.guard import Health
from grawa.rounds.observed import Hosted, needs_displacements
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import PASSIVE, WHOLE, Purpose
from grawa.workers.buffers import forms_of
from grawa.workers.changes import BufferState
from grawa.workers.losses import RecentLosses
from grawa.workers.replicas import Replicas

ROW_LENGTH = 12
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
    new_samples: Tensor
    """(N,), samples since then; zero if they are not counted."""
    lr: float
    """The lower median of the workers' learning rates."""
    elapsed: float
    """Seconds since the start, by worker 0's clock."""
    values: Tensor
    """(N,), a number from each for `Purpose.VALUES`; for a round see `Runner.digests`."""
    health: Health
    """What the guard needs to know."""
    marks: Tensor
    """(N, B), the state and form of each buffer: see `grawa.workers.buffers`; of the workers that
    are there."""
    has_gradient: Tensor
    """(N, L), or (N, 0) for a strategy that never shares gradients."""
    stopping: bool
    """Whether any process asks that training ends."""

    @property
    def kinds(self) -> set[Purpose]:
        """The different purposes of those who have a say."""
        return set(self.purposes) - PASSIVE

    def amounts(self, weigh_by: str | None) -> Tensor | None:
        """By what the workers' weights are multiplied, (N,), see `RoundPlan.weigh_by`."""
        if weigh_by is None:
            return None
        return self.new_steps if weigh_by == "steps" else self.new_samples


class RollCall:
    """Collects while the hosted workers train what they report, and exchanges it with the others.

    Args:
        replicas: the hosted workers.
        comm: connects all workers.
        worker: connects the processes that the one hosted worker consists of, if they are several.
        plan: how rounds are run.
        groups: the group of each parameter.
        observed: the hosted workers, for scores and the guard.
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
        observed: Hosted,
        *,
        moves: bool = True,
        with_buffers: bool = False,
    ) -> None:
        score = plan.strategy.score if moves else None
        num_fragments = plan.num_fragments
        self._replicas, self._comm, self._worker = replicas, comm, worker
        self._observed, self._sees_displacements = observed, moves and needs_displacements(plan)
        self._num_scores = max(groups) + 1 if score else 0
        self._num_buffers = len(replicas.buffers.names) if with_buffers else 0
        self._shares = plan.strategy.shares_gradients(0)
        hosted = comm.num_hosted
        self._tracker = score.tracker(groups, hosted, num_fragments) if score else None
        self._is_norm = score is not None and score.is_norm
        self._needs_losses = score is not None and score.needs_losses
        self._losses = RecentLosses(replicas.gradients.zeros(), num_fragments)
        self._mean_losses = torch.zeros(num_fragments, hosted, dtype=torch.float64, device="cpu")
        self.counts = Counts(hosted, num_fragments, with_samples=plan.weigh_by == "samples")
        """Local steps and samples of the hosted workers."""
        self._is_elastic = plan.elastic
        self.asks_to_stop = False
        """Whether this process asks that training ends, in all that it reports from now on."""

    def note_norms(self, norms: Tensor, steps: int = 1) -> None:
        """Records norms for the score: see `Tracker.note_gradients`."""
        if self._tracker is not None and steps == 1:
            self._tracker.note_gradients(norms)  # all that trackers for every step need to take
        elif self._tracker is not None:
            self._tracker.note_gradients(norms, steps)

    def note_losses(self, losses: Tensor, workers: slice) -> None:
        """Records the losses of a local step of these hosted workers, one each."""
        self._losses.note(losses, workers)
        if self._tracker is not None and self._needs_losses:
            noted = self._replicas.gradients.zeros().fill_(torch.nan)
            noted[workers] = torch.where(torch.isfinite(losses), losses, torch.inf).to(noted)
            self._tracker.note_losses(noted)

    def forget_losses(self, workers: Sequence[int]) -> None:
        """Drops the losses of hosted workers that have been reset, which no longer apply."""
        self._losses.forget(workers)

    def restart(self, fragment: int) -> Tensor:
        """Called after each round of a fragment; returns what `Counts.restart` does."""
        self._losses.restart(self._mean_losses[fragment], fragment)
        if self._tracker is not None:
            self._tracker.restart(fragment)
        return self.counts.restart(fragment)

    def has_new_steps(self, fragment: int) -> bool:
        """Whether hosted workers have made steps since the fragment's last round."""
        return bool(self.counts.new_steps(fragment).any())

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
            A row each, (K, C), on the CPU, of the same length for every purpose; scores and buffer
            states are zero except for a round.
        """
        whole = purpose in WHOLE
        states, forms = self._buffers(whole=whole)
        sizes, moved, sums, scores, states, given = on_host([
            self._sizes(purpose),
            self._displacements(fragment, whole=whole),
            self._losses.sums(fragment),
            self._scores(fragment, whole=whole),
            states,
            values
            if isinstance(values, Tensor)
            else torch.tensor(values, dtype=torch.float64, device="cpu"),
        ])
        self._mean_losses[fragment] = self._losses.means(sums, fragment)
        sizes = sizes.masked_fill((states == BufferState.NAN).any(dim=1), torch.nan)
        steps = self.counts.steps
        rows = torch.empty(len(steps), ROW_LENGTH, dtype=torch.float64, device="cpu")
        about = [purpose, rounds, self.asks_to_stop, elapsed]
        rows[:, :4] = torch.tensor(about, dtype=torch.float64, device="cpu")
        made = self.counts.new_steps(fragment), self.counts.new_samples(fragment)
        own = (given, torch.tensor(steps, device="cpu"), *made, self._replicas.lrs(), sizes, moved)
        for column, numbers in enumerate((*own, self._mean_losses[fragment]), start=4):
            rows[:, column] = numbers
        columns = [rows, scores.double(), states + forms]
        if self._shares:
            columns.append(self._replicas.gradients.has_gradient().double())
        return torch.cat(columns, dim=1)

    def _sizes(self, purpose: Purpose) -> Tensor:
        """Norms of the parameters, (K,); NaN where gradients to be shared are not finite."""
        gradients = self._replicas.gradients
        sizes = gradients.sizes(self._replicas.params)
        if purpose is not Purpose.GRADIENTS:
            return sizes
        norms = gradients.gradient_norms().sum(dim=1)
        return torch.where(torch.isfinite(norms), sizes, torch.nan)

    def _buffers(self, *, whole: bool) -> tuple[Tensor, Tensor]:
        """States of the buffers, (K, B), and their forms, (B,): zeros where they don't matter."""
        if whole and self._num_buffers:
            buffers = self._replicas.buffers
            rows = buffers.rows()
            return buffers.states(rows, self._replicas.gradients.device), forms_of(rows)
        none = torch.zeros(self._num_buffers, dtype=torch.float64, device="cpu")
        return none.expand(len(self.counts.steps), -1), none

    def _displacements(self, fragment: int, *, whole: bool) -> Tensor:
        """L2 distances of the parameters from the center, (K,); NaN where they don't matter."""
        if not self._sees_displacements or not whole:
            return torch.full((len(self.counts.steps),), torch.nan, device="cpu")
        moved: Tensor = vector_norm(self._observed.displacement_norms(fragment), dim=1)
        return moved

    def _scores(self, fragment: int, *, whole: bool) -> Tensor:
        if self._tracker is None or not whole:
            return torch.zeros(len(self.counts.steps), self._num_scores, device="cpu")
        return self._tracker.read(self._observed, fragment, self.has_new_steps(fragment))

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
        purposes, rounds, stop, elapsed, values, steps, new, samples, lr, *well = fixed.unbind(
            dim=1
        )
        sizes, moved, losses = well
        there = ~purposes.isnan()  # elastic workers may be absent
        steps, new = steps.nan_to_num(), new.nan_to_num()
        told = scores if self._num_scores else None
        health = Health(sizes, losses, told, self._is_norm, new, displacements=moved)
        return Roll(
            purposes=tuple(Purpose(int(p)) for p in purposes.nan_to_num(Purpose.ABSENT).tolist()),
            rounds=rounds,
            steps=steps,
            new_steps=new,
            new_samples=samples.nan_to_num(),
            lr=float(lr[there].median()),
            elapsed=float(elapsed[there][0]),
            values=values,
            health=health,
            marks=marks[there],
            has_gradient=has_gradient,
            stopping=bool((self._heard(stop) > 0).any()),
        )

    def _heard(self, stop: Tensor) -> Tensor:
        """Whose requests to stop count here: everyone's; an elastic worker's own, who can leave."""
        return self._comm.hosted(stop) if self._is_elastic else stop

    def _agreed(self, rows: Tensor) -> Tensor:
        """One row for a worker of several processes: means; not finite if one process's is not."""
        if self._worker is None:
            return rows
        everyone = self._worker.gather(rows)()
        agreed = everyone.mean(dim=0, keepdim=True)
        exact = slice(0, 3), slice(ROW_LENGTH + self._num_scores, None)
        for columns in exact:  # codes and flags, of which a mean would be meaningless
            agreed[:, columns] = everyone[:, columns].amax(dim=0)
        return agreed

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "tracker": self._tracker.state_dict() if self._tracker else None,
            "losses": self._losses.state_dict(),
            **self.counts.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._losses.load_state_dict(state["losses"])
        self.counts.load_state_dict(state)
