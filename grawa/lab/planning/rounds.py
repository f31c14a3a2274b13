"""Times what rounds take beside their messages."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import SGD

from grawa.comm import DistributedCommunicator, InProcessCommunicator
from grawa.comm.protocol import Transport
from grawa.lab.planning.links import Hosts
from grawa.lab.planning.predict import ROW_BYTES, WIDTHS, Method
from grawa.lab.planning.probe import EXCHANGE_SECONDS
from grawa.lab.planning.timing import agreed_median
from grawa.lab.simulate.network import Network
from grawa.math.codec import Precision
from grawa.rounds.fragment import Fragment
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import Purpose
from grawa.rounds.roll_call import RollCall
from grawa.strategies.protocol import Strategy
from grawa.workers.replicas import Replicas

LEAST_NUMBERS = 2**18
"""In a round between processes; with less, starting messages would count for too much."""


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
        self._comm: Transport = (
            InProcessCommunicator(1)
            if hosts is None
            else DistributedCommunicator(device=device, hosts=hosts)
        )

    def seconds(
        self, method: Method, strategy: Strategy, precision: Precision | None = None
    ) -> float:
        """Seconds of a round of the whole model, beside its messages; the same on every process.

        Args:
            method: what is known of the strategy's messages.
            strategy: the strategy.
            precision: in which parameters travel, if it is not their own.

        Returns:
            Norms, scores, mean and pull; with a precision, encoding and decoding too.
        """
        width = WIDTHS[precision or "same"]
        busiest = method.busiest_share * 4.0 * sum(self._sizes)
        part = 1.0
        if not self._alone:
            exchange_seconds = min(EXCHANGE_SECONDS, self._least_seconds)
            fitting = exchange_seconds / self._network.busiest_seconds(busiest, width)
            part = min(1.0, max(fitting, LEAST_NUMBERS / sum(self._sizes)))
        numbers = [max(1, int(part * size)) for size in self._sizes]
        work = self._round(numbers, strategy, precision)
        seconds = agreed_median(work, self._least_seconds, self._device)
        if self._alone:
            return seconds
        messages = self._network.busiest_seconds(part * busiest, width)
        messages += self._network.gather_seconds(method.row_length * ROW_BYTES)
        return max(0.0, seconds - messages) / part

    def of_coded(self, seconds: float) -> float:
        """Seconds of encoding all parameters, where this process encodes its part of them."""
        return seconds if self._alone else seconds / self._network.coded_share

    def _round(
        self, numbers: Sequence[int], strategy: Strategy, precision: Precision | None
    ) -> Callable[[], None]:
        """A round with tensors of these sizes, which starts equal on all processes."""
        random = torch.Generator().manual_seed(0)
        model = nn.ParameterList([torch.randn(n, generator=random) for n in numbers])
        model.to(self._device)
        for parameter in model:
            parameter.grad = parameter.detach().clone()
        optimizer = SGD(model.parameters(), lr=0.0)
        optimizer.step()
        replicas, comm = Replicas([model], [[optimizer]]), self._comm
        plan = RoundPlan(strategy=strategy, comm_dtype=precision)
        groups = strategy.groups(replicas.names)
        fragment = Fragment(replicas.params, groups, plan, comm)
        roll_call = RollCall(replicas, comm, None, plan, groups)
        everyone = torch.ones(comm.num_workers, dtype=torch.bool)
        roll_call.note_losses(torch.ones(1, device=self._device), slice(None))

        def work() -> None:
            roll_call.note_step(slice(None))
            roll_call.note_norms(replicas.gradients.gradient_norms())
            roll = roll_call.call(roll_call.rows(Purpose.ROUND, 0, rounds=0, elapsed=0.0))
            fragment.run(fragment.params, roll.health.scores, everyone)
            roll_call.restart(0)

        return work

    def close(self) -> None:
        """Frees what rounds between processes need; collective then."""
        self._comm.release()
