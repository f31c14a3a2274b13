"""Whether the result of a run is one: its model is finite, and has learnt something."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from grawa.lab.tasks import Data, Task
from grawa.rounds.attendance import ABSENT

_SAMPLES = 64
"""Training samples on which the loss is compared with that of the model before training."""

WHAT_TO_DO = (
    "lower the learning rate, check the data and the labels, and see which workers were left out"
)


class Measured(NamedTuple):
    """The result of a run."""

    error: float
    doubts: tuple[str, ...]
    """Why it should not be trusted, in sentences for the user."""


def measured(task: Task, data: Data, model: nn.Module, seed: int) -> Measured:
    """Measures the consensus at the end of a run, and whether it has learnt something.

    Args:
        task: the task.
        data: its data.
        model: the consensus, in eval mode.
        seed: of the run, which also gives the model before training.

    Returns:
        The metric, and doubts if there are any.
    """
    error = task.measure(model, data)
    return Measured(error, _doubts(task, data, model, error, seed))


def _doubts(task: Task, data: Data, model: nn.Module, error: float, seed: int) -> tuple[str, ...]:
    chance = task.chance(data)
    if chance is not None and error >= chance.limit:
        return (
            f"the {task.metric} {error:.4g} is no better than {chance.value:.4g}, that of "
            f"{chance.name}: {WHAT_TO_DO}",
        )
    first = next(model.parameters())
    untrained = task.model(seed).to(first).eval()
    before, after = (_loss(task, data, each) for each in (untrained, model))
    if not after < before:
        return (
            f"the training loss {after:.4g} is not below that of the model before training, "
            f"{before:.4g}: {WHAT_TO_DO}",
        )
    return ()


def _loss(task: Task, data: Data, model: nn.Module) -> float:
    with torch.no_grad():
        return float(task.loss(model, data.train_inputs[:_SAMPLES], data.train_targets[:_SAMPLES]))


def last_sound_round(events: Sequence[Mapping[str, Any]]) -> int:
    """The last round before which all workers' losses were finite for a whole round.

    Args:
        events: of the run, as in `events.jsonl`.

    Returns:
        The round before the last one with finite losses; 0 if there is none.
    """
    rounds = [0]
    for event in events:
        if event["kind"] == "round":
            left_out = event["left_out"]
            losses = enumerate(event["losses"])
            if None in [loss for i, loss in losses if left_out.get(str(i)) != ABSENT]:
                break
            rounds.append(event["round"])
    return rounds[-2] if len(rounds) > 1 else 0
