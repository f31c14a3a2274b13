"""The models and methods that `gpu.py` measures."""

from collections.abc import Mapping

import torch
from torch import nn

import grawa
from gpu_config import Config
from grawa.lab.tasks.models.registry import build
from grawa.lab.tasks.models.transformer import Transformer
from models import moving_one

METHODS: Mapping[str, grawa.Strategy] = {
    "MGRAWA": moving_one(grawa.MGRAWA()),
    "LGRAWA": moving_one(grawa.LGRAWA()),
    "LocalSGD": moving_one(grawa.LocalSGD()),
}
"""With their usual options; they move a single worker, too, as if it were one of several."""

RESUMED: Mapping[str, grawa.Strategy] = {
    "LGRAWA": moving_one(grawa.LGRAWA()),
    "DiLoCo": moving_one(grawa.DiLoCo()),
}


def transformer(config: Config, device: torch.device) -> Transformer:
    """The transformer, made on its device."""
    with torch.device(device):
        return Transformer(*config.transformer)


def resnet(config: Config, device: torch.device) -> nn.Module:
    """The residual network for 1,000 classes."""
    return build(config.resnet, (3, config.side, config.side), 1000).to(device)


def parameter_bytes(model: nn.Module) -> int:
    """Of all parameters."""
    return sum(p.nbytes for p in model.parameters())


def with_gradients(model: nn.Module) -> nn.Module:
    """The same model, with random gradients."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model
