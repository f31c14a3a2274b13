"""Populations: conditions in which every worker is different, made of faults of each worker."""

import torch

from grawa.errors import UserError
from grawa.lab.train.faults import Fault
from grawa.seeding import generator

_LEAST_BATCH, _LARGEST_BATCH = 4, 32
_MOST_LABEL_NOISE = 0.6
_MOST_NOISE = {"gradient-noise": 1.0, "input-noise": 0.6}
_SLOWEST = 0.25
_DIGITS = 16
"""A seed has fewer, so that it is exact in every file."""

_DECIMALS = 3  # so that writing and reading gives exactly what was drawn


def faults_of(text: str, workers: int, *, timed: bool) -> tuple[Fault, ...]:
    """Parses a fault or a population as written on the command line.

    Args:
        text: as in `grawa.lab.train.forms.FAULTS_HELP`.
        workers: N.
        timed: whether the workers of a random population have different speeds.

    Returns:
        The faults of all workers.

    Raises:
        UserError: if it is neither.

    >>> [str(fault) for fault in faults_of("graded-batch", 3, timed=False)]
    ['batch=4:0', 'batch=18:1', 'batch=32:2']
    """
    name, _, seed = text.partition(":")
    if name == "mixed":
        if not (seed.isascii() and seed.isdigit() and len(seed) < _DIGITS):
            raise UserError(
                f"write a random population as mixed:SEED, such as mixed:0, got {text!r}"
            )
        return tuple(fault for i in range(workers) for fault in _mixed(int(seed), i, timed))
    if text == "graded-labels":
        return _graded("noisy-labels", 0.0, _MOST_LABEL_NOISE, _DECIMALS, workers)
    if text == "graded-batch":
        return _graded("batch", _LEAST_BATCH, _LARGEST_BATCH, 0, workers)
    return (Fault.parse(text),)


def _graded(kind: str, first: float, last: float, decimals: int, workers: int) -> tuple[Fault, ...]:
    """A fault of every worker, whose amount rises linearly from the first to the last one."""
    steps = torch.linspace(first, last, workers, dtype=torch.float64).tolist()
    return tuple(
        Fault(kind=kind, worker=i, amount=round(step, decimals)) for i, step in enumerate(steps)
    )


def _mixed(seed: int, worker: int, timed: bool) -> list[Fault]:
    """Draws one worker of a random population; the draw does not depend on the number of workers.

    Batch sizes and speeds are uniform in their logarithm, noise is uniform in its strength.

    Returns:
        A fault for each of the worker's properties.
    """
    random = generator(seed, "mixed population", worker)
    batch, labels, noise, which, speed = torch.rand(
        5, generator=random, dtype=torch.float64
    ).tolist()
    ratio = _LARGEST_BATCH / _LEAST_BATCH
    kind = "gradient-noise" if which < 0.5 else "input-noise"
    amounts = {
        "batch": round(_LEAST_BATCH * ratio**batch, 0),
        "noisy-labels": round(labels * _MOST_LABEL_NOISE, _DECIMALS),
        kind: round(noise * _MOST_NOISE[kind], _DECIMALS),
    }
    if timed:
        amounts["speed"] = round(_SLOWEST**speed, _DECIMALS)
    return [Fault(kind=kind, worker=worker, amount=amount) for kind, amount in amounts.items()]
