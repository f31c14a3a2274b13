"""Formulas that turn scores into weights."""

import torch
from torch import Tensor


def inverse_norm(norms: Tensor, power: float = 1.0, active: Tensor | None = None) -> Tensor:
    """Weights inversely proportional to gradient norms.

        beta_i = norm_i^-power / sum_j norm_j^-power

    A norm of zero beside positive ones gives weight zero: the worker has not trained this tensor
    (an expert that its batches never reached, a rare embedding), or its network is dead. A column
    of zeros gives equal weights.

    Args:
        norms: (N, G), not negative.
        power: how strongly the norm counts; 0 gives equal weights, whatever the norms.
        active: (N,), true for the workers that take part, at least one; the others, whose norms may
            be anything, get weight zero. By default all take part.

    Returns:
        (N, G), columns sum to 1.

    >>> inverse_norm(torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.0, 2.0]]))
    tensor([[0.7500, 0.5000, 0.0000],
            [0.2500, 0.5000, 1.0000]])

    Source: Dimlioglu and Choromanska (2024), section 4; `power=1` is the paper's.
    Deviation: in the formula's limit a norm of zero gets all the weight. Then a worker that does
    not train a tensor would override those that do, and the tensor would keep its initial values.
    """
    taking_part = _as_column(active, norms)
    known = taking_part & (norms != 0) if power > 0.0 else taking_part
    return _inverse(norms, power, torch.where(known.any(dim=0), known, taking_part))


def inverse_loss(losses: Tensor, power: float = 1.0, active: Tensor | None = None) -> Tensor:
    """Weights inversely proportional to losses.

        w_i = loss_i^-power / sum_j loss_j^-power

    A negative loss counts as zero; workers with a loss of zero share all the weight equally, which
    is the formula's limit.

    Args:
        losses: (N, G).
        power: as for `inverse_norm`.
        active: as for `inverse_norm`.

    Returns:
        (N, G), columns sum to 1.

    >>> inverse_loss(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))
    tensor([[0.7500, 1.0000],
            [0.2500, 0.0000]])
    """
    return _inverse(losses.clamp_min(0.0), power, _as_column(active, losses))


def _as_column(active: Tensor | None, scores: Tensor) -> Tensor:
    """Which workers take part, as a mask of the scores' shape."""
    if active is None:
        return torch.ones_like(scores, dtype=torch.bool)
    return active.unsqueeze(1).expand_as(scores)


def _inverse(values: Tensor, power: float, counted: Tensor) -> Tensor:
    """Inverse powers of the values that count, over their sum; zero for the others."""
    # Relative to the column's smallest value the ratios lie in [0, 1], so nothing overflows.
    smallest = torch.where(counted, values, torch.inf).amin(dim=0)
    is_smallest = (values == smallest) & torch.isfinite(values)
    ratios = torch.where(is_smallest, torch.ones_like(values), smallest / values)
    powers = torch.where(counted, ratios**power, torch.zeros_like(values))
    return powers / powers.sum(dim=0)


def softmax_norm(norms: Tensor, temperature: float, counted: Tensor) -> Tensor:
    """Weights that fall exponentially with the norm.

        w_i = exp(-norm_i / temperature) / sum_j exp(-norm_j / temperature)

    A norm of zero beside positive ones gives weight zero, as in `inverse_norm`.

    Args:
        norms: (N, G), not negative.
        temperature: positive; the larger, the more equal are the weights.
        counted: (N, G), true for the workers that take part in a group, at least one; the others,
            whose norms may be anything, get weight zero.

    Returns:
        (N, G), columns sum to 1.

    >>> softmax_norm(torch.tensor([[1.0], [1.0], [3.0]]), 2.0, torch.ones(3, 1).bool()).flatten()
    tensor([0.4223, 0.4223, 0.1554])

    Source: Cheng et al. (2025), "EDiT"; the temperature is an option of their code.
    """
    known = counted & (norms != 0)
    known = torch.where(known.any(dim=0), known, counted)
    return torch.where(known, -norms / temperature, -torch.inf).softmax(dim=0)


def one_hot_smallest(scores: Tensor, active: Tensor | None = None) -> Tensor:
    """All weight to the smallest score of each column; to the first of equal ones.

    Args:
        scores: (N, G).
        active: (N,), true for the workers that take part, at least one; by default all.

    Returns:
        (N, G), one 1 in each column.

    >>> one_hot_smallest(torch.tensor([[0.7], [0.2], [0.2]])).flatten()
    tensor([0., 1., 0.])

    Source: Teng et al. (2019), "Leader Stochastic Gradient Descent for Distributed Training of
    Deep Learning Models", section 2.
    """
    kept = torch.where(_as_column(active, scores), scores, torch.inf)
    return torch.zeros_like(scores).scatter_(0, kept.argmin(dim=0, keepdim=True), 1.0)


def uniform(num_workers: int) -> Tensor:
    """Equal weights.

    Returns:
        (N, 1), float64.

    >>> uniform(4).flatten()
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """
    return torch.full((num_workers, 1), 1.0 / num_workers, dtype=torch.float64)


def floor_at_median(norms: Tensor, fraction: float | Tensor, active: Tensor) -> Tensor:
    """Norms raised to at least a fraction of their column's median, so that none dominates.

    Norms of zero stay: they mean that a worker has not trained a tensor, not that it trains well.

    Args:
        norms: (N, G).
        fraction: of the median of the positive norms; one for all, or (N, 1) for each worker.
        active: (N,), true for the workers that take part; the others' norms stay as they are, and
            do not count in the median.

    Returns:
        (N, G).

    >>> everyone = torch.ones(4, dtype=torch.bool)
    >>> floor_at_median(torch.tensor([[0.1], [2.0], [4.0], [0.0]]), 0.5, everyone).flatten()
    tensor([1., 2., 4., 0.])
    """
    counted = _as_column(active, norms) & (norms > 0.0)
    medians = torch.where(counted, norms, torch.nan).nanquantile(0.5, dim=0)
    return torch.where(counted, torch.maximum(norms, fraction * medians), norms)
