"""A round from the roll call to its end: who is well, who is pulled, who is mended."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.alike import average_buffers, start_alike
from grawa.comm.participants import Participants
from grawa.errors import UserError
from grawa.guard import Guard, Health, Verdict, trusting
from grawa.math.weights import uniform
from grawa.protocols import Communicator, Strategy
from grawa.replicas import Replicas
from grawa.roll import Calls, Roll
from grawa.stack import Leaves


class Outcome(NamedTuple):
    """What a round came to."""

    weights: Tensor | None
    """(N, G), or `None` where the workers count equally."""
    verdict: Verdict
    consensus_distance: float | None


class Rounds:
    """Runs the rounds of a strategy over hosted workers; state lives here between rounds.

    Args:
        replicas: the hosted workers; all workers get the parameters and buffers of worker 0.
        strategy: how workers are pulled together.
        comm: all workers.
        guard: who takes part; `None` for everyone, whatever their state.
        with_buffers: whether buffers are averaged too.
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
        with_buffers: bool,
        measure_distance: bool,
    ) -> None:
        self._replicas = replicas
        self._strategy = strategy
        self._comm = comm
        self._guard = guard
        self._with_buffers = with_buffers
        self._measure_distance = measure_distance
        self._buffer_mean: Leaves | None = None
        self._gradient_mean: Leaves | None = None
        start_alike(replicas, comm)
        self._state = strategy.init(replicas.params, comm)

    def drift(self, share: float) -> None:
        """After a local step that makes up `share` of a round."""
        self._strategy.drift(self._replicas.params, self._state, share)

    def run(self, roll: Roll) -> Outcome:
        """One round with those who answered the roll call."""
        self._replicas.check_unmoved()
        verdict = self._judge(roll.health)
        others = Participants(self._comm, verdict.active, measure=self._measure_distance)
        done = self._strategy.sync(self._replicas.params, verdict.scores, self._state, others)
        self._state = done.state
        self._mend(verdict, others)
        if self._with_buffers:
            self._buffer_mean = average_buffers(self._replicas, others, self._buffer_mean)
        return Outcome(done.weights, verdict, self._distance(others, verdict))

    def _judge(self, health: Health) -> Verdict:
        return trusting(health) if self._guard is None else self._guard.judge(health)

    def _mend(self, verdict: Verdict, others: Communicator) -> None:
        """Workers that are not finite start again from the consensus."""
        if not bool(verdict.reset.any()):
            return
        consensus = self._strategy.consensus(self._replicas.params, self._state, others)
        for worker in torch.where(self._comm.hosted(verdict.reset))[0]:
            self._replicas.reset(int(worker), consensus)

    def _distance(self, others: Participants, verdict: Verdict) -> float | None:
        if others.distances is None:
            return None
        distances = self._comm.gather(others.distances.unsqueeze(1))()[verdict.active]
        return float(distances.square().mean().sqrt())

    def share_gradients(self, roll: Roll, step: int) -> None:
        """Replaces the hosted workers' gradients by the mean of all workers' gradients.

        Raises:
            UserError: if some worker has stopped, or is at a round.
        """
        elsewhere = torch.where(roll.calls != Calls.GRADIENTS)[0].tolist()
        if elsewhere:
            raise UserError(
                f"workers {elsewhere} were not at step {step} when the others shared gradients; "
                "sharing gradients needs the same number of optimizer steps on every worker"
            )
        others = Participants(self._comm, self._judge(roll.health).active)
        self._gradient_mean = others.weighted_mean(
            self._replicas.gradients(), uniform(self._comm.num_workers), self._gradient_mean
        )
        wanted = (roll.has_gradient > 0).any(dim=0).tolist()
        self._replicas.set_gradients(self._gradient_mean, wanted)

    def consensus(self, roll: Roll) -> Leaves:
        """The strategy's consensus of the workers that are well."""
        others = Participants(self._comm, self._judge(roll.health).active)
        return self._strategy.consensus(self._replicas.params, self._state, others)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {key: dict(leaves) for key, leaves in self._state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave, into the same strategy.

        Raises:
            UserError: if it was saved by another strategy.
        """
        if state.keys() != self._state.keys():
            raise UserError(
                f"the saved state has {sorted(state)}, but this strategy keeps "
                f"{sorted(self._state)}: load it into the strategy it was saved from"
            )
        for key, leaves in self._state.items():
            for name, leaf in leaves.items():
                leaf.copy_(state[key][name])
