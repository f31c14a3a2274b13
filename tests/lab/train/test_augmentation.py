"""Augmentation: each worker's own, in training only, and resumed bit for bit."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

import grawa
from grawa.lab.tasks import Cifar10, ImageNet, Task
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.worker import Worker
from tests.lab.tasks.archives import binary_files, write_folder, write_jpegs
from tests.lab.train.runs import always, end, events, same_model, settings

SETTINGS = {"workers": 2, "batch_size": 4, "steps": 12, "lr": 0.01}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "cifar-10-batches-bin", binary_files(10))


@pytest.fixture
def task(folder: Path) -> Cifar10:
    return Cifar10(folder=folder, architecture="cnn")


def losses(task: Task, index: int, steps: int) -> list[float]:
    """Of a worker that does not move, with a batch that is always the same samples."""
    chosen = settings(**SETTINGS)
    data = load(task, chosen, torch.device("cpu"))
    samples = torch.tensor([3, 7, 11, 15])
    worker = Worker(index, task, data, samples, chosen, torch.device("cpu"))
    return [float(worker.backward(step)) for step in range(1, steps + 1)]


def test_each_step_sees_other_squares_of_the_same_images(folder: Path, task: Cifar10) -> None:
    assert len(set(losses(task, 0, 5))) == 5
    plain = Cifar10(folder=folder, architecture="cnn", augment_images=False)
    same = torch.tensor(losses(plain, 0, 5))
    torch.testing.assert_close(same, same[:1].expand(5))  # but for the order of the batch


def test_each_worker_has_changes_of_its_own_and_the_same_for_a_seed(task: Cifar10) -> None:
    assert losses(task, 0, 3) == losses(task, 0, 3)
    assert not set(losses(task, 0, 3)) & set(losses(task, 1, 3))


@dataclass(frozen=True, kw_only=True)
class Noting(Cifar10):
    """Writes down a pixel of each image before it is changed."""

    seen: list[list[int]] = field(default_factory=list)

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        self.seen.append(inputs[:, 0, 0, 0].tolist())
        return super().augment(inputs, random)


def test_augmentation_draws_nothing_from_the_stream_of_batches(folder: Path) -> None:
    tasks = [Noting(folder=folder, architecture="cnn", augment_images=on) for on in (True, False)]
    for task in tasks:
        events(always(grawa.LocalSGD()), settings(**SETTINGS), task=task)
    assert tasks[0].seen == tasks[1].seen
    assert len(tasks[0].seen) == 24  # 2 workers of 12 steps


def test_a_resumed_run_ends_with_the_same_bits(task: Cifar10, tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    whole = end(events(strategy, settings(**SETTINGS), task=task))
    chosen = settings(**SETTINGS)
    checkpoints = tmp_path / "checkpoints"
    events(strategy, chosen, checkpoints=checkpoints, every=1, until=3, task=task)
    resumed = end(events(strategy, chosen, checkpoints=checkpoints, every=1, task=task))
    assert same_model(resumed, whole)
    assert resumed.error == whole.error


def test_shards_by_label_work_on_images_in_bytes(task: Cifar10) -> None:
    chosen = settings(**SETTINGS, shards="dirichlet:5")
    data = load(task, chosen, torch.device("cpu"))
    assert data.train_inputs.dtype == torch.uint8
    assert sorted(torch.cat(deal(task, data, chosen)).tolist()) == list(range(40))


def test_imagenet_is_trained_from_its_files(tmp_path: Path) -> None:
    red = [(160 + 20 * i, 30 * i, 0) for i in range(4)]
    green = [(25 * i, 180 + 10 * i, 40 * i) for i in range(4)]
    write_jpegs(tmp_path / "train", {"n01": red, "n02": green})
    write_jpegs(tmp_path / "val", {"n01": red[:2], "n02": green[:2]})
    chosen = settings(**{**SETTINGS, "steps": 2, "schedule": grawa.Every(2), "lr": 1e-3})
    finished = end(events(always(grawa.LGRAWA()), chosen, task=ImageNet(folder=tmp_path, size=32)))
    assert (finished.step, finished.round) == (2, 1)
    assert finished.error in {0.0, 0.25, 0.5, 0.75, 1.0}
    assert all(bool(value.isfinite().all()) for value in finished.consensus.values())
