"""Rounds on one GPU, and how long its memory would take for them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import SGD

import grawa
from gpu_card import Card
from gpu_config import Config
from gpu_models import METHODS, parameter_bytes, transformer, with_gradients

BANDWIDTH = "copy"
"""The item that measures the memory."""

_WARM = 3
"""Rounds before the first that is timed; the first one checks more than the others."""

NEVER = 10**9


def rounds(config: Config, card: Card) -> dict[str, Callable[[], dict[str, Any]]]:
    """Rounds of each method and number of workers, and the memory's bandwidth."""
    found: dict[str, Callable[[], dict[str, Any]]] = {
        f"{method}, {workers}": partial(_round, config, card, method, workers)
        for workers in config.workers
        for method in METHODS
    }
    found[BANDWIDTH] = lambda: {"bytes_per_second": card.bytes_per_second(config.copied_bytes)}
    return found


def passes(workers: int, pull: float) -> int:
    """How many times the bytes of one model a round must read or write at least.

    The guard's norms read each worker. The mean reads each worker and writes the center. The pull
    reads each worker and the center, and writes each worker; with a pull of 1 the workers need not
    be read. The mean must be complete before the pull, as other processes have a part in it, and
    the norms before the mean, as the guard may leave a worker out. Gradients are not read: their
    norms were noted at the local steps.

    >>> passes(1, 0.5), passes(4, 0.5), passes(4, 1.0)
    (6, 18, 14)
    """
    norms, mean, pull_reads_and_writes = workers, workers + 1, 2 * workers + 1
    return norms + mean + (pull_reads_and_writes if pull < 1.0 else workers + 1)


def _round(config: Config, card: Card, method: str, workers: int) -> dict[str, Any]:
    """Seconds of blocking rounds with the usual options, and what happens in one."""
    strategy = METHODS[method]
    models = [with_gradients(transformer(config, card.device)) for _ in range(workers)]
    optimizers = [SGD(model.parameters(), lr=1e-3) for model in models]
    reports: list[grawa.RoundReport] = []
    averager = grawa.Averager(
        models, optimizers, strategy, sync_every=NEVER, on_round=[reports.append]
    )
    averager.attach()
    losses = 1.0 + 0.01 * torch.arange(workers, device=card.device)  # the guard accepts all

    def local_step() -> None:
        averager.record_loss(losses)
        for optimizer in optimizers:
            optimizer.step()

    seconds = []
    for _ in range(_WARM + config.rounds):
        local_step()
        seconds.append(card.timed(averager.synchronize))
    for _ in range(2):  # the profiler's first use takes longer
        local_step()
        activity = card.watched(averager.synchronize)
    _check(reports)
    return {
        "method": method,
        "workers": workers,
        "seconds": seconds[_WARM:],
        "activity": activity._asdict() if card.is_gpu else {"operators": activity.operators},
        "bytes": parameter_bytes(models[0]),
        "passes": passes(workers, getattr(strategy, "pull", 1.0)),
    }


def _check(reports: Sequence[grawa.RoundReport]) -> None:
    """A round that leaves workers out would do less."""
    left_out = [report.left_out for report in reports if report.left_out]
    if left_out:
        raise RuntimeError(f"the guard has left workers out: {left_out[0]}")
