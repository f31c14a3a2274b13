"""A round from its first message to its last: who is well, who is pulled, who is mended."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.errors import UserError
from grawa.guard import Guard, Health, Verdict, trusting
from grawa.math.motion import put_
from grawa.math.weights import uniform
from grawa.protocols import Communicator, Strategy
from grawa.replicas import Replicas
from grawa.stack import Leaves


class Calls(IntEnum):
    """What a worker calls the others together for."""

    ROUND = 0
    GRADIENTS = 1
    LEAVING = 2


class Roll(NamedTuple):
    """What all workers said when they were called."""

    calls: Tensor
    """(N,)"""
    health: Health
    has_gradient: Tensor
    """(N, L), or (N, 0) for a strategy that never shares gradients."""


class Outcome(NamedTuple):
    """What a round came to."""

    weights: Tensor | None
    verdict: Verdict
    consensus_distance: float | None


class Rounds:
    """Runs the rounds of a strategy over hosted workers; state lives here between rounds.

    Args:
        replicas: the hosted workers.
        strategy: how workers are pulled together.
        comm: the other workers.
        guard: who takes part; `None` for everyone, whatever their state.
        worker: the processes that this worker is made of, if they are several.
        average_buffers: whether buffers are averaged too.
        measure_distance: whether consensus distances are measured; one more pass over the
            parameters and one more small message a round.
    """

    def __init__(
        self,
        replicas: Replicas,
        strategy: Strategy,
        comm: Communicator,
        guard: Guard | None,
        *,
        worker: Communicator | None,
        average_buffers: bool,
        measure_distance: bool,
    ) -> None:
        self.replicas = replicas
        self.strategy = strategy
        self.comm = comm
        self._guard = guard
        self._worker = worker
        self._average_buffers = average_buffers
        self._measure_distance = measure_distance
        self._groups = strategy.groups(replicas.names)
        score = strategy.score
        self.tracker = score.tracker(self._groups, comm.num_hosted) if score else None
        self._are_norms = score is not None and score.is_norm
        self._loss_sum = replicas.zeros()
        self._num_losses = 0
        self._buffer_mean: Leaves | None = None
        self._gradient_mean: Leaves | None = None
        self._shares = strategy.shares_gradients(0)
        self.start_together()
        self.state = strategy.init(replicas.params, comm)

    def start_together(self) -> None:
        """Gives every worker the parameters and buffers of worker 0."""
        if self.comm.num_workers == 1:
            return
        first = torch.zeros(self.comm.num_workers, 1, dtype=torch.float64)
        first[0] = 1.0
        floats = self.replicas.buffers(torch.is_floating_point)
        for stack in (self.replicas.params, self.replicas.others(), floats):
            if stack:
                put_(stack, self.comm.weighted_mean(stack, first))
        self._sync_integers(lambda everyone: everyone[0])

    def _sync_integers(self, pick: Callable[[Tensor], Tensor]) -> None:
        """Sets buffers that are not floating-point to what is picked from all workers' (N, C)."""
        stack = self.replicas.buffers(lambda buffer: not torch.is_floating_point(buffer))
        if stack:
            flat = torch.cat(
                [rows.reshape(len(rows), -1).to(torch.float64) for rows in stack.values()], dim=1
            )
            sizes = [rows[0].numel() for rows in stack.values()]
            parts = torch.split(pick(self.comm.gather(flat)()), sizes)
            for rows, part in zip(stack.values(), parts, strict=True):
                rows.copy_(part.view(rows.shape[1:]))

    def note_losses(self, losses: Tensor) -> None:
        """Takes the hosted workers' losses of a local step, (K,)."""
        self._loss_sum += losses
        self._num_losses += 1
        if self.tracker is not None:
            self.tracker.note_losses(losses)

    def drift(self, share: float) -> None:
        """After a local step that makes up `share` of a round."""
        self.strategy.drift(self.replicas.params, self.state, share)

    def call(self, purpose: Calls) -> Roll:
        """Calls all workers together; a message of a few numbers each."""
        row = self._agreed(self._row(purpose))
        rows = self.comm.gather(row)()
        num_scores = row.shape[1] - 3 - (len(self._groups) if self._shares else 0)
        scores = rows[:, 3 : 3 + num_scores] if self.tracker is not None else None
        health = Health(rows[:, 1] > 0, rows[:, 2], scores, self._are_norms)
        return Roll(rows[:, 0], health, rows[:, 3 + num_scores :])

    def _row(self, purpose: Calls) -> Tensor:
        """What the hosted workers say: purpose, soundness, loss, scores, gradients: (K, C)."""
        finite = self.replicas.finite()
        if purpose is Calls.GRADIENTS:
            finite = finite & torch.isfinite(self.replicas.gradient_norms().sum(dim=1))
        losses = self._mean_losses()
        purposes = torch.full_like(losses, float(purpose))
        columns = [torch.stack([purposes, finite.to(losses), losses], dim=1)]
        if self.tracker is not None:
            columns.append(self.tracker.read().to(losses))
        if self._shares:
            columns.append(self.replicas.has_gradient().to(losses))
        return torch.cat(columns, dim=1)

    def _agreed(self, row: Tensor) -> Tensor:
        """What a worker of several processes says with one voice: sound only if all are."""
        if self._worker is None:
            return row
        rows = self._worker.gather(row)()
        agreed = rows.mean(dim=0, keepdim=True)
        agreed[:, 1] = rows[:, 1].amin()
        return agreed

    def _mean_losses(self) -> Tensor:
        """Since the last round, (K,): NaN where none was noted, infinite where not finite."""
        if self._num_losses == 0:
            return torch.full_like(self._loss_sum, torch.nan)
        means = self._loss_sum / self._num_losses
        return torch.where(torch.isfinite(means), means, torch.inf)

    def judge(self, health: Health) -> Verdict:
        """Who takes part."""
        return trusting(health) if self._guard is None else self._guard.judge(health)

    def run(self, roll: Roll) -> Outcome:
        """One round with those who were called."""
        self.replicas.check_unmoved()
        verdict = self.judge(roll.health)
        others = Participants(self.comm, verdict.active, measure=self._measure_distance)
        params = self.replicas.params
        done = self.strategy.sync(params, verdict.scores, self.state, others)
        self.state = done.state
        self._mend(verdict, others)
        self._sync_buffers(others)
        if self.tracker is not None:
            self.tracker.restart()
        self._loss_sum.zero_()
        self._num_losses = 0
        return Outcome(done.weights, verdict, self._distance(others, verdict))

    def _mend(self, verdict: Verdict, others: Communicator) -> None:
        """Workers that are not finite start again from the consensus."""
        if not bool(verdict.reset.any()):
            return
        consensus = self.strategy.consensus(self.replicas.params, self.state, others)
        for worker in torch.where(self.comm.hosted(verdict.reset))[0]:
            self.replicas.reset(int(worker), consensus)

    def _sync_buffers(self, others: Communicator) -> None:
        if not self._average_buffers or self.comm.num_workers == 1:
            return
        floats = self.replicas.buffers(torch.is_floating_point)
        if floats:
            equal = uniform(self.comm.num_workers)
            self._buffer_mean = others.weighted_mean(floats, equal, self._buffer_mean)
            put_(floats, self._buffer_mean)
        self._sync_integers(lambda everyone: everyone.amax(dim=0))

    def _distance(self, others: Participants, verdict: Verdict) -> float | None:
        if not self._measure_distance:
            return None
        own = others.distances
        if own is None:  # the strategy asked for no mean
            own = torch.zeros(self.comm.num_hosted)
        distances = self.comm.gather(own.unsqueeze(1))()[verdict.active]
        return float(distances.square().mean().sqrt())

    def share_gradients(self, roll: Roll, step: int) -> None:
        """Replaces the hosted workers' gradients by the mean of all workers' gradients.

        Raises:
            UserError: if some worker has stopped, or is at a round.
        """
        if not bool((roll.calls == Calls.GRADIENTS).all()):
            stopped = [int(i) for i in torch.where(roll.calls != Calls.GRADIENTS)[0]]
            raise UserError(
                f"workers {stopped} were not at step {step} when the others shared gradients; "
                "sharing gradients needs the same number of optimizer steps on every worker"
            )
        wanted = (roll.has_gradient > 0).any(dim=0).tolist()
        verdict = self.judge(roll.health)
        gradients = self.replicas.gradients()
        others = Participants(self.comm, verdict.active)
        equal = uniform(self.comm.num_workers)
        self._gradient_mean = others.weighted_mean(gradients, equal, self._gradient_mean)
        self.replicas.set_gradients(self._gradient_mean, wanted)

    def consensus(self) -> Leaves:
        """See `Strategy.consensus`; collective."""
        return self.strategy.consensus(self.replicas.params, self.state, self.comm)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "strategy": {key: dict(leaves) for key, leaves in self.state.items()},
            "tracker": self.tracker.state_dict() if self.tracker else None,
            "losses": (self._loss_sum, self._num_losses),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, into the same strategy.

        Raises:
            UserError: if it was saved by another strategy.
        """
        if state["strategy"].keys() != self.state.keys():
            raise UserError(
                f"the saved state has {sorted(state['strategy'])}, but this strategy keeps "
                f"{sorted(self.state)}: load it into the strategy it was saved from"
            )
        for key, leaves in self.state.items():
            for name, leaf in leaves.items():
                leaf.copy_(state["strategy"][key][name])
        if self.tracker is not None:
            self.tracker.load_state_dict(state["tracker"])
        loss_sum, self._num_losses = state["losses"]
        self._loss_sum.copy_(loss_sum)
