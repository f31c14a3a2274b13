"""Data parallel: one model, trained on the mean of all workers' gradients."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.strategies.center import mean_of_workers
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class DataParallel(Strategy):
    """Every step uses the mean of the workers' gradients, so that the workers stay equal.

    For comparisons with other strategies under the same driver. For training alone, PyTorch's
    `DistributedDataParallel` is better: it sends gradients while the backward pass still runs.

    Source: Li et al. (2020), "PyTorch Distributed: Experiences on Accelerating Data Parallel
    Training", section 2.
    """

    averages: ClassVar[bool] = False

    def shares_gradients(self, step: int) -> bool:
        """Always."""
        return True

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """Does nothing, since the workers are equal already; a round only reports."""
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers, which are equal."""
        return mean_of_workers(params, comm)
