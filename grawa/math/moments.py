"""Averages of optimizers' moments, which begin at zero and so depend on the steps made since."""

import torch
from torch import Tensor

_SAME = 1e-9
"""Relative difference of two sums of the same numbers in float64, at most."""


def corrections(betas: Tensor, steps: Tensor) -> Tensor:
    """What an optimizer divides a moment by: the part of it that is not its start at zero.

        c = 1 - beta^steps

    Args:
        betas: (E,), the moments' decay; zero for one that is used as it is.
        steps: (N, E), since it was zero; zero where they are not counted.

    Returns:
        (N, E), 1 where nothing is corrected.

    >>> corrections(torch.tensor([0.5, 0.0]), torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    tensor([[0.5000, 1.0000],
            [0.7500, 1.0000]])
    """
    return torch.where(steps > 0, 1.0 - betas**steps, 1.0)


def own_scales(corrected: Tensor, weights: Tensor) -> Tensor:
    """By how much each worker multiplies the mean of all workers' moments.

        mean / (sum_j w_j c_j / sum_j w_j) * c_i

    is what worker i, which will divide it by its own c_i, needs in order to have the estimate that
    the others have: a mean over workers that have made few steps is too small by as much as their
    corrections are on average.

    Args:
        corrected: c, (N, E), from `corrections`.
        weights: of the mean, (N, E), each column with a positive sum.

    Returns:
        (N, E), exactly 1 where all have made as many steps.
    """
    scales = corrected * weights.sum(dim=0) / (corrected * weights).sum(dim=0)
    return torch.where((scales - 1.0).abs() < _SAME, 1.0, scales)
