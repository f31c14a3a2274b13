"""What it takes to save an `Averager` and to go on from there, beside what a model takes anyway."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Optimizer

import grawa
from gpu_card import Card
from gpu_config import Config
from gpu_models import RESUMED, transformer, with_gradients
from gpu_rounds import NEVER

_USUAL = 5
"""Rounds of which the median is a usual one."""


def resumes(config: Config, card: Card) -> dict[str, Callable[[], dict[str, Any]]]:
    """A worker of each method is saved and resumed."""
    return {name: partial(_resume, config, card, s) for name, s in RESUMED.items()}


@dataclass
class _Worker:
    """One worker, and its usual round."""

    config: Config
    card: Card
    strategy: grawa.Strategy
    model: nn.Module = field(init=False)
    optimizer: Optimizer = field(init=False)
    averager: grawa.Averager = field(init=False)

    def __post_init__(self) -> None:
        self.model = with_gradients(transformer(self.config, self.card.device))
        self.optimizer = SGD(self.model.parameters(), lr=1e-3)
        self.averager = grawa.Averager(self.model, self.optimizer, self.strategy, sync_every=NEVER)
        self.averager.attach()

    def round(self) -> float:
        """Seconds of a round after a local step."""
        self.averager.record_loss(torch.ones((), device=self.card.device))
        self.optimizer.step()
        return self.card.timed(self.averager.synchronize)


def _resume(config: Config, card: Card, strategy: grawa.Strategy) -> dict[str, Any]:
    """Seconds of each stage, of the averager and of the model alone."""
    worker = _Worker(config, card, strategy)
    first = worker.round()
    usual = statistics.median(worker.round() for _ in range(_USUAL))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        other = _Worker(config, card, strategy)
        of_model, _ = _stages(
            card,
            path,
            lambda: {name: x.clone() for name, x in worker.model.state_dict().items()},
            other.model.load_state_dict,
        )
        of_averager, size = _stages(
            card, path, worker.averager.state_dict, other.averager.load_state_dict
        )
    of_averager["first round"], of_model["first round"] = other.round(), usual
    return {"seconds": of_averager, "of_model": of_model, "bytes": size, "very_first": first}


def _stages(
    card: Card,
    path: Path,
    take: Callable[[], dict[str, Any]],
    give: Callable[[dict[str, Any]], object],
) -> tuple[dict[str, float], int]:
    """Seconds to take a state, write, read and give it, and the bytes of the file."""
    kept: dict[str, dict[str, Any]] = {}

    def read() -> None:
        kept["read"] = torch.load(path, map_location=card.device)

    seconds = {"take": card.timed(lambda: kept.update(taken=take()))}
    seconds["write"] = card.timed(lambda: torch.save(kept.pop("taken"), path))
    seconds["read"] = card.timed(read)
    seconds["give"] = card.timed(lambda: give(kept.pop("read")))
    return seconds, path.stat().st_size
