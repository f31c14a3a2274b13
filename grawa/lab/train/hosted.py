"""The local steps of the workers hosted by a process: one after another."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from grawa.lab.train.worker import Worker


class Hosted(Protocol):
    """Makes the local steps of hosted workers."""

    def backward(self, who: slice, steps: Sequence[int]) -> Tensor:
        """The gradients of a batch each.

        Args:
            who: which hosted workers, k of them.
            steps: their local steps, from 1.

        Returns:
            Their losses, (k,).
        """
        ...

    def move(self, who: slice) -> None:
        """Their optimizers' steps."""
        ...


class Looped:
    """Hosted workers that step one after another, whatever their models are.

    Args:
        workers: the K hosted workers.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def backward(self, who: slice, steps: Sequence[int]) -> Tensor:
        """See `Hosted.backward`."""
        workers = self._workers[who]
        return torch.stack([
            worker.backward(step) for worker, step in zip(workers, steps, strict=True)
        ])

    def move(self, who: slice) -> None:
        """See `Hosted.move`."""
        for worker in self._workers[who]:
            worker.optimizer.step()
