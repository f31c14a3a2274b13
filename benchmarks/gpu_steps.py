"""Local steps with an `Averager` attached, beside bare ones."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

import grawa
from gpu_card import Card
from gpu_config import Config
from gpu_models import METHODS, resnet, transformer

BARE = "bare"

VARIANTS: Mapping[str, grawa.Strategy | None] = {BARE: None, **METHODS}


@dataclass(frozen=True)
class Training:
    """What is trained: a model, its optimizer, and one batch, which is used again and again."""

    model: nn.Module
    optimizer: Optimizer
    inputs: Tensor
    targets: Tensor


def steps(config: Config, card: Card) -> dict[str, Callable[[], dict[str, Any]]]:
    """Steps of two models."""
    made = {"transformer": _transformer, config.resnet: _resnet}
    return {name: partial(_ratios, config, card, make) for name, make in made.items()}


def _transformer(config: Config, device: torch.device) -> Training:
    context, symbols, *_ = config.transformer
    model = transformer(config, device)
    texts = torch.randint(symbols, (config.texts, context + 1), device=device)
    optimizer = AdamW(model.parameters(), lr=1e-6, fused=True)
    return Training(model, optimizer, texts[:, :-1], texts[:, 1:])


def _resnet(config: Config, device: torch.device) -> Training:
    model = resnet(config, device)
    optimizer = SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images = torch.randn(config.images, 3, config.side, config.side, device=device)
    return Training(model, optimizer, images, torch.randint(1000, (config.images,), device=device))


def _ratios(
    config: Config, card: Card, make: Callable[[Config, torch.device], Training]
) -> dict[str, Any]:
    """Seconds of a step of each variant, on average over the steps between two rounds.

    Norms and pulls are not due after every step, so that whole cycles are compared.
    """
    every = config.sync_every
    run = {
        name: _stepper(make(config, card.device), card, strategy, every)
        for name, strategy in VARIANTS.items()
    }
    for several in run.values():
        several(every)
    order, seconds = random.Random(0), {name: list[float]() for name in run}
    for _ in range(config.turns):
        for name in order.sample(list(run), len(run)):
            seconds[name].append(card.timed(partial(run[name], every - 1)) / (every - 1))
            run[name](1)  # with the round
    return {"seconds": seconds, "dtype": "bfloat16 autocast" if card.is_gpu else "float32"}


def _stepper(
    training: Training, card: Card, strategy: grawa.Strategy | None, sync_every: int
) -> Callable[[int], None]:
    """A function that makes some steps."""
    model, optimizer = training.model, training.optimizer
    averager = None
    if strategy is not None:
        averager = grawa.Averager(model, optimizer, strategy, sync_every=sync_every)
        averager.attach()

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast(card.kind, torch.bfloat16, enabled=card.is_gpu):
                outputs = model(training.inputs).flatten(0, training.targets.dim() - 1)
                loss = cross_entropy(outputs.float(), training.targets.flatten())
            loss.backward()
            if averager is not None:
                averager.record_loss(loss)
            optimizer.step()

    return run
