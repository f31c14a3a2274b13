"""Measures the times from which predictions are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import nn
from torch.optim import SGD, Optimizer

from grawa.comm import InProcessCommunicator, Participants
from grawa.lab.planning.coding import CodecProbe
from grawa.lab.planning.links import Hosts, Progress, measure_network
from grawa.lab.planning.predict import Measured, Method
from grawa.lab.planning.probe import EXCHANGE_SECONDS
from grawa.lab.planning.timing import agreed, median_seconds
from grawa.lab.simulate.metered import Metered
from grawa.lab.simulate.network import Network
from grawa.math.codec import Precision
from grawa.math.leaves import Rows
from grawa.math.weights import uniform
from grawa.rounds.fragment import Fragment
from grawa.rounds.plan import RoundPlan
from grawa.rounds.purposes import Purpose
from grawa.rounds.roll_call import ROW_LENGTH, RollCall
from grawa.strategies import LocalSGD
from grawa.strategies.protocol import Strategy
from grawa.workers.replicas import Replicas

LEAST_SECONDS = 0.5
TRIALS = 16
LATE = 10**6
"""A local step that is later than any warm-up."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A training to predict for.

    Attributes:
        model: on its device.
        optimizer: of the model.
        step: makes one whole local step, including the optimizer's.
        samples: in a step.
    """

    model: nn.Module
    optimizer: Optimizer
    step: Callable[[], object]
    samples: int


def measure(
    subject: Subject,
    strategies: Mapping[str, Strategy],
    network: Network | Hosts,
    show: Progress,
    *,
    least_seconds: float = LEAST_SECONDS,
) -> Measured:
    """Measures the times of a step, of rounds and, without a network, of the links.

    Args:
        subject: the training to predict for.
        strategies: name -> strategy.
        network: between the workers; or the ranks of each host, as `find_hosts` found them, to
            measure the links between the running processes.
        show: shows progress.
        least_seconds: each measurement is repeated for so long, and at least five times.

    Returns:
        The measurements; the same on every process.
    """
    parameters = [p for p in subject.model.parameters() if p.requires_grad]
    device = parameters[0].device
    with show("a local step"):
        step_seconds = agreed(median_seconds(subject.step, least_seconds))
    hosts = None
    if not isinstance(network, Network):
        hosts = network
        network = measure_network(hosts, device, show, min(EXCHANGE_SECONDS, least_seconds))
    sizes = [p.numel() for p in parameters]
    flat = torch.empty(sum(sizes), device=device)
    other = torch.zeros_like(flat)
    with show("a pass over the parameters"):
        copy_seconds = agreed(median_seconds(lambda: flat.copy_(other), least_seconds))
    codec_seconds = (
        _codecs(sizes, show, least_seconds)
        if hosts is None
        else _codecs_between(hosts, network, sizes, device, show, least_seconds)
    )
    methods = []
    for name, strategy in strategies.items():
        with show(f"a round of {name}"):
            methods.append(_method(name, strategy, sizes, network, least_seconds))
    return Measured(
        step_seconds=step_seconds,
        samples=subject.samples,
        model_bytes=4.0 * flat.numel(),
        copy_seconds=copy_seconds,
        codec_seconds=codec_seconds,
        network=network,
        methods=methods,
    )


def _method(
    name: str,
    strategy: Strategy,
    sizes: Sequence[int],
    network: Network,
    least_seconds: float,
) -> Method:
    """Measures a strategy's round for one worker and a model of this size, without messages."""
    always_shares = strategy.shares_gradients(LATE)
    work = 0.0
    if not always_shares:
        work = agreed(_round_work(strategy, sizes, least_seconds))
    groups = strategy.groups([str(i) for i in range(len(sizes))])
    sent, busiest = _shares(strategy, network)
    return Method(
        name=name,
        round_work=work,
        sent_share=sent,
        busiest_share=busiest,
        shares_gradients=always_shares,
        row_length=ROW_LENGTH + (max(groups) + 1 if strategy.score else 0),
    )


def _codecs(sizes: Sequence[int], show: Progress, least_seconds: float) -> dict[str, float]:
    """Measures what encoding and decoding add to a round of one worker, whatever the strategy.

    Returns:
        Precision -> seconds.
    """
    found = {}
    plain = agreed(_round_work(LocalSGD(), sizes, least_seconds))
    for precision in get_args(Precision):
        with show(f"a round in {precision}"):
            coded = agreed(_round_work(LocalSGD(), sizes, least_seconds, precision))
        found[precision] = max(0.0, coded - plain)
    return found


def _codecs_between(
    hosts: Hosts,
    network: Network,
    sizes: Sequence[int],
    device: torch.device,
    show: Progress,
    least_seconds: float,
) -> dict[str, float]:
    """Measures the same between running processes, each of which encodes only its share.

    Returns:
        Precision -> seconds for one that encodes all parameters.
    """
    exchange_seconds = min(EXCHANGE_SECONDS, least_seconds)
    _, sent = _shares(LocalSGD(), network)
    probe = CodecProbe(hosts, network, sent, sizes, device, exchange_seconds)
    found = {}
    for precision in get_args(Precision):
        with show(f"a round in {precision}"):
            found[precision] = probe.seconds(precision) / network.coded_share
    probe.close()
    return found


def _round_work(
    strategy: Strategy,
    sizes: Sequence[int],
    least_seconds: float,
    comm_dtype: Precision | None = None,
) -> float:
    model = nn.ParameterList([torch.randn(size) for size in sizes])
    for parameter in model:
        parameter.grad = torch.randn_like(parameter)
    optimizer = SGD(model.parameters(), lr=0.0)
    optimizer.step()
    replicas, comm = Replicas([model], [[optimizer]]), InProcessCommunicator(1)
    plan = RoundPlan(strategy=strategy, comm_dtype=comm_dtype)
    groups = strategy.groups(replicas.names)
    fragment = Fragment(replicas.params, groups, plan, comm)
    roll_call = RollCall(replicas, comm, None, plan, groups)
    everyone = torch.ones(1, dtype=torch.bool)
    roll_call.note_losses(torch.ones(1), slice(None))

    def work() -> None:
        roll_call.note_step(slice(None))
        roll_call.note_norms(replicas.gradients.gradient_norms())
        roll = roll_call.call(roll_call.rows(Purpose.ROUND, 0, rounds=0, elapsed=0.0))
        fragment.run(fragment.params, roll.health.scores, everyone)
        roll_call.restart(0)

    return median_seconds(work, least_seconds)


def _shares(strategy: Strategy, network: Network) -> tuple[float, float]:
    """Measures the bytes of a round, divided by those of the parameters.

    Returns:
        Those that a worker sends on average, and those that the busiest link carries.
    """
    workers = network.num_workers
    rows = Rows({"x": torch.ones(workers, 64 * workers)}.items())
    model_bytes = rows["x"][0].nbytes
    comm = Metered(InProcessCommunicator(workers), network.per_model(float(model_bytes)))
    if strategy.shares_gradients(LATE):
        comm.weighted_mean(rows, uniform(workers))
        return comm.bytes_sent / model_bytes, comm.take_seconds()
    state, everyone = strategy.init(rows), torch.ones(workers, dtype=torch.bool)
    before = comm.bytes_sent
    scores = torch.ones(workers, 1, dtype=torch.float64) if strategy.score else None
    for number in range(TRIALS):
        strategy.sync(rows, scores, state, Participants(comm, everyone), number)
    return (comm.bytes_sent - before) / TRIALS / model_bytes, comm.take_seconds() / TRIALS
