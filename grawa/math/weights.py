"""From scores to weights."""

import torch
from torch import Tensor


def inverse_norm(norms: Tensor, power: float = 1.0) -> Tensor:
    """Weights inversely proportional to gradient norms.

        beta_i = norm_i^-power / sum_j norm_j^-power

    Norms of zero share all the weight of their column equally, which is the formula's limit; so a
    column of zeros (a tensor without gradient) gives equal weights. An infinite norm gives weight
    zero.

    Args:
        norms: (N, G), not negative; each column with one finite entry at least.
        power: how strongly the norm counts; 0 gives equal weights.

    Returns:
        (N, G), columns sum to 1.

    >>> inverse_norm(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    tensor([[0.7500, 0.5000],
            [0.2500, 0.5000]])

    Source: Dimlioglu and Choromanska (2024), section 4; `power=1` is the paper's.
    """
    # Relative to the column's smallest norm the ratios lie in [0, 1], so nothing overflows.
    smallest = norms.amin(dim=0)
    ratios = torch.where(norms == smallest, torch.ones_like(norms), smallest / norms)
    powers = torch.where(torch.isinf(norms), torch.zeros_like(norms), ratios**power)
    return powers / powers.sum(dim=0)


def one_hot_smallest(scores: Tensor) -> Tensor:
    """All weight to the smallest score of each column; of equal scores, to the first.

    Args:
        scores: (N, G).

    Returns:
        (N, G), one 1 in each column.

    >>> one_hot_smallest(torch.tensor([[0.7], [0.2], [0.2]])).flatten()
    tensor([0., 1., 0.])

    Source: Teng et al. (2019), "Leader Stochastic Gradient Descent for Distributed Training of
    Deep Learning Models", section 2.
    """
    weights = torch.zeros_like(scores)
    return weights.scatter_(0, scores.argmin(dim=0, keepdim=True), 1.0)


def uniform(num_workers: int) -> Tensor:
    """Equal weights.

    Returns:
        (N, 1), float64.

    >>> uniform(4).flatten()
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    return torch.full((num_workers, 1), 1.0 / num_workers, dtype=torch.float64)


def floor_at_median(norms: Tensor, fraction: float | Tensor) -> Tensor:
    """Norms, none below a fraction of its column's median, so that no worker draws all the weight.

    Args:
        norms: (N, G); infinite entries stand for workers that are left out and don't count.
        fraction: of the median of the finite entries; or each worker's own, (N, 1).

    Returns:
        (N, G).

    >>> floor_at_median(torch.tensor([[0.1], [2.0], [4.0]]), 0.5).flatten()
    tensor([1., 2., 4.])
    """
    finite = torch.where(torch.isinf(norms), torch.nan, norms)
    return torch.maximum(norms, fraction * finite.nanquantile(0.5, dim=0))
