"""Optimizers that wrap others."""

from grawa.optim.sam import SAM

__all__ = ["SAM"]
