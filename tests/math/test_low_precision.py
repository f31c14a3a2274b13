"""Means of 16-bit parameters are the nearest 16-bit numbers to the exact ones."""

import torch
from torch import nn
from torch.optim import SGD

import grawa


def test_the_mean_of_many_bfloat16_workers_does_not_lean_to_the_first() -> None:
    models = [nn.Linear(1, 1, bias=False).bfloat16() for _ in range(32)]
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    averager = grawa.Averager(models, optimizers, grawa.LocalSGD())
    averager.attach()
    for model, value in zip(models, [1.0, *[1.0078125] * 31], strict=True):
        nn.init.constant_(model.weight, value)
    averager.synchronize()
    for model in models:
        # The exact mean is 1.00757, 0.03 ulp away.
        assert torch.equal(model.weight.detach(), torch.full_like(model.weight, 1.0078125))
