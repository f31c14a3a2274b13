"""Runs methods on the landscape of flat and sharp wells, and finds where they end."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.functional import hessian

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.trial import Prepare, plain_options
from grawa.lab.experiments.walk import Walk, walk
from grawa.lab.tasks.wells import Well, landscape, nearest_well
from grawa.math.finite import finite_or_none

Kind = Literal["flat", "sharp", "none"]

KINDS: tuple[Kind, ...] = ("flat", "sharp", "none")
"""The kinds of wells, and "none" for a point outside all of them."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Where a consensus ended.

    Attributes:
        loss: the loss there; NaN if the run failed.
        nearest: the well whose minimum is closest.
        distance: to that minimum.
        eigenvalue: the largest one of the Hessian there.
    """

    loss: float
    nearest: Well
    distance: float
    eigenvalue: float

    @property
    def kind(self) -> Kind:
        """The nearest well's kind if the point is within the well's width, otherwise "none"."""
        inside = math.isfinite(self.loss) and self.distance <= self.nearest.width
        return self.nearest.kind if inside else "none"


class Walked(NamedTuple):
    """A run of a method."""

    method: str
    seed: int
    walk: Walk
    end: End


def end_of(walk: Walk) -> End:
    """Finds where a path in the plane ended."""
    well, distance = nearest_well(walk.end)
    return End(
        loss=walk.error,
        nearest=well,
        distance=distance,
        eigenvalue=_largest_eigenvalue(walk.end),
    )


def _largest_eigenvalue(point: Tensor) -> float:
    found = hessian(landscape, point)
    return float(torch.linalg.eigvalsh(found)[-1]) if bool(found.isfinite().all()) else math.nan


def walks(
    prepare: Prepare, methods: Mapping[str, TrainConfig], seeds: Sequence[int]
) -> Iterator[Walked]:
    """Runs every method on every seed: first all methods on the first seed, and so on.

    Args:
        prepare: makes the task and the strategy.
        methods: name -> its options.
        seeds: of the runs; a seed determines the start and the noise.

    Yields:
        Each run when it has ended.
    """
    for seed in seeds:
        for name, config in methods.items():
            own = replace(config, seed=seed)
            prepared = prepare(own)
            path = walk(prepared.task, prepared.strategy_for, own.settings())
            yield Walked(name, seed, path, end_of(path))


def as_json(runs: Sequence[Walked], methods: Mapping[str, TrainConfig]) -> list[dict[str, Any]]:
    """Runs as plain values; numbers that are not finite become `None`.

    Args:
        runs: what to write.
        methods: name -> its options.

    Returns:
        An entry for each method, with its options and an end for each seed.
    """
    return [
        {
            "method": name,
            "config": plain_options(config.as_saved()),
            "ends": [_end_as_json(walked) for walked in runs if walked.method == name],
        }
        for name, config in methods.items()
    ]


def _end_as_json(walked: Walked) -> dict[str, Any]:
    end, place = walked.end, walked.walk.end.tolist()
    return {
        "seed": walked.seed,
        "place": [finite_or_none(value) for value in place],
        "loss": finite_or_none(end.loss),
        "kind": end.kind,
        "nearest": {"kind": end.nearest.kind, "place": list(end.nearest.place)},
        "distance": finite_or_none(end.distance),
        "eigenvalue": finite_or_none(end.eigenvalue),
        "failure": walked.walk.failure,
    }
