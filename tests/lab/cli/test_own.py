"""Tasks and strategies of one's own, named on the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import grawa
from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.cli import names
from grawa.lab.cli.methods import method
from grawa.lab.tasks import Digits, custom
from tests.lab.cli.processes import grawa as run

SOURCE = '''
from dataclasses import dataclass
import torch
from torch import nn
import grawa
from grawa.lab.tasks import custom

random = torch.Generator().manual_seed(0)
INPUTS = torch.randn(200, 4, generator=random)
LABELS = (INPUTS[:, 0] > 0).long()

def halves():
    return custom(
        model=lambda: nn.Linear(4, 2),
        data=(INPUTS[:150], LABELS[:150], INPUTS[150:], LABELS[150:]),
    )

def sums():
    targets = INPUTS.sum(dim=1, keepdim=True)
    return custom(
        model=lambda: nn.Linear(4, 1),
        data=lambda seed: (INPUTS[:150], targets[:150], INPUTS[150:], targets[150:]),
        loss=lambda model, inputs, targets: nn.functional.mse_loss(model(inputs), targets),
    )

@dataclass(frozen=True, kw_only=True)
class Mine(grawa.LocalSGD):
    """A strategy."""
    pull: float = 0.8

number = 7
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file, in the current folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


def test_a_file_in_the_current_folder_gives_tasks_and_strategies_with_options(file: Path) -> None:
    task = names.task("mine.py:halves")
    assert (task.metric, task.num_classes) == ("test error", 2)
    strategy: Any = names.strategy("mine.py:Mine:pull=0.7")
    assert isinstance(strategy, grawa.LocalSGD) and strategy.pull == pytest.approx(0.7)
    chosen = method("mine.py:Mine:pull=0.6:score=loss")
    assert chosen.strategy == "mine.py:Mine:pull=0.6"
    assert chosen.options["score"] == "loss"


@pytest.mark.world
def test_a_task_trains_in_several_processes_and_its_run_is_measured_again(file: Path) -> None:
    words = ["train", f"{file}:halves", "--strategy", f"{file}:Mine", "--workers", "2"]
    trained = run(*words, "--steps", "60", "--out", "run")
    assert trained.code == 0, trained.err
    measured = run("evaluate", "run")
    assert "test error" in measured.out


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mine.py:halve", r"mine\.py has no 'halve' \(did you mean halves\?\)"),
        ("other.py:halves", r"there is no file other\.py"),
        ("nowhere:halves", "no module 'nowhere' that can be imported from here"),
        ("mine.py:number", "no task, nor a function or class"),
        ("mine.py:Mine", "must give a grawa.lab.tasks.task.Task, got Mine"),
        ("digts", r"there is no task 'digts' \(did you mean digits\?\)"),
    ],
)
def test_what_is_not_there_is_named(file: Path, text: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        names.task(text)


def test_installed_packages_add_names(monkeypatch: pytest.MonkeyPatch) -> None:
    added = {"grawa.tasks": {"more": Digits}, "grawa.strategies": {"mine": grawa.LocalSGD}}
    monkeypatch.setattr(own, "installed", added.get)
    assert names.task("more:train_size=600") == Digits(train_size=600)
    assert names.strategy("mine:pull=0.5") == grawa.LocalSGD(pull=0.5)
    assert method("mine").strategy == "mine"
    assert "more" in names.known_tasks()


def test_a_task_without_a_loss_needs_labels() -> None:
    zeros = torch.zeros(4, 2)
    with pytest.raises(UserError, match="must be labels"):
        custom(model=lambda: nn.Linear(2, 2), data=(zeros, zeros, zeros, zeros))
    with pytest.raises(UserError, match="four tensors"):
        custom(model=lambda: nn.Linear(2, 2), data=lambda seed: (zeros, zeros))


def test_a_task_may_be_measured_by_a_function_of_its_own() -> None:
    inputs, labels = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
    task = custom(
        model=lambda: nn.Linear(2, 2),
        data=(inputs, labels, inputs, labels),
        measure=lambda model, inputs, targets: float(len(targets)),
        metric="samples",
    )
    data = task.data(0)
    assert task.metric == "samples"
    assert task.measure(task.model(0), data) == pytest.approx(4.0)
    assert task.loss(task.model(0), data.train_inputs, data.train_targets).dim() == 0
