"""The local steps of the workers in a process, one after another."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from grawa.lab.train.worker import Worker


class Hosted(Protocol):
    """Makes the local steps of hosted workers."""

    def backward(self, chosen: slice, steps: Sequence[int]) -> Tensor:
        """Computes the gradients on a batch for each worker.

        Args:
            chosen: the hosted workers that step, k of them.
            steps: the numbers of their local steps, from 1.

        Returns:
            Their losses, (k,).
        """
        ...

    def move(self, chosen: slice) -> None:
        """Makes their optimizers' steps."""
        ...


class Looped:
    """Hosted workers that step one after another, which works with any model.

    Args:
        workers: the K hosted workers.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def backward(self, chosen: slice, steps: Sequence[int]) -> Tensor:
        """See `Hosted.backward`."""
        workers = self._workers[chosen]
        return torch.stack([
            worker.backward(step) for worker, step in zip(workers, steps, strict=True)
        ])

    def move(self, chosen: slice) -> None:
        """See `Hosted.move`."""
        for worker in self._workers[chosen]:
            worker.optimizer.step()
