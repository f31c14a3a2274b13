"""Data parallel steps: the mean of all workers' gradients in place of their own."""

from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.math.leaves import Leaves
from grawa.math.weights import uniform
from grawa.workers.gradients import Gradients


class GradientSharing:
    """Replaces the hosted workers' gradients by the mean of the gradients of all that take part.

    Args:
        gradients: of the hosted workers.
        comm: all workers.
    """

    def __init__(self, gradients: Gradients, comm: Transport) -> None:
        self._gradients, self._comm = gradients, comm
        self._mean: Leaves | None = None

    def share(self, active: Tensor, has_gradient: Tensor) -> None:
        """Before an optimizer's step; collective.

        Args:
            active: who takes part, (N,).
            has_gradient: which workers have a gradient for which parameter, (N, L).
        """
        own, everyone = self._gradients.gradients(), uniform(self._comm.num_workers)
        self._mean = Participants(self._comm, active).weighted_mean(own, everyone, self._mean)
        wanted: list[bool] = (has_gradient > 0).any(dim=0).tolist()
        self._gradients.set_gradients(self._mean, wanted)
