"""A worker that is itself several processes: DDP and FSDP2 inside, GRAWA across."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

import grawa
from examples.median import Median
from grawa.math.leaves import Stack
from grawa.math.motion import pull_
from grawa.strategies.protocol import Communicator, State
from tests.helpers import measurements, shown
from tests.world import on_ranks, outcomes

pytestmark = pytest.mark.world

STEPS, SYNC_EVERY = 20, 4


@dataclass(frozen=True, kw_only=True)
class SlowMedian(Median):
    """Workers that are further apart move less."""

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> None:
        apart = float(comm.pairwise_distances(params).max())
        pull_(params, self.consensus(params, state, comm), 1.0 / (1.0 + apart))


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(100 * rank + step)
    return torch.randn(8, 5, generator=random), torch.randint(0, 3, (8,), generator=random)


def two_workers_of_two(
    kind: str, poisoned: int | None = None, strategy: grawa.Strategy | None = None
) -> tuple[Tensor, dict[int, str], list[float | None]]:
    """Ranks 0 and 1 are a worker, and ranks 2 and 3.

    Returns:
        The consensus, who was left out, and what rounds measured.
    """
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("across", "within"))
    across, within = mesh["across"].get_group(), mesh["within"].get_group()
    net: nn.Module = model()
    if kind == "fsdp":
        fully_shard(net, mesh=mesh["within"])
    else:
        net = DistributedDataParallel(net, process_group=within)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    left_out: dict[int, str] = {}
    measured: list[float | None] = []
    averager = grawa.Averager(
        net,
        optimizer,
        strategy or grawa.LGRAWA(),
        sync_every=SYNC_EVERY,
        process_group=across,
        worker_group=within,
        measure_distance=True,
        on_round=[
            lambda report: left_out.update(report.left_out),
            lambda report: measured.extend(measurements(report)),
        ],
    )
    with averager:
        for step in range(STEPS):
            inputs, targets = batch(dist.get_rank(), step)
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs), targets)
            loss.backward()
            # What only one of a worker's processes sees must still be that worker's fate.
            averager.record_loss(loss * (torch.nan if dist.get_rank() == poisoned else 1.0))
            optimizer.step()
    whole = [
        value.full_tensor() if hasattr(value, "full_tensor") else value
        for value in averager.consensus().values()
    ]
    return torch.cat([value.flatten() for value in whole]), left_out, measured


def joined_batches(strategy: grawa.Strategy) -> tuple[Tensor, list[float | None]]:
    """Two hosted workers, each with the batches of two processes; consensus and measurements."""
    measured: list[float | None] = []
    nets = [model(), model()]
    optimizers = [SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    averager = grawa.Averager(
        nets,
        optimizers,
        strategy,
        sync_every=SYNC_EVERY,
        measure_distance=True,
        on_round=[lambda report: measured.extend(measurements(report))],
    )
    with averager:
        for step in range(STEPS):
            losses = []
            for worker, net in enumerate(nets):
                halves = [batch(2 * worker + i, step) for i in range(2)]
                inputs, targets = (torch.cat(parts) for parts in zip(*halves, strict=True))
                optimizers[worker].zero_grad()
                losses.append(cross_entropy(net(inputs), targets))
                losses[-1].backward()
            averager.record_loss(torch.stack(losses))
            for optimizer in optimizers:
                optimizer.step()
    consensus = averager.consensus()
    return torch.cat([value.flatten() for value in consensus.values()]), measured


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
@pytest.mark.parametrize(
    "strategy",
    [
        grawa.LGRAWA(),
        grawa.DPPF(pull=0.1, push=0.3),
        SlowMedian(),
        grawa.MGRAWA(score=grawa.DisplacementNorms()),
        grawa.EDiT(temperature=0.1, clip=0.2),
    ],
    ids=shown,
)
def test_a_worker_of_two_processes_is_one_worker_on_the_joined_batch(
    kind: str, strategy: grawa.Strategy
) -> None:
    expected, apart = joined_batches(strategy)
    found = on_ranks(4, partial(two_workers_of_two, kind, strategy=strategy))
    for consensus, left_out, measured in found:
        assert left_out == {}
        assert measured == pytest.approx(apart, abs=1e-6)
        torch.testing.assert_close(consensus, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
def test_a_worker_meets_one_fate_in_all_its_processes(kind: str) -> None:
    for consensus, left_out, _ in on_ranks(4, partial(two_workers_of_two, kind, poisoned=3)):
        assert bool(torch.isfinite(consensus).all())
        assert left_out == {1: "loss is not finite"}


def without_saying_who_averages() -> None:
    net = model()
    grawa.Averager(
        net, SGD(net.parameters(), lr=0.1), grawa.LGRAWA(), worker_group=dist.group.WORLD
    )


def test_a_worker_of_several_processes_must_say_who_averages() -> None:
    for outcome in outcomes(2, without_saying_who_averages):
        assert isinstance(outcome, grawa.UserError)
        assert "process_group must be given too" in str(outcome)
