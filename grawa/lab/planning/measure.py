"""Measures the times from which predictions are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from grawa.lab.planning.costs import costs
from grawa.lab.planning.links import Hosts, Progress, measure_network
from grawa.lab.planning.predict import Measured, Method
from grawa.lab.planning.probe import EXCHANGE_SECONDS
from grawa.lab.planning.rounds import RoundProbe
from grawa.lab.planning.timing import slowest_median
from grawa.lab.simulate.network import Network
from grawa.math.codec import NAMED
from grawa.strategies import LocalSGD
from grawa.strategies.protocol import Strategy

LEAST_SECONDS = 0.5


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
        step_seconds = slowest_median(subject.step, least_seconds, device)
    hosts = None
    if not isinstance(network, Network):
        hosts = network
        network = measure_network(hosts, device, show, min(EXCHANGE_SECONDS, least_seconds))
    sizes = [p.numel() for p in parameters]
    flat = torch.empty(sum(sizes), device=device)
    other = torch.zeros_like(flat)
    with show("a pass over the parameters"):
        copy_seconds = slowest_median(lambda: flat.copy_(other), least_seconds, device)
    probe = RoundProbe(sizes, device, network, hosts, least_seconds)
    codecs: dict[float, Mapping[str, float]] = {}
    methods = [
        _method(name, strategy, len(sizes), network, probe, codecs, show)
        for name, strategy in strategies.items()
    ]
    probe.close()
    return Measured(
        step_seconds=step_seconds,
        samples=subject.samples,
        model_bytes=4.0 * flat.numel(),
        copy_seconds=copy_seconds,
        network=network,
        methods=methods,
    )


def _method(
    name: str,
    strategy: Strategy,
    tensors: int,
    network: Network,
    probe: RoundProbe,
    codecs: dict[float, Mapping[str, float]],
    show: Progress,
) -> Method:
    """Measures a strategy's round of a model with so many tensors.

    Args:
        name: of the strategy.
        strategy: the strategy.
        tensors: of the model.
        network: between the workers.
        probe: times rounds.
        codecs: of the methods before, by `sent_share`: those that send as much encode as much.
        show: shows progress.

    Returns:
        Its costs.
    """
    method = costs(name, strategy, tensors, network)
    timed, sent = LocalSGD() if method.shares_gradients else strategy, method.sent_share
    work = 0.0
    if not method.shares_gradients or sent not in codecs:
        with show(f"a round of {name}"):
            work = probe.seconds(timed, method.busiest_share, method.row_length)
    if sent not in codecs:
        own = {}
        for dtype in NAMED:
            with show(f"a round of {name} in {dtype}"):
                coded = probe.seconds(timed, method.busiest_share, method.row_length, dtype)
            own[dtype] = max(0.0, coded - work) / probe.coded_share
        codecs[sent] = own
    round_work = 0.0 if method.shares_gradients else work
    return replace(method, round_work=round_work, codec_seconds=codecs[sent])
