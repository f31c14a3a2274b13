"""The roll call before a round: what every worker says of itself, in one small message."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.protocol import Communicator
from grawa.rounds.guard import Health
from grawa.scores.protocol import Score
from grawa.workers.losses import RecentLosses
from grawa.workers.replicas import Replicas

ROW_LENGTH = 6
"""Numbers that a worker says before a round, beside its scores: see `Roll`."""


class Calls(IntEnum):
    """What a worker calls the others together for."""

    ROUND = 0
    GRADIENTS = 1
    LEAVING = 2
    CONSENSUS = 3


class Roll(NamedTuple):
    """What all workers said."""

    calls: Tensor
    """(N,)"""
    new_steps: Tensor
    """(N,), local steps since the last round."""
    lr: float
    """The learning rate, by the lower median of what the workers have."""
    elapsed: float
    """Seconds since the start, by worker 0's clock."""
    health: Health
    has_gradient: Tensor
    """(N, L), or (N, 0) for a strategy that never shares gradients."""


class RollCall:
    """Collects what the hosted workers will say while they train, and calls the roll.

    Args:
        replicas: the hosted workers.
        comm: all workers.
        worker: the processes that the one hosted worker is made of, if they are several.
        score: what the strategy asks for, if anything.
        groups: the group of each leaf.
        with_buffers: whether buffers must be finite too, since they are averaged.
        shares_gradients: whether the strategy ever shares gradients.
    """

    def __init__(
        self,
        replicas: Replicas,
        comm: Communicator,
        worker: Communicator | None,
        *,
        score: Score | None,
        groups: Sequence[int],
        with_buffers: bool,
        shares_gradients: bool,
    ) -> None:
        self._replicas = replicas
        self._with_buffers = with_buffers
        self._comm = comm
        self._worker = worker
        self._score = score
        self._num_scores = max(groups) + 1 if score else 0
        self._shares = shares_gradients
        self._tracker = score.tracker(groups, comm.num_hosted) if score else None
        self._losses = RecentLosses(replicas.zeros())
        self._new_steps = [0] * comm.num_hosted

    def note_step(self, norms: Tensor | None, who: slice) -> None:
        """Counts a local step.

        Args:
            norms: (K, L), of the gradients, if the score is made of them; NaN for who made none.
            who: the hosted workers that made it.
        """
        self._new_steps[who] = [steps + 1 for steps in self._new_steps[who]]
        if self._tracker is not None and norms is not None:
            self._tracker.note_gradients(norms)

    def note_losses(self, losses: Tensor, who: slice) -> None:
        """Takes the losses of a local step of these hosted workers, one each."""
        self._losses.note(losses, who)
        if self._tracker is not None:
            noted = self._replicas.zeros().fill_(torch.nan)
            noted[who] = torch.where(torch.isfinite(losses), losses, torch.inf).to(noted)
            self._tracker.note_losses(noted)

    def forget_losses(self, worker: int) -> None:
        """A hosted worker has started again, so its losses until now say nothing of it."""
        self._losses.forget(worker)

    def call(self, rows: Tensor) -> Roll:
        """Calls all workers together; each process must do so, for whatever purpose.

        Args:
            rows: what the hosted workers say, as `rows` gave it.

        Returns:
            What all said.
        """
        everyone = self._comm.gather(self._agreed(rows))()
        calls, sizes, losses, new_steps, lrs, elapsed = everyone[:, :ROW_LENGTH].unbind(dim=1)
        scores, has_gradient = everyone[:, ROW_LENGTH:].tensor_split([self._num_scores], dim=1)
        is_norm = self._score is not None and self._score.is_norm
        health = Health(sizes, losses, scores if self._num_scores else None, is_norm)
        return Roll(calls, new_steps, float(lrs.median()), float(elapsed[0]), health, has_gradient)

    def restart(self) -> None:
        """Called after each round."""
        self._losses.restart()
        self._new_steps = [0] * len(self._new_steps)
        if self._tracker is not None:
            self._tracker.restart()

    def rows(self, purpose: Calls, elapsed: float) -> Tensor:
        """What the hosted workers say.

        Args:
            purpose: what for.
            elapsed: seconds since the start.

        Returns:
            A row each, (K, C).
        """
        sizes = self._replicas.sizes(with_buffers=self._with_buffers)
        if purpose is Calls.GRADIENTS:
            norms = self._replicas.gradient_norms().sum(dim=1)
            sizes = torch.where(torch.isfinite(norms), sizes, torch.nan)
        losses = self._losses.read()
        purposes = torch.full_like(losses, float(purpose))
        times = torch.full_like(losses, elapsed)
        steps, lrs = losses.new_tensor(self._new_steps), self._replicas.lrs().to(losses)
        columns = [torch.stack([purposes, sizes.to(losses), losses, steps, lrs, times], dim=1)]
        if self._tracker is not None:
            if purpose is Calls.CONSENSUS:  # must not run a probe, and so change what comes after
                scores = torch.zeros(len(losses), self._num_scores)
            else:
                scores = self._tracker.read(self._replicas, anew=self.has_news(purpose))
            columns.append(scores.to(losses))
        if self._shares:
            columns.append(self._replicas.has_gradient().to(losses))
        return torch.cat(columns, dim=1)

    def has_news(self, purpose: Calls) -> bool:
        """Whether scores for a round are to be found out; who leaves idle says what it said."""
        idle = purpose is Calls.LEAVING and not any(self._new_steps)
        return purpose in {Calls.ROUND, Calls.LEAVING} and not idle

    def _agreed(self, rows: Tensor) -> Tensor:
        """What a worker of several processes says with one voice; not finite if one is not."""
        if self._worker is None:
            return rows
        return self._worker.gather(rows)().mean(dim=0, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "tracker": self._tracker.state_dict() if self._tracker else None,
            "losses": self._losses.state_dict(),
            "new_steps": self._new_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._losses.load_state_dict(state["losses"])
        self._new_steps = state["new_steps"]
