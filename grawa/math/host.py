"""Brings small results from a device to the host, and waits for a device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same values on the CPU; those of a device in one copy, so that the host waits once.

    Args:
        tensors: floating-point, of any shapes.

    Returns:
        Tensors of the same shapes and dtypes.

    >>> on_host([torch.ones(2), torch.zeros(1, 1)])
    [tensor([1., 1.]), tensor([[0.]])]
    """
    found = list(tensors)
    for device in {tensor.device for tensor in tensors if tensor.device.type != "cpu"}:
        here = [i for i, tensor in enumerate(tensors) if tensor.device == device]
        together = torch.cat([tensors[i].reshape(-1) for i in here]).cpu()
        parts = together.split([tensors[i].numel() for i in here])
        for i, part in zip(here, parts, strict=True):
            found[i] = part.view(tensors[i].shape).to(tensors[i].dtype)
    return found


def wait_for(device: torch.device) -> None:
    """Waits until a device has done all that it was given; a CPU has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
