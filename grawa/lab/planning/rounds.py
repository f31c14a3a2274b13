"""Times what rounds take beside their messages."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from grawa.comm import DistributedCommunicator, InProcessCommunicator
from grawa.comm.protocol import Transport
from grawa.lab.planning.links import Hosts
from grawa.lab.planning.predict import ROW_BYTES, width
from grawa.lab.planning.probe import EXCHANGE_SECONDS
from grawa.lab.planning.timing import median_of_slowest
from grawa.lab.simulate.network import Network
from grawa.math.codec import NAMED, Precision
from grawa.math.host import wait_for
from grawa.rounds.clock import WallClock
from grawa.rounds.engine import Engine
from grawa.rounds.fragment import Fragment
from grawa.rounds.observed import Hosted
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import Purpose
from grawa.rounds.roll_call import RollCall
from grawa.rounds.schedule import Every
from grawa.strategies.protocol import Strategy
from grawa.workers.replicas import Replicas

COLD_BYTES = 2**26
"""That each process touches before a round, as local steps do: then caches hold none of it."""

NEVER = 10**9
"""Local steps after which a round would be due by itself."""

LEAST_NUMBERS = 2**18
"""In a round between processes; with less, starting messages would count for too much."""


class _Rounds(Protocol):
    """Rounds of the same method, one after another."""

    def local_step(self) -> None:
        """What comes before a round."""

    def run(self) -> None:
        """A round."""


class _Alone:
    """Rounds of one worker, which an engine would leave out as they change nothing."""

    def __init__(
        self, replicas: Replicas, optimizer: Optimizer, plan: RoundPlan, comm: Transport
    ) -> None:
        groups = plan.strategy.groups(replicas.names)
        self._replicas, self._optimizer = replicas, optimizer
        self._fragment = Fragment(replicas.params, groups, plan, comm)
        observed = Hosted(replicas.gradients, [self._fragment], plan)
        self._roll_call = RollCall(replicas, comm, None, plan, groups, observed)
        self._roll_call.note_losses(replicas.gradients.zeros() + 1.0, slice(None))

    def local_step(self) -> None:
        """See `_Rounds.local_step`."""
        self._optimizer.step()
        self._roll_call.counts.add_step(slice(None))
        self._roll_call.note_norms(self._replicas.gradients.gradient_norms())

    def run(self) -> None:
        """See `_Rounds.run`."""
        rows = self._roll_call.rows(Purpose.ROUND, 0, rounds=0, elapsed=0.0)
        scores = self._roll_call.call(rows).health.scores
        self._fragment.run(self._fragment.params, scores, torch.ones(1, dtype=torch.bool))
        self._fragment.commit()
        self._roll_call.restart(0)


class _Together:
    """Rounds of all processes, as they have them in training."""

    def __init__(
        self, replicas: Replicas, optimizer: Optimizer, plan: RoundPlan, comm: Transport
    ) -> None:
        every = replace(plan, schedule=Every(NEVER)).for_parameters(replicas.names)
        self._engine = Engine(replicas, comm, None, every, WallClock(), ())
        self._optimizer, self._loss = optimizer, replicas.gradients.zeros() + 1.0
        self._engine.local_steps_begin()

    def local_step(self) -> None:
        """See `_Rounds.local_step`."""
        self._optimizer.step()
        self._engine.note_losses(self._loss)
        self._engine.local_step()

    def run(self) -> None:
        """See `_Rounds.run`."""
        self._engine.synchronize()


class RoundProbe:
    """Times rounds: of one worker alone, or between running processes, collectively.

    Processes that share cores slow each other down, at some times of a round more than at others,
    so what rounds between them take is timed in such rounds, and the messages are subtracted. If
    these would take long, the rounds are of a part of the parameters.

    Args:
        sizes: of the parameters' tensors, in numbers.
        device: where they live.
        network: between the workers.
        hosts: the ranks of each host; `None` for one worker alone, who sends no messages.
        least_seconds: for which each kind of round is repeated; at least five times.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        device: torch.device,
        network: Network,
        hosts: Hosts | None,
        least_seconds: float,
    ) -> None:
        self._sizes, self._device, self._network = sizes, device, network
        self._least_seconds = least_seconds
        self._alone = hosts is None
        self._cold = torch.zeros(COLD_BYTES // 4, device=device)
        self._comm: Transport = (
            InProcessCommunicator(1)
            if hosts is None
            else DistributedCommunicator(device=device, hosts=hosts)
        )

    def seconds(
        self,
        strategy: Strategy,
        busiest_share: float,
        row_length: int,
        dtype: str = "same",
    ) -> float:
        """Seconds of a round of the whole model, beside its messages; the same on every process.

        Args:
            strategy: the strategy.
            busiest_share: see `Method`.
            row_length: see `Method`.
            dtype: in which parameters travel: see `Variant`.

        Returns:
            Norms, scores, mean and pull; encoding and decoding too, if it is not their own.
        """
        on_link = width(dtype)
        busiest = busiest_share * 4.0 * sum(self._sizes)
        part = 1.0
        if not self._alone:
            exchange_seconds = min(EXCHANGE_SECONDS, self._least_seconds)
            fitting = exchange_seconds / self._network.busiest_seconds(busiest, on_link)
            part = min(1.0, max(fitting, LEAST_NUMBERS / sum(self._sizes)))
        numbers = [max(1, int(part * size)) for size in self._sizes]
        rounds = self._rounds(numbers, strategy, NAMED.get(dtype))

        def prepare() -> None:
            rounds.local_step()
            self._cold.add_(1.0)  # empties caches
            wait_for(self._device)
            self._comm.gather(torch.zeros(1, 1, device=self._device))()

        seconds = median_of_slowest(rounds.run, self._least_seconds, self._device, prepare)
        if self._alone:
            return seconds
        messages = self._network.busiest_seconds(part * busiest, on_link)
        messages += self._network.gather_seconds(row_length * ROW_BYTES)
        # Never below zero: a link that is faster after a pause would not be for a larger model.
        return max(0.0, seconds - messages) / part

    @property
    def coded_share(self) -> float:
        """Of the parameters, what a process encodes in such a round."""
        return 1.0 if self._alone else self._network.coded_share

    def _rounds(
        self, numbers: Sequence[int], strategy: Strategy, precision: Precision | None
    ) -> _Rounds:
        """Rounds with tensors of these sizes, which start equal on all processes."""
        random = torch.Generator().manual_seed(0)
        model = nn.ParameterList([torch.randn(n, generator=random) for n in numbers])
        random.manual_seed(1 + self._comm.process)  # workers that don't move apart are warned of
        for parameter in model:
            parameter.grad = torch.randn(parameter.shape, generator=random)
        model.to(self._device)
        optimizer = SGD(model.parameters(), lr=1e-3)
        replicas = Replicas([model], [[optimizer]])
        plan = RoundPlan(strategy=strategy, comm_dtype=precision)
        if self._alone:
            return _Alone(replicas, optimizer, plan, self._comm)
        return _Together(replicas, optimizer, plan, self._comm)

    def close(self) -> None:
        """Frees what rounds between processes need; collective then."""
        self._comm.release()
