"""Steps that fused optimizers skip inside their kernels, which the host can only find out later."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from grawa.math.host import on_host


class Skips:
    """Counts steps that a fused optimizer skipped because of its `GradScaler`.

    A fused optimizer is called even when gradients have overflowed, and reads the scaler's flag on
    the device. Copies of the flags stay on the device until the count is needed.

    Args:
        num_hosted: K.
    """

    def __init__(self, num_hosted: int) -> None:
        self._flags: list[list[Tensor]] = [[] for _ in range(num_hosted)]

    def note(self, worker: int, optimizer: Optimizer) -> None:
        """Called after `step()` of a hosted worker's optimizer."""
        flag = getattr(optimizer, "found_inf", None)
        if isinstance(flag, Tensor):
            self._flags[worker].append(flag.detach().clone().reshape(1))

    def take(self) -> Tensor | None:
        """How many steps of each hosted worker were skipped since the last call: (K,), float64.

        Returns:
            `None` if no scaler was used, without waiting for the device.
        """
        if not any(self._flags):
            return None
        flags = [torch.cat(own) if own else torch.zeros(0) for own in self._flags]
        self._flags = [[] for _ in self._flags]
        counts = [(own > 0).sum().double() for own in on_host(flags)]
        return torch.stack(counts)
