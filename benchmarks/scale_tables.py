"""Tables and series of the measurements and predictions of `scale.py`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from common import show, verdict
from scale_worker import TASKS, Found, Job, tensor_bytes

TARGET = 1.3
"""Largest rise of time and memory per worker that meets the target."""

LEAST = {"time": 4, "memory": 16}
"""Number of workers from which on time and memory per worker must be constant. With fewer, most of
a step's time does not depend on the number, and workers reuse memory freed after the start."""

KINDS = ("one by one", "stacked")

Medians = Mapping[Job, Found]
Predictions = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Link -> name -> number of workers -> milliseconds of a local step."""


def medians_of(samples: Sequence[Mapping[str, Any]]) -> dict[Job, Found]:
    """Medians of each job's measurements."""
    medians = {}
    for job in samples:
        asked = {name: value for name, value in job.items() if name != "found"}
        medians[Job(**asked)] = _median([Found(**one) for one in job["found"]])
    return medians


def _median(found: Sequence[Found]) -> Found:
    return Found(
        seconds=statistics.median(one.seconds for one in found),
        wall_seconds=statistics.median(one.wall_seconds for one in found),
        rest=round(statistics.median(one.rest for one in found)),
        peak=round(statistics.median(one.peak for one in found)),
    )


def _by_workers(medians: Medians, model: str, stacked: bool) -> dict[int, Found]:
    chosen = (job for job in medians if (job.model, job.stacked) == (model, stacked))
    return {job.workers: medians[job] for job in chosen}


def series(medians: Medians) -> dict[str, dict[int, float]]:
    """Microseconds of a worker-step, for each model and kind."""
    return {
        f"{model}, {kind}": {
            n: 1e6 * found.seconds for n, found in _by_workers(medians, model, bool(i)).items()
        }
        for model in TASKS
        for i, kind in enumerate(KINDS)
    }


def memory(medians: Medians) -> dict[str, dict[int, float]]:
    """Peak kilobytes for each worker after the first, for each model and kind."""
    series = {}
    for model in TASKS:
        for i, kind in enumerate(KINDS):
            found = _by_workers(medians, model, bool(i))
            first = found[min(found)].peak if found else 0
            series[f"{model}, {kind}"] = {
                n: (one.peak - first) / (n - min(found)) / 1e3
                for n, one in found.items()
                if n > min(found)
            }
    return series


def show_model(model: str, medians: Medians) -> None:
    """Prints the cost of a worker for a model."""
    time_of, memory_of = series(medians), memory(medians)
    looped, stacked = (f"{model}, {kind}" for kind in KINDS)
    rows = [
        [
            str(n),
            f"{time_of[looped][n]:.0f}",
            f"{time_of[stacked][n]:.0f}",
            f"{time_of[looped][n] / time_of[stacked][n]:.2f}",
            *(
                f"{memory_of[kind][n]:.0f}" if n in memory_of[kind] else ""
                for kind in (looped, stacked)
            ),
        ]
        for n in time_of[looped]
        if n in time_of[stacked]  # unless it was interrupted
    ]
    columns = ["workers", "us", "stacked", "faster by", "kB", "stacked"]
    show(f"{model} on digits, one by one and stacked", columns, rows)
    print(
        "us: of the processor, for a worker-step. kB: at the peak, for each worker beside the "
        "first; parameters, gradients and momentum are "
        f"{tensor_bytes(model) / 1e3:.0f} kB of it."
    )


def show_predictions(predictions: Predictions) -> None:
    """Prints every third number of machines."""
    for link, found in predictions.items():
        shown = list(next(iter(found.values())))[::3]
        rows = [[name, *(f"{steps[n]:.0f}" for n in shown)] for name, steps in found.items()]
        show(f"Predicted ms of a local step over {link}", ["workers", *map(str, shown)], rows)


def _rise(values: Mapping[int, float], first: int) -> float:
    """The largest ratio of a cost to the least cost with fewer workers, from `first` workers on."""
    least, rise = float("inf"), 1.0
    for n in sorted(values):
        if n >= first:
            least = min(least, values[n])
            rise = max(rise, values[n] / least)
    return rise


def judge(medians: Medians) -> None:
    """Prints whether costs rise too much with the number of workers."""
    for what, costs in (("time", series(medians)), ("memory", memory(medians))):
        for kind in KINDS:
            rise = _rise(costs[f"MLP, {kind}"], LEAST[what])
            name = f"rise of {what} of an MLP's worker, {kind}, from {LEAST[what]} workers up"
            print(verdict(name, rise, TARGET))
