"""The average of a run's last consensuses (stochastic weight averaging)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from grawa.workers.batchnorm import recalibrate_batchnorm

_BATCH_SIZE = 256  # of the pass that recomputes BatchNorm statistics


class ConsensusAverage:
    """The plain average of the consensus after each of a run's last rounds.

    Args:
        model: a model with the consensus's architecture.
        fraction: the last fraction of the run, over which is averaged.

    Source: Izmailov et al. (2018), "Averaging Weights Leads to Wider Optima and Better
    Generalization", algorithm 1, with a round for an epoch; torch's `AveragedModel`.
    """

    def __init__(self, model: nn.Module, fraction: float) -> None:
        self._average = AveragedModel(model)
        self._fraction = fraction

    @property
    def rounds(self) -> int:
        """Number of consensuses in the average."""
        return int(self._average.n_averaged)

    def is_due(self, progress: float) -> bool:
        """Whether the consensus is averaged, when this fraction of the run is done."""
        return progress > 1.0 - self._fraction

    def add(self, consensus: nn.Module) -> None:
        """Adds the consensus after a round; buffers are copied from it, until `finished`."""
        self._average.update_parameters(consensus)

    def finished(self, inputs: Tensor, prepare: Callable[[Tensor, nn.Module], Tensor]) -> nn.Module:
        """The average, in eval mode, with its own BatchNorm statistics.

        Args:
            inputs: of all training samples, (n, ...), as they are stored.
            prepare: converts them to the model's input.

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
        """Restores what `state_dict` returned."""
        self._average.load_state_dict(state)
