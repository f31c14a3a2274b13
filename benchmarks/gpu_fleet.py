"""Many small workers in one process: one after another, and in one batched pass."""

from collections.abc import Callable
from functools import partial
from typing import Any

import grawa
from gpu_card import Card
from gpu_config import Config
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Digits
from grawa.lab.train.run import Run

_WARM = 2
"""Steps before those that are timed."""


def fleets(config: Config, card: Card) -> dict[str, Callable[[], dict[str, Any]]]:
    """Training of `digits`, stacked and looped."""
    return {
        name: partial(_train, config, card, stacked=stacked)
        for name, stacked in {"looped": False, "stacked": True}.items()
    }


def _train(config: Config, card: Card, *, stacked: bool) -> dict[str, Any]:
    """Seconds of training by LGRAWA, rounds included."""
    asked = TrainConfig(
        task="digits", workers=config.fleet, steps=10**6, stack_workers="on" if stacked else "off"
    )
    run = Run(Digits(), lambda *_: grawa.LGRAWA(), asked.settings(), card.device, None)
    run.engine.local_steps_begin()

    def steps(count: int) -> None:
        for _ in range(count):
            run.step()
        for _ in run.news():  # so that reports don't accumulate
            pass

    steps(_WARM)
    return {"seconds": card.timed(partial(steps, config.fleet_steps))}
