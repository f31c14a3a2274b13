"""The stochastic weight average of a run's last consensuses."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from grawa.workers.batchnorm import recalibrate_batchnorm

_BATCH_SIZE = 256  # of the pass that recomputes BatchNorm statistics


class ConsensusAverage:
    """The equal average of the consensus after each of a run's last rounds.

    Args:
        model: of the same form as the consensus.
        fraction: of the run, at its end, over which is averaged.

    Source: Izmailov et al. (2018), "Averaging Weights Leads to Wider Optima and Better
    Generalization", algorithm 1, with a round for an epoch; torch's `AveragedModel`.
    """

    def __init__(self, model: nn.Module, fraction: float) -> None:
        self._average = AveragedModel(model)
        self._fraction = fraction

    @property
    def rounds(self) -> int:
        """How many consensuses are in it."""
        return int(self._average.n_averaged)

    def is_due(self, progress: float) -> bool:
        """Whether the consensus belongs to the average, with so much of the run done, in [0, 1]."""
        return progress > 1.0 - self._fraction

    def add(self, consensus: nn.Module) -> None:
        """Takes in the consensus after a round; buffers are its own, until `finished`."""
        self._average.update_parameters(consensus)

    def finished(self, inputs: Tensor, prepare: Callable[[Tensor, nn.Module], Tensor]) -> nn.Module:
        """The average, in eval mode, with the BatchNorm statistics that belong to it.

        Args:
            inputs: of all training samples, (n, ...), as they are stored.
            prepare: makes of them what the model takes.

        Returns:
            A model; its other buffers are those of the last consensus.
        """
        averaged: nn.Module = self._average.module
        batches = inputs.tensor_split(max(1, len(inputs) // _BATCH_SIZE))
        recalibrate_batchnorm(averaged, (prepare(batch, averaged) for batch in batches))
        return averaged.eval()

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        self._average.load_state_dict(state)
