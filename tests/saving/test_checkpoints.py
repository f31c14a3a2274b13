"""Checkpoints of one's own loop: all comes back, what is damaged is refused, nothing is executed."""

import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer

import grawa
from grawa.saving.files import SUMS, sums_text
from tests.helpers import INPUTS, STRATEGIES, Data, Fleet, batches, mlp
from tests.world import on_ranks, outcomes

TIMEOUT = timedelta(seconds=20)
STOP, STEPS = 5, 9


class Everything(nn.Module):
    """All kinds of what a model may hold."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Linear(INPUTS, INPUTS).double().requires_grad_(requires_grad=False)
        self.one = nn.Linear(INPUTS, INPUTS).double()
        self.tied = nn.Linear(INPUTS, INPUTS).double()
        self.tied.weight = self.one.weight
        self.norm = nn.BatchNorm1d(INPUTS).double()
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(INPUTS, 2).double()
        self.register_buffer("lost", torch.zeros(2), persistent=False)
        self.register_buffer("phase", torch.tensor(1 + 2j))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.lost += 1.0
        hidden: Tensor = self.tied(self.drop(self.norm(self.one(self.base(x)))))
        return self.last(hidden) * (1.0 + 0.01 * self.calls)  # type: ignore[no-any-return]

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state


def two_optimizers(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2 and p.requires_grad]
    others = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    return [SGD(matrices, lr=0.05, momentum=0.9), AdamW(others, lr=0.01)]


class Loop:
    """A training loop of hosted workers."""

    def __init__(
        self,
        strategy: grawa.Strategy,
        hosted: int,
        seed: int,
        model: Callable[[int], nn.Module] = Everything,
        **options: Any,
    ) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        seeds = range(seed + 100 * self.rank, 10**6)
        self.models = [model(seed) for _, seed in zip(range(hosted), seeds, strict=False)]
        self.optimizers = [two_optimizers(model) for model in self.models]
        self.schedulers = [
            torch.optim.lr_scheduler.MultiStepLR(each, [3, 6], gamma=0.5)
            for own in self.optimizers
            for each in own
        ]
        self.averager = grawa.Averager(
            self.models, self.optimizers, strategy, timeout=TIMEOUT, **options
        )
        torch.manual_seed(1000 + self.rank)

    def train(self, start: int, stop: int) -> None:
        self.averager.attach()
        self.go_on(start, stop)

    def go_on(self, start: int, stop: int) -> None:
        hosted, workers = len(self.models), self.averager.num_workers
        first = self.rank * hosted
        data = batches(STEPS, workers).workers(range(first, first + hosted)).steps(start, stop)
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            losses = []
            for model, own, x, y in zip(self.models, self.optimizers, inputs, targets, strict=True):
                for optimizer in own:
                    optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                losses.append(loss.detach())
            self.averager.record_loss(torch.stack(losses))
            for own in self.optimizers:
                for optimizer in own:
                    optimizer.step()
            for scheduler in self.schedulers:
                scheduler.step()

    def extra(self) -> dict[str, Any]:
        states = [scheduler.state_dict() for scheduler in self.schedulers]
        return {"rank": self.rank, "schedulers": states}

    def take(self, extra: dict[str, Any] | None) -> None:
        assert extra is not None and extra["rank"] == self.rank
        for scheduler, state in zip(self.schedulers, extra["schedulers"], strict=True):
            scheduler.load_state_dict(state)

    def everything(self) -> Tensor:
        found = [[*m.parameters(), *map(torch.abs, m.buffers())] for m in self.models]
        calls = torch.tensor([getattr(model, "calls", 0) for model in self.models])
        return torch.cat([x.detach().double().flatten() for own in [*found, [calls]] for x in own])


def goes_on(strategy: grawa.Strategy, folder: Path, hosted: int = 1, **options: Any) -> bool:
    """Whether training that was saved and restored ends like the undisturbed one."""
    whole = Loop(strategy, hosted, 1, **options)
    whole.train(0, STOP)
    whole.averager.save(folder, extra=whole.extra())
    whole.go_on(STOP, STEPS)
    whole.averager.detach()
    other = Loop(strategy, hosted, 7, **options)
    other.take(other.averager.restore(folder))
    other.train(STOP, STEPS)
    other.averager.detach()
    same = torch.equal(whole.everything(), other.everything())
    return same and whole.extra() == other.extra()


@pytest.mark.parametrize("name", STRATEGIES)
def test_all_of_hosted_workers_comes_back(name: str, tmp_path: Path) -> None:
    assert goes_on(STRATEGIES[name], tmp_path, 2, sync_every=2)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": grawa.SharedCount(2)},
        {"sync_every": 4, "fragments": 2, "overlap_steps": 1, "comm_dtype": "int8"},
        {"buffers": "local", "guard": None},
    ],
    ids=str,
)
def test_whatever_the_options_and_with_one_worker_too(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert goes_on(grawa.LGRAWA(), tmp_path / "a", 2, **options)
    assert goes_on(grawa.LGRAWA(), tmp_path / "b", 1, **options)


def processes_go_on(folder: Path) -> list[str]:
    cases: list[tuple[str, dict[str, Any]]] = [(name, {"sync_every": 2}) for name in STRATEGIES]
    cases += [("lgrawa", {"sync_every": 4, "fragments": 2, "overlap_steps": 1})]
    cases += [("lgrawa", {"sync_every": 3, "hosts": [[0], [1]], "comm_dtype": "int8"})]
    found = [
        (case, goes_on(STRATEGIES[case[0]], folder / str(number), **case[1]))
        for number, case in enumerate(cases)
    ]
    return [str(case) for case, same in found if not same]


@pytest.mark.world
def test_all_of_several_processes_comes_back(tmp_path: Path) -> None:
    assert on_ranks(2, processes_go_on, tmp_path) == [[], []]
