"""One worker: a model with its own optimizer and its own stream of batches."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grawa.lab.tasks import Data, Task
from grawa.lab.train.asked import Asked, Requests
from grawa.lab.train.batches import Batches
from grawa.lab.train.optimizers import OptimizerChoice
from grawa.lab.train.settings import Settings
from grawa.optim import SAM
from grawa.seeding import generator


class Worker:
    """A worker of a training run.

    Args:
        index: the worker's number.
        task: the task.
        data: all data; the worker trains on its own samples only.
        samples: indices of its samples.
        settings: the run's settings.
        device: the model's device, which is also that of `data`.

    Attributes:
        targets: of all samples, with this worker's label noise.
        batch_size: samples of a batch.
    """

    def __init__(
        self,
        index: int,
        task: Task,
        data: Data,
        samples: Tensor,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self._task = task
        self._faults = [fault for fault in settings.faults if fault.worker == index]
        self._inputs = data.train_inputs
        self.targets = data.train_targets
        for fault in self._faults:
            if not fault.asked:
                self.targets = fault.labels(self.targets, task.num_classes, settings.seed)
        self._wrong_targets = self.targets
        for fault in self._faults:
            if fault.asked:
                wrong = fault.labels(self._wrong_targets, task.num_classes, settings.seed)
                self._wrong_targets = wrong
        asked = any(fault.asked for fault in self._faults)
        self._index, self._requests = index, Requests.named() if asked else None
        self._asked = Asked.NOTHING
        self._noise = generator(settings.seed, "noise", index)
        self._augmentation = generator(settings.seed, "augmentation", index)
        self.batch_size = settings.batch_size_of(index)
        random = generator(settings.seed, "batches", index)
        self._batches = Batches(samples, self.batch_size, random)
        dtype = getattr(torch, settings.dtype)
        self.model = task.model(settings.seed).to(device, dtype)
        self.optimizer = OptimizerChoice.parse(settings.optimizer).make(self.model, settings.lr)
        for fault in self._faults:
            fault.scale_lr(self.optimizer)
        self._lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._factor = _cosine if settings.lr_schedule == "cosine" else _constant

    def backward(self, step: int) -> Tensor:
        """Computes the gradient for local step `step`, from 1; with SAM, at the perturbed point.

        Returns:
            The loss at the unperturbed parameters, a scalar.
        """
        batch = self.next_batch(step).to(self._inputs.device)
        inputs, targets = self.augment(self._inputs[batch]), self._labels()[batch]
        for fault in self._faults:
            inputs = fault.blur(self._task.prepare(inputs, self.model), self._noise)
        loss = self._gradient(inputs, targets)
        if isinstance(self.optimizer, SAM) and self.optimizer.rho > 0.0:
            with self.optimizer.perturbed():
                self._gradient(inputs, targets)
        return loss

    def _labels(self) -> Tensor:
        """The labels of all samples in this step."""
        wrong = self._asked is Asked.WRONG_LABELS
        return self._wrong_targets if wrong else self.targets

    def _gradient(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self._task.loss(self.model, inputs, targets)
        loss.backward()
        for fault in self._faults:
            fault.shake(self.model, self._noise)
        return loss.detach()

    def next_batch(self, step: int) -> Tensor:
        """The samples of local step `step`, from 1; applies faults that happen before it.

        Returns:
            Indices, (batch_size,).
        """
        if self._requests is not None:
            self._asked = self._requests.take(self._index)
        for fault in self._faults:
            fault.strike(self.model, step, self._asked)
        return self._batches.next()

    def augment(self, inputs: Tensor) -> Tensor:
        """A batch's inputs, augmented with this worker's own random numbers."""
        return self._task.augment(inputs, self._augmentation)

    def set_lr(self, progress: float) -> None:
        """Sets the learning rate for the next step.

        Args:
            progress: the fraction of the training that is done, in [0, 1].
        """
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * self._factor(progress)

    def streams(self) -> dict[str, Any]:
        """Where its random streams are: what a checkpoint needs beside model and optimizer."""
        return {
            "batches": self._batches.state_dict(),
            "noise": self._noise.get_state(),
            "augmentation": self._augmentation.get_state(),
        }

    def put_streams(self, state: Mapping[str, Any], *, same_samples: bool) -> None:
        """Restores what `streams` returned.

        Args:
            state: what it returned.
            same_samples: whether the worker's samples are the same as before; otherwise it begins
                a new pass over the samples that it has now.
        """
        self._batches.load_state_dict(state["batches"], same_samples=same_samples)
        self._noise.set_state(state["noise"])
        self._augmentation.set_state(state["augmentation"])


def _cosine(progress: float) -> float:
    """Falls from 1 to 0 along half a cosine wave; Loshchilov and Hutter (2017), SGDR."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0
