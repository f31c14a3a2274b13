"""The roll call before a round: what every worker says of itself, in one small message."""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.guard import Health
from grawa.protocols import Communicator, Score
from grawa.replicas import Replicas


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
        shares_gradients: bool,
    ) -> None:
        self._replicas = replicas
        self._comm = comm
        self._worker = worker
        self._score = score
        self._num_scores = max(groups) + 1 if score else 0
        self._shares = shares_gradients
        self._tracker = score.tracker(groups, comm.num_hosted) if score else None
        self._loss_sum = replicas.zeros()
        self._num_losses = 0
        self._new_steps = 0

    def note_step(self) -> None:
        """Counts a local step, and takes its gradients if the score is made of them."""
        self._new_steps += 1
        if self._tracker is not None and self._score is not None and self._score.needs_gradients:
            self._tracker.note_gradients(self._replicas.gradient_norms())

    def note_losses(self, losses: Tensor) -> None:
        """Takes the hosted workers' losses of a local step, (K,)."""
        self._loss_sum += losses
        self._num_losses += 1
        if self._tracker is not None:
            self._tracker.note_losses(losses)

    def call(self, purpose: Calls) -> Roll:
        """Calls all workers together; each process must do so, for whatever purpose."""
        rows = self._comm.gather(self._agreed(self._rows(purpose)))()
        calls, sizes, losses, new_steps = rows[:, :4].unbind(dim=1)
        scores, has_gradient = rows[:, 4:].tensor_split([self._num_scores], dim=1)
        is_norm = self._score is not None and self._score.is_norm
        health = Health(sizes, losses, scores if self._num_scores else None, is_norm)
        return Roll(calls, new_steps, health, has_gradient)

    def restart(self) -> None:
        """Called after each round."""
        self._loss_sum.zero_()
        self._num_losses = 0
        self._new_steps = 0
        if self._tracker is not None:
            self._tracker.restart()

    def _rows(self, purpose: Calls) -> Tensor:
        """What the hosted workers say, each a row: (K, C)."""
        sizes = self._replicas.sizes()
        if purpose is Calls.GRADIENTS:
            norms = self._replicas.gradient_norms().sum(dim=1)
            sizes = torch.where(torch.isfinite(norms), sizes, torch.nan)
        losses = self._mean_losses()
        purposes = torch.full_like(losses, float(purpose))
        steps = torch.full_like(losses, float(self._new_steps))
        columns = [torch.stack([purposes, sizes.to(losses), losses, steps], dim=1)]
        if self._tracker is not None:
            # Asking for the consensus must not run a probe, and so change what comes after.
            asked = purpose is not Calls.CONSENSUS
            scores = self._tracker.read() if asked else torch.zeros(len(losses), self._num_scores)
            columns.append(scores.to(losses))
        if self._shares:
            columns.append(self._replicas.has_gradient().to(losses))
        return torch.cat(columns, dim=1)

    def _mean_losses(self) -> Tensor:
        """Since the last round, (K,): NaN where none was noted, infinite where not finite."""
        if self._num_losses == 0:
            return torch.full_like(self._loss_sum, torch.nan)
        means = self._loss_sum / self._num_losses
        return torch.where(torch.isfinite(means), means, torch.inf)

    def _agreed(self, rows: Tensor) -> Tensor:
        """What a worker of several processes says with one voice; not finite if one is not."""
        if self._worker is None:
            return rows
        return self._worker.gather(rows)().mean(dim=0, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "tracker": self._tracker.state_dict() if self._tracker else None,
            "loss_sum": self._loss_sum,
            "num_losses": self._num_losses,
            "new_steps": self._new_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        if self._tracker is not None:
            self._tracker.load_state_dict(state["tracker"])
        self._loss_sum.copy_(state["loss_sum"])
        self._num_losses = state["num_losses"]
        self._new_steps = state["new_steps"]
