"""Clips gradients, and records their norms from before for the strategy's score."""

from torch import Tensor

from grawa.errors import UserError
from grawa.rounds.engine import Engine


def clip_gradients(engine: Engine, max_norm: float) -> Tensor:
    """Scales each hosted worker's gradients down to a norm, where they have a larger one.

    Args:
        engine: with the hosted workers.
        max_norm: the L2 norm over the whole model.

    Returns:
        The norm before clipping, a scalar; with K hosted workers (K,).

    Raises:
        UserError: if `max_norm` is not positive.
    """
    if not max_norm > 0.0:
        raise UserError(f"max_norm must be positive, got {max_norm}")
    totals = engine.replicas.gradients.clip_gradients(note_norms(engine), max_norm)
    return totals[0] if len(totals) == 1 else totals


def note_norms(engine: Engine) -> Tensor:
    """Records the gradients' norms for the strategy's score, as they are now.

    Args:
        engine: with the hosted workers.

    Returns:
        The norms, (K, L).
    """
    norms = engine.replicas.gradients.gradient_norms()
    engine.note_norms(norms)
    return norms
