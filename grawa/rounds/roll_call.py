"""The one place where processes meet: each says what for, and how its workers are."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.rounds.guard import Health
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import ROUNDS, Purpose
from grawa.workers.buffers import BufferState, states_of
from grawa.workers.losses import RecentLosses
from grawa.workers.replicas import Replicas

ROW_LENGTH = 9
"""Numbers that a worker says whatever it comes for: see `Roll`."""


class Roll(NamedTuple):
    """What all workers said."""

    purposes: tuple[Purpose, ...]
    """N of them."""
    rounds: Tensor
    """(N,), rounds made."""
    steps: Tensor
    """(N,), local steps made."""
    new_steps: Tensor
    """(N,), local steps since the last round of the fragment."""
    lr: float
    """The learning rate, by the lower median of what the workers have."""
    elapsed: float
    """Seconds since the start, by worker 0's clock."""
    values: Tensor
    """(N,), what each wants the others to know."""
    health: Health
    marks: Tensor
    """(N, B), of the buffers: see `grawa.workers.buffers`."""
    has_gradient: Tensor
    """(N, L), or (N, 0) for a strategy that never shares gradients."""


class RollCall:
    """Collects what is to be said of the hosted workers while they train, and calls the roll.

    Args:
        replicas: the hosted workers.
        comm: all workers.
        worker: the processes that the one hosted worker is made of, if they are several.
        plan: how rounds are made.
        groups: the group of each leaf.
        moves: whether rounds move anything; if not, no scores are asked for.
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
        num_fragments = plan.fragments
        self._replicas, self._comm, self._worker = replicas, comm, worker
        self._num_scores = max(groups) + 1 if score else 0
        self._num_buffers = len(replicas.buffers.names) if with_buffers else 0
        self._shares = plan.strategy.shares_gradients(0)
        hosted = comm.num_hosted
        self._tracker = score.tracker(groups, hosted, num_fragments) if score else None
        self._is_norm = score is not None and score.is_norm
        self._losses = RecentLosses(replicas.zeros(), num_fragments)
        self._new_steps = torch.zeros(num_fragments, hosted, dtype=torch.float64, device="cpu")
        self.steps = [0] * hosted
        """Local steps of each hosted worker."""

    def note_step(self, norms: Tensor | None, workers: slice) -> None:
        """Counts a local step.

        Args:
            norms: (K, L), of the gradients, if the score is made of them; NaN for who made none.
            workers: the hosted workers that made it.
        """
        self._new_steps[:, workers] += 1
        self.steps[workers] = [step + 1 for step in self.steps[workers]]
        if self._tracker is not None and norms is not None:
            self._tracker.note_gradients(norms)

    def uncount(self, skipped: Tensor) -> None:
        """Takes back steps that turned out to have been skipped: (K,), how many each."""
        self._new_steps -= skipped
        self.steps = [made - int(s) for made, s in zip(self.steps, skipped, strict=True)]

    def note_losses(self, losses: Tensor, workers: slice) -> None:
        """Takes the losses of a local step of these hosted workers, one each."""
        self._losses.note(losses.to(self._replicas.zeros()), workers)
        if self._tracker is not None:
            noted = self._replicas.zeros().fill_(torch.nan)
            noted[workers] = torch.where(torch.isfinite(losses), losses, torch.inf).to(noted)
            self._tracker.note_losses(noted)

    def forget_losses(self, workers: Sequence[int]) -> None:
        """Hosted workers have started again, so their losses until now say nothing of them."""
        self._losses.forget(workers)

    def restart(self, fragment: int) -> None:
        """Called after each round of a fragment."""
        self._losses.restart(fragment)
        self._new_steps[fragment] = 0
        if self._tracker is not None:
            self._tracker.restart(fragment)

    def has_news(self, fragment: int) -> bool:
        """Whether hosted workers have made steps since the fragment's last round."""
        return bool(self._new_steps[fragment].any())

    def rows(
        self,
        purpose: Purpose,
        fragment: int,
        *,
        rounds: int,
        elapsed: float,
        value: float = 0.0,
    ) -> Tensor:
        """What the hosted workers say.

        Args:
            purpose: what they come for.
            fragment: whose round is next.
            rounds: that have been made.
            elapsed: seconds since the start.
            value: what the others are to know.

        Returns:
            A row each, (K, C), as wide for every purpose; with scores and buffers for a round.
        """
        whole = purpose in ROUNDS
        sizes, losses = self._replicas.sizes(), self._losses.read(fragment)
        marks = losses.new_zeros(len(losses), self._num_buffers, dtype=torch.float64)
        if purpose is Purpose.GRADIENTS:
            norms = self._replicas.gradient_norms().sum(dim=1)
            sizes = torch.where(torch.isfinite(norms), sizes, torch.nan)
        elif whole and self._num_buffers:
            buffers = self._replicas.buffers
            marks = buffers.marks(buffers.rows(), losses.device)
            broken = (states_of(marks) == BufferState.NAN).any(dim=1)
            sizes = torch.where(broken, torch.nan, sizes)
        same = [purpose, rounds, elapsed, value]
        columns = [losses.new_tensor(same, dtype=torch.float64).expand(len(losses), -1)]
        own = [
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
            columns.append(self._replicas.has_gradient().to(marks))
        return torch.cat(columns, dim=1)

    def _scores(self, fragment: int, *, whole: bool) -> Tensor:
        if self._tracker is None or not whole:
            return torch.zeros(len(self.steps), self._num_scores, device="cpu")
        return self._tracker.read(self._replicas, fragment, self.has_news(fragment))

    def call(self, rows: Tensor) -> Roll:
        """Calls all workers together; each process must do so, for whatever purpose.

        Args:
            rows: what the hosted workers say, as `rows` gave it.

        Returns:
            What all said.
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
        """What a worker of several processes says with one voice; not finite if one is not."""
        if self._worker is None:
            return rows
        everyone = self._worker.gather(rows)()
        agreed = everyone.mean(dim=0, keepdim=True)
        exact = slice(0, 2), slice(ROW_LENGTH + self._num_scores, None)
        for columns in exact:  # names of things, of which there is no mean
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
        """Takes back what `state_dict` gave."""
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._losses.load_state_dict(state["losses"])
        self._new_steps.copy_(state["new_steps"])
        self.steps = list(state["steps"])
