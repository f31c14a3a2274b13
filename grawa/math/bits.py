"""Whole numbers of any number of bits, packed without gaps."""

import torch
from torch import Tensor

_BYTE = 8


def packed_bytes(count: int, width: int) -> int:
    """The bytes of so many numbers of so many bits."""
    return -(-count * width // _BYTE)


def pack(numbers: Tensor, width: int) -> Tensor:
    """Packs whole numbers.

    Args:
        numbers: (n,), int64; only their lowest bits count.
        width: how many bits of each.

    Returns:
        (`packed_bytes(n, width)`,), uint8.

    >>> pack(torch.tensor([1, 2, 3]), 4).tolist()
    [33, 3]
    """
    bits = numbers.unsqueeze(1).bitwise_right_shift(_places(width, numbers)).bitwise_and_(1)
    whole = packed_bytes(numbers.numel(), width) * _BYTE
    bits = torch.nn.functional.pad(bits.view(-1), (0, whole - bits.numel()))
    return _joined(bits.view(-1, _BYTE)).to(torch.uint8)


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
    wide = packed.to(torch.int64).unsqueeze(1)
    bits = wide.bitwise_right_shift(_places(_BYTE, wide)).bitwise_and_(1)
    return _joined(bits.view(-1)[: count * width].view(count, width))


def _places(width: int, like: Tensor) -> Tensor:
    return torch.arange(width, device=like.device)


def _joined(bits: Tensor) -> Tensor:
    """Numbers from their bits, the lowest first: (n, width) -> (n,)."""
    return bits.bitwise_left_shift(_places(bits.shape[1], bits)).sum(dim=1)
