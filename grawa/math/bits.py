"""Whole numbers of any number of bits, packed without gaps."""

import torch
from torch import Tensor
from torch.nn.functional import pad

_BYTE = 8


def packed_bytes(count: int, width: int) -> int:
    """The bytes of so many numbers of so many bits."""
    return -(-count * width // _BYTE)


def pack(numbers: Tensor, width: int) -> Tensor:
    """Packs whole numbers.

    Args:
        numbers: (n,), not negative, below 2^width.
        width: bits of each, at most 24.

    Returns:
        (`packed_bytes(n, width)`,), uint8.

    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    wide = numbers.to(torch.int32).unsqueeze(1)
    bits = wide.bitwise_and(_powers(width, wide)).ne_(0).to(torch.float32).view(-1)
    whole = packed_bytes(numbers.numel(), width) * _BYTE
    return _joined(pad(bits, (0, whole - bits.numel())), _BYTE).to(torch.uint8)


def unpack(packed: Tensor, count: int, width: int) -> Tensor:
    """Unpacks what `pack` packed.

    Args:
        packed: uint8, of `packed_bytes(count, width)`.
        count: of the numbers.
        width: bits of each.

    Returns:
        (count,), int64.

    >>> unpack(torch.tensor([33, 3], dtype=torch.uint8), 3, 4).tolist()
    [1, 2, 3]
    """
    bits = packed.unsqueeze(1).bitwise_and(_powers(_BYTE, packed)).ne_(0).to(torch.float32)
    return _joined(bits.view(-1)[: count * width], width).to(torch.int64)


def _powers(width: int, like: Tensor) -> Tensor:
    """1, 2, 4 and so on, for so many bits."""
    return torch.tensor([1 << bit for bit in range(width)], dtype=like.dtype, device=like.device)


def _joined(bits: Tensor, width: int) -> Tensor:
    """Numbers from their bits, the lowest first: exact, since float32 holds 24 bits."""
    with torch.autocast(bits.device.type, enabled=False):  # which would take 8 bits of them
        return bits.view(-1, width) @ _powers(width, bits)
