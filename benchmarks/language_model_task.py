"""What the workers of `language_model.py` are: a model, its loss, optimizers and a method."""

import inspect
import math
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW, Optimizer

import grawa
from grawa.errors import UserError
from grawa.lab.cli import methods
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.options import changed
from grawa.lab.tasks import Task
from grawa.lab.tasks.custom import custom
from grawa.lab.tasks.models.transformer import Transformer
from grawa.lab.train.settings import Settings
from language_model_config import Size
from language_model_data import Corpus

_MEASURED_SYMBOLS = 8_192
"""Symbols that are measured at once."""


def task_of(size: Size, text: Corpus, device: torch.device, *, bf16: bool) -> Task:
    """The model, its loss, and bits per byte.

    Args:
        size: of the model.
        text: what it learns; the task's "training data" are what shared batches are drawn from.
        device: of the data.
        bf16: whether losses and their gradients are computed so; bits per byte never are.

    Returns:
        The task.
    """

    def nats(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = model(inputs).flatten(0, 1).float()
        return cross_entropy(logits, targets.flatten().long())

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            return nats(model, inputs, targets)

    def bits(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
        at_once = max(1, _MEASURED_SYMBOLS // size.context)
        parts = zip(inputs.split(at_once), targets.split(at_once), strict=True)
        total = torch.stack([nats(model, *part).double() * len(part[0]) for part in parts]).sum()
        return float(total) / len(inputs) / math.log(2.0) / text.bytes_per_symbol

    shape = size.context, text.symbols, size.width, size.depth, size.heads
    probe, test = ([part.to(device) for part in windows] for windows in (text.probe, text.test))
    return custom(
        model=partial(Transformer, *shape),
        data=(probe[0], probe[1], test[0], test[1]),
        loss=loss,
        measure=bits,
        metric="bits per byte",
    )


def optimizers_of(model: nn.Module, kind: str, lr: float) -> list[Optimizer]:
    """AdamW; or Muon for the matrices of the blocks, and AdamW for the rest."""
    adamw = partial(AdamW, lr=lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    if kind == "adamw":
        return [adamw(model.parameters())]
    inner: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_inner = name.startswith("blocks.") and parameter.dim() == 2
        (inner if is_inner else rest).append(parameter)
    # Its steps then have the length of AdamW's, so that one learning rate fits both.
    muon = torch.optim.Muon(inner, lr=lr, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(rest)]


def method_options(
    text: str, *, workers: int, steps: int, sync_every: int, seed: int
) -> tuple[TrainConfig, dict[str, Any]]:
    """A method's options as `grawa train` has them, and those of them that are the `Averager`'s.

    Args:
        text: the method, as for `grawa compare`.
        workers: N.
        steps: local steps of each.
        sync_every: local steps between rounds.
        seed: of shared batches.

    Returns:
        Both.

    Raises:
        UserError: if there is no such method, or it has an option that an `Averager` does not have.
    """
    found = methods.method(text)
    options = changed(
        TrainConfig(
            task="text",
            strategy=found.strategy,
            workers=workers,
            steps=steps,
            sync_every=sync_every,
            seed=seed,
        ),
        found.options,
    )
    parameters = inspect.signature(grawa.Averager).parameters.values()
    known = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    shared = known & {field.name for field in fields(Settings)}
    other = set(found.options) - {"score", "report_after", "drop"} - shared
    if other or found.optimizer is not None:
        raise UserError(
            f"{text}: a method's options are here those of its strategy, its score and the "
            f"Averager, not {min(other, default='optimizer')}"
        )
    settings = options.settings()
    return options, {name: getattr(settings, name) for name in shared}
