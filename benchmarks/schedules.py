"""How learning rates change during a run."""

import math

WARMUP = 0.05
"""Part of the steps in which the learning rate rises, before it falls to zero as a cosine."""


def warmup_and_cosine(step: int, steps: int) -> float:
    """A step's factor of the learning rate, step 0 first: a warm-up, then a cosine to zero."""
    rising = max(1, round(WARMUP * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))
