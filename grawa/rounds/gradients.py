"""Data parallel steps: the mean of all workers' gradients in place of their own."""

import torch
from torch import Tensor

from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.leaves import Leaves
from grawa.math.weights import uniform
from grawa.rounds.roll_call import Calls, Roll
from grawa.workers.replicas import Replicas


class GradientSharing:
    """Replaces the hosted workers' gradients by the mean of all workers' gradients.

    Args:
        replicas: the hosted workers.
        comm: all workers.
    """

    def __init__(self, replicas: Replicas, comm: Transport) -> None:
        self._replicas = replicas
        self._comm = comm
        self._mean: Leaves | None = None

    def share(self, roll: Roll, active: Tensor, step: int) -> None:
        """Before the optimizer's step.

        Args:
            roll: of all workers.
            active: (N,), true for those whose gradients count.
            step: the local step, from 0.

        Raises:
            UserError: if some worker has stopped, or is at a round.
        """
        elsewhere = torch.where(roll.calls != Calls.GRADIENTS)[0].tolist()
        if elsewhere:
            raise UserError(
                f"workers {elsewhere} were not at step {step} when the others shared gradients; "
                "sharing gradients needs the same number of optimizer steps on every worker"
            )
        self._mean = Participants(self._comm, active).weighted_mean(
            self._replicas.gradients(), uniform(self._comm.num_workers), self._mean
        )
        wanted = (roll.has_gradient > 0).any(dim=0).tolist()
        self._replicas.set_gradients(self._mean, wanted)
