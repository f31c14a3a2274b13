"""Exponential moving means and deviations, by which outliers are recognised."""

from typing import NamedTuple

import torch
from torch import Tensor


class Moving(NamedTuple):
    """Moving means and variances of numbers of N workers; changed in place."""

    mean: Tensor
    """(N, G)"""
    variance: Tensor
    """(N, G)"""
    rounds: Tensor
    """(N, 1), how many numbers have been added of each worker, one a round."""

    def z_scores(self, values: Tensor) -> Tensor:
        """How many deviations values lie above their means; zero where nothing has varied yet.

        Args:
            values: (N, G).

        Returns:
            (N, G).
        """
        above = (values - self.mean) / self.variance.sqrt()
        return torch.where(self.variance > 0.0, above, 0.0)

    def add(self, values: Tensor, of: Tensor, share: float) -> None:
        """Adds one number of each of some workers.

            a        <- share / (1 - (1 - share)^n)     the n-th number, n = 1, 2, ...
            mean     <- mean + a (x - mean)
            variance <- (1 - a) (variance + a (x - mean)^2)       mean of before

        These are the mean and the variance of all numbers so far, by weights that fall by
        1 - share with each one; so the first numbers need no correction.

        Args:
            values: x, (N, G).
            of: (N, 1), true for the workers whose numbers are added; those of the others may be
                anything.
            share: the weight of the newest of many numbers, in (0, 1).

        Source: West (1979), "Updating mean and variance estimates: an improved method".
        """
        self.rounds.add_(of)
        past = (1.0 - share) ** self.rounds.clamp_min(1.0)
        newest = (share / (1.0 - past)).clamp_max(1.0)
        gaps = torch.where(of, values - self.mean, 0.0)
        shares = torch.where(of, newest, 0.0)
        self.variance.add_(shares * gaps.square()).mul_(1.0 - shares)
        self.mean.add_(shares * gaps)
