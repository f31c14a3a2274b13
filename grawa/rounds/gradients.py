"""Data-parallel steps: every worker's gradients become the mean over all workers."""

from torch import Tensor

from grawa.comm.protocol import Communicator
from grawa.math.leaves import Leaves
from grawa.math.weights import uniform
from grawa.workers.replicas import Replicas


def share_gradients(
    replicas: Replicas, comm: Communicator, has_gradient: Tensor, mean: Leaves | None
) -> Leaves:
    """Replaces the hosted workers' gradients by the mean over all workers that take part.

    Args:
        replicas: the hosted workers.
        comm: connects the workers that take part.
        has_gradient: which workers have a gradient for which parameter, (N, L).
        mean: what the last call returned, whose memory is used again.

    Returns:
        The mean.
    """
    mean = comm.weighted_mean(replicas.gradients.gradients(), uniform(comm.num_workers), mean)
    wanted: list[bool] = (has_gradient > 0).any(dim=0).tolist()
    replicas.gradients.set_gradients(mean, wanted)
    return mean
