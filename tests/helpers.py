"""Workers to train, data to train them on, and the strategies under test."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, AdamW, Optimizer

import grawa
from examples.krum import Krum
from examples.median import Median
from grawa.comm import InProcessCommunicator, Participants
from grawa.lab.simulate.clock import VirtualClock
from grawa.rounds.plan import RoundPlan
from grawa.rounds.setup import set_up
from grawa.scores import NormTimesLoss, RmsGradientNorms
from grawa.strategies import InverseLoss, RandomWeights

INPUTS, HIDDEN, OUTPUTS, BATCH = 3, 8, 2, 6

STRATEGIES: dict[str, grawa.Strategy] = {
    "mgrawa": grawa.MGRAWA(),
    "lgrawa": grawa.LGRAWA(),
    "lgrawa with outer Nesterov": grawa.LGRAWA(outer=grawa.OuterNesterov()),
    "lgrawa by rms norm times loss": grawa.LGRAWA(score=NormTimesLoss(norms=RmsGradientNorms())),
    "easgd": grawa.EASGD(),
    "easgd with prox": grawa.EASGD(prox=0.05),
    "lsgd": grawa.LSGD(),
    "lsgd in teams": grawa.LSGD(team_size=2, leader_every=2, prox=0.05),
    "local sgd": grawa.LocalSGD(),
    "local sgd, soft pull with prox": grawa.LocalSGD(pull=0.5, prox=0.05),
    "local sgd with drawn pulls": grawa.LocalSGD(pull=0.5, prox=0.05, prox_probability=0.3),
    "local sgd with warm-up": grawa.LocalSGD(warmup_steps=3),
    "diloco": grawa.DiLoCo(),
    "diloco with outer AdamW": grawa.DiLoCo(
        outer=partial(AdamW, lr=0.05, eps=0.01, weight_decay=0.0)
    ),
    "slowmo": grawa.SlowMo(),
    "edit": grawa.EDiT(temperature=0.1, clip=0.2, warmup_rounds=2, threshold=0.5),
    "edit by tensor": grawa.EDiT(group_by=grawa.by_tensor),
    "rda": grawa.RDA(),
    "mgrawa by displacement": grawa.MGRAWA(score=grawa.DisplacementNorms()),
    "dppf": grawa.DPPF(push=0.05, push_warmup=1),
    "outer steps": grawa.OuterSteps(outer=grawa.OuterNesterov(lr=0.5, momentum=0.5)),
    "random": RandomWeights(prox=0.05),
    "inverse loss": InverseLoss(),
    "data parallel": grawa.DataParallel(),
    "median": Median(),
    "krum": Krum(faulty=0),
}
"""Every strategy, and the variants that have state or code of their own, and those of examples that
need the workers' rows side by side."""


def everyone(workers: int) -> Participants:
    """A round in which all of so many hosted workers take part."""
    return Participants(InProcessCommunicator(workers), torch.ones(workers, dtype=torch.bool))


def mlp(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A small network, the same for the same seed, whatever the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS)
    return nn.Sequential(*layers).to(dtype)


def with_batchnorm() -> nn.Module:
    """A small network with buffers, always the same."""
    model = nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.Linear(4, OUTPUTS)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.linspace(-1.0, 1.0, p.numel()).view(p.shape))
    return model


def sgd(model: nn.Module) -> Optimizer:
    """SGD with everything that keeps state."""
    return SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)


def plain_sgd(model: nn.Module) -> Optimizer:
    """SGD that keeps no state."""
    return SGD(model.parameters(), lr=0.05)


@dataclass(frozen=True)
class Data:
    """A batch for each step and worker."""

    inputs: Tensor
    """(S, N, B, INPUTS)"""
    targets: Tensor
    """(S, N, B, OUTPUTS)"""

    def workers(self, order: Sequence[int]) -> "Data":
        """The batches of some workers, in this order."""
        return Data(self.inputs[:, list(order)], self.targets[:, list(order)])

    def steps(self, start: int, stop: int) -> "Data":
        """The batches of some steps."""
        return Data(self.inputs[start:stop], self.targets[start:stop])


def batches(
    steps: int, workers: int, dtype: torch.dtype = torch.float64, scales: Sequence[float] = ()
) -> Data:
    """Different batches of one problem; a worker's inputs and targets may be scaled."""
    generator = torch.Generator().manual_seed(7)
    truth = torch.randn(INPUTS, OUTPUTS, generator=generator, dtype=torch.float64)
    inputs = torch.randn(steps, workers, BATCH, INPUTS, generator=generator, dtype=torch.float64)
    noise = torch.randn(steps, workers, BATCH, OUTPUTS, generator=generator, dtype=torch.float64)
    targets = torch.sin(inputs @ truth) + 0.3 * noise
    scale = torch.tensor(scales or [1.0] * workers, dtype=torch.float64).view(1, workers, 1, 1)
    return Data((inputs * scale).to(dtype), (targets * scale).to(dtype))


class Fleet:
    """Hosted workers: K models, each with its optimizer."""

    def __init__(
        self,
        workers: int,
        model: Callable[[], nn.Module] = mlp,
        optimizer: Callable[[nn.Module], Optimizer] = sgd,
    ) -> None:
        self.models = [model() for _ in range(workers)]
        self.optimizers = [optimizer(model) for model in self.models]

    def backward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Fresh gradients on a batch each, (K, B, ...); returns the losses, (K,)."""
        losses = []
        for model, optimizer, x, y in zip(
            self.models, self.optimizers, inputs, targets, strict=True
        ):
            optimizer.zero_grad()
            loss = mse_loss(model(x), y)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    def train(
        self, data: Data, averager: grawa.Averager | None = None, *, tell_loss: bool = True
    ) -> None:
        """Steps over the data, with an averager that is attached already, or without."""
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            losses = self.backward(inputs, targets)
            if averager is not None and tell_loss:
                averager.record_loss(losses)
            for optimizer in self.optimizers:
                optimizer.step()

    def parameters(self) -> Tensor:
        """A copy of all parameters, (K, P)."""
        return torch.stack([flat(model) for model in self.models])


class Simulated:
    """Hosted workers on a virtual clock, as the laboratory trains them.

    Args:
        fleet: the workers.
        strategy: how they are pulled together.
        clock: what time it is for them.
        options: as for `RoundPlan`.
    """

    def __init__(
        self, fleet: Fleet, strategy: grawa.Strategy, clock: VirtualClock, **options: Any
    ) -> None:
        self.reports: list[grawa.RoundReport] = []
        self._fleet, self._clock = fleet, clock
        options.setdefault("schedule", grawa.Every(options.pop("sync_every", 32)))
        individually = options["schedule"].counts_together
        plan = partial(RoundPlan, strategy=strategy, individually=individually, **options)
        self.engine = set_up(
            fleet.models,
            [[optimizer] for optimizer in fleet.optimizers],
            plan,
            "a test",
            process_group=None,
            worker_group=None,
            timeout=timedelta(seconds=20),
            shared_memory=True,
            clock=clock,
            tell=[self.reports.append],
        )

    def train(self, data: Data) -> None:
        """Local steps of all workers together."""
        self.engine.local_steps_begin()
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            losses = self._fleet.backward(inputs, targets)
            self.engine.note_losses(losses)
            if self.engine.plan.strategy.shares_gradients(self.engine.step):
                self.engine.share_gradients()
            for optimizer in self._fleet.optimizers:
                optimizer.step()
            self.engine.local_step()

    def train_one_by_one(self, data: Data, total: int) -> None:
        """Local steps of one worker after another, by the clock, until there are `total`."""
        self.engine.local_steps_begin()
        while self.engine.total_steps < total:
            k = self._clock.next_worker(self.engine.waiting)
            model, optimizer = self._fleet.models[k], self._fleet.optimizers[k]
            index = self.engine.steps[k] % len(data.inputs)
            optimizer.zero_grad()
            loss = mse_loss(model(data.inputs[index, k]), data.targets[index, k])
            loss.backward()
            self.engine.note_losses(loss.detach().reshape(1), slice(k, k + 1))
            optimizer.step()
            self.engine.local_step(slice(k, k + 1))


def step(model: nn.Module, optimizer: Optimizer, data: Data, index: int) -> None:
    """One local step of one worker, in the model's dtype."""
    dtype = next(model.parameters()).dtype
    optimizer.zero_grad()
    inputs, targets = data.inputs[index, 0].to(dtype), data.targets[index, 0].to(dtype)
    mse_loss(model(inputs), targets).backward()
    optimizer.step()


def pair(model: nn.Module) -> tuple[nn.Module, Optimizer]:
    """A model and its optimizer."""
    return model, sgd(model)


def poison(model: nn.Module) -> None:
    """Makes the parameters what they are after a step on a NaN."""
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(torch.nan)


def flat(model: nn.Module) -> Tensor:
    """A copy of a model's parameters in one row, (P,)."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def measurements(report: grawa.RoundReport) -> tuple[float | None, ...]:
    """What `measure_distance` adds to a report."""
    return report.consensus_distance, report.center_cosine, report.displacement_spread


def flat_state(model: nn.Module, state: dict[str, Tensor]) -> Tensor:
    """A state dict's parameters in one row, (P,)."""
    return torch.cat([state[name].flatten() for name, _ in model.named_parameters()])


def averaged(
    strategy: grawa.Strategy,
    data: Data,
    *,
    sync_every: int = 2,
    guard: grawa.Guard | None = None,
    optimizer: Callable[[nn.Module], Optimizer] = sgd,
    on_round: Sequence[Callable[[grawa.RoundReport], None]] = (),
    tell_loss: bool = True,
) -> tuple[Tensor, Tensor]:
    """Trains hosted workers on the data; their parameters (N, P) and the consensus's (P,)."""
    dtype = data.inputs.dtype
    fleet = Fleet(data.inputs.shape[1], lambda: mlp(dtype), optimizer)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        strategy,
        sync_every=sync_every,
        guard=guard,
        on_round=on_round,
    )
    averager.attach()  # without the round that follows the last steps when it is detached
    fleet.train(data, averager, tell_loss=tell_loss)
    return fleet.parameters(), flat_state(fleet.models[0], averager.consensus())


def alone(data: Data, optimizer: Callable[[nn.Module], Optimizer] = sgd) -> Tensor:
    """The parameters (N, P) of workers that train on the data and never talk."""
    dtype = data.inputs.dtype
    fleet = Fleet(data.inputs.shape[1], lambda: mlp(dtype), optimizer)
    fleet.train(data)
    return fleet.parameters()


def shown(strategy: grawa.Strategy) -> str:
    """It, for a test's name, which is the same in every process."""
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", repr(strategy))
