"""Outer optimizers: steps of the center along the negative pseudo-gradient."""

import torch

from grawa.math.leaves import Leaves


def pseudo_gradient_(mean: Leaves, began: Leaves) -> Leaves:
    """Overwrites the workers' mean with d = began - mean.

    Args:
        mean: of the workers.
        began: the center from which they started.

    Returns:
        d, in the memory of `mean`.

    >>> x, c = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (0.5, 1.0))
    >>> pseudo_gradient_(x, c)["x"]
    tensor([0.5000])
    """
    torch._foreach_sub_(mean.flats, began.flats)
    torch._foreach_neg_(mean.flats)
    return mean


def nesterov_(
    center: Leaves,
    momentum: Leaves,
    mean: Leaves,
    *,
    lr: float,
    momentum_decay: float,
    began: Leaves | None = None,
) -> None:
    """Steps the center with Nesterov momentum on the pseudo-gradient d = center - mean.

        m <- momentum_decay m + d
        center <- center - lr (d + momentum_decay m)

    Args:
        center: the center of the last round, moved in place.
        momentum: m, zero before the first round, updated in place.
        mean: the workers' mean; overwritten with d.
        lr: the outer learning rate.
        momentum_decay: of the outer momentum, in [0, 1).
        began: the center from which the workers started, so that d = began - mean; by default
            `center`. It differs if the workers have 16 bits, and center and momentum float32.

    >>> c, m, x = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (1.0, 0.0, 0.5))
    >>> nesterov_(c, m, x, lr=1.0, momentum_decay=0.0)
    >>> c["x"]
    tensor([0.5000])

    Source: Douillard et al. (2023), "DiLoCo", algorithm 1, with the Nesterov momentum of
    Sutskever et al. (2013) as `torch.optim.SGD` writes it.
    """
    gradient = pseudo_gradient_(mean, center if began is None else began)
    torch._foreach_mul_(momentum.flats, momentum_decay)
    torch._foreach_add_(momentum.flats, gradient.flats)
    torch._foreach_add_(center.flats, gradient.flats, alpha=-lr)
    torch._foreach_add_(center.flats, momentum.flats, alpha=-lr * momentum_decay)


def heavy_ball_(
    center: Leaves,
    momentum: Leaves,
    mean: Leaves,
    *,
    lr: float,
    momentum_decay: float,
    began: Leaves | None = None,
) -> None:
    """Steps the center with heavy-ball momentum on the pseudo-gradient d = center - mean.

        m <- momentum_decay m + d
        center <- center - lr m

    Args:
        center: the center of the last round, moved in place.
        momentum: m, zero before the first round, updated in place.
        mean: the workers' mean; overwritten with d.
        lr: the outer learning rate.
        momentum_decay: of the outer momentum, in [0, 1).
        began: as for `nesterov_`.

    >>> c, m, x = (Leaves.copy_of({"x": torch.tensor([[v]])}) for v in (1.0, 1.0, 0.5))
    >>> heavy_ball_(c, m, x, lr=1.0, momentum_decay=0.5)
    >>> m["x"], c["x"]
    (tensor([1.]), tensor([0.]))

    Source: Wang et al. (2020), "SlowMo", algorithm 1, lines 7 and 8, in units of displacement.
    """
    gradient = pseudo_gradient_(mean, center if began is None else began)
    torch._foreach_mul_(momentum.flats, momentum_decay)
    torch._foreach_add_(momentum.flats, gradient.flats)
    torch._foreach_add_(center.flats, momentum.flats, alpha=-lr)
