"""The largest values of a run's options: beyond them nothing could be trained, or written down."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from grawa.errors import UserError
from grawa.lab.shapes import shown

LARGEST: Mapping[str, float] = {
    "workers": 100_000,
    "processes": 100_000,
    "steps": 10**9,
    "epochs": 1e9,
    "sync_every": 10**9,
    "overlap_steps": 10**9,
    "fragments": 10**6,
    "optimizer_state_every": 10**9,
    "batch_size": 10**9,
    "evaluate_every": 10**9,
    "keep_rounds": 10**6,
    "seed": 2**53,
    "lr": 1e6,
    "jitter": 1e3,
    "stop_within": 1e9,
}
"""Option of a run -> its largest value."""

_PROCESS_BYTES = 150e6
"""Of memory that a process with torch has for itself alone, at least: 209 MB were measured."""

_COPIES = 2
"""Of the parameters that every worker has, at least: these and their gradients."""


def check_limits(options: Mapping[str, Any]) -> None:
    """Refuses options that are too large, before anything is computed from them.

    Args:
        options: of a run, name -> value.

    Raises:
        UserError: naming the first one.
    """
    for name, most in LARGEST.items():
        if options[name] is not None and options[name] > most:
            raise UserError(f"{name} must be at most {most:,.0f}, got {shown(options[name])}")


def check_memory(model: nn.Module, workers: int, processes: int, *, on_cpu: bool) -> None:
    """Refuses a run that can't fit into this machine's memory.

    Args:
        model: of one worker.
        workers: on this machine.
        processes: on this machine.
        on_cpu: whether the workers' models are in this memory.

    Raises:
        UserError: with the least memory that it would need.
    """
    each = _COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
    needed = processes * _PROCESS_BYTES + (workers * each if on_cpu else 0)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise UserError(
            f"{workers} workers in {processes} processes need at least {needed / 1e9:,.0f} GB of "
            f"memory ({each / 1e6:,.1f} MB for each worker, {_PROCESS_BYTES / 1e6:,.0f} MB for a "
            f"process), and this machine has {there / 1e9:,.0f} GB; use fewer --workers, or fewer "
            "--processes"
        )
