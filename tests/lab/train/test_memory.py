"""What is left of a run that is over."""

import gc
import weakref
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.trial import run_trial
from grawa.lab.tasks import Data, Task
from grawa.lab.train import run, sharing
from grawa.lab.train.settings import Settings
from tests.lab.experiments.studies import study


@pytest.fixture
def no_collection() -> Generator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def ran(**options: Any) -> None:
    """A trial, to its end."""
    base = TrainConfig(task="digits:train_size=200", steps=16, clock="virtual", sync_every=4)
    asked = study(base=base, flatness=FlatnessConfig(samples=16, eigenvalues=0))
    chosen = {(a.name, c.name): 0 for a in asked.arms for c in asked.conditions}
    trial = asked.test_trials({a.name: 16 for a in asked.arms}, chosen)[0]
    trial = replace(trial, config=replace(trial.config, **options))
    assert run_trial(prepare, trial).failure == ""


@pytest.fixture(scope="module", autouse=True)
def _not_the_first() -> None:
    """What torch imports with the first optimizer catches errors that hold the frames around."""
    ran()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score": "probe", "overlap_steps": 2},
        {"stack_workers": "on"},
        {"optimizer": "sam"},
        {"strategy": "data_parallel"},
    ],
    ids=str,
)
def test_data_are_gone_with_the_run(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    seen: list[weakref.ref[Tensor]] = []
    load = sharing.load

    def watched(task: Task, settings: Settings, device: torch.device) -> Data:
        data = load(task, settings, device)
        seen.append(weakref.ref(data.train_inputs))
        return data

    monkeypatch.setattr(run, "load", watched)
    ran(**options)
    assert seen
    assert [reference() for reference in seen] == [None] * len(seen)
