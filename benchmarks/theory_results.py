"""Final values and slopes of the curves that `theory.py` has measured, and its tables."""

import math
import statistics
from collections.abc import Sequence
from itertools import product
from typing import Any

from common import show
from samples import Sample
from theory_problems import TASKS, Kind, Steps, expected

METHODS = {
    "mgrawa": "MGRAWA",
    "lgrawa": "LGRAWA",
    "uniform": "uniform",
    "easgd": "EASGD",
    "lsgd": "LSGD",
    "local_sgd": "LocalSGD",
    "diloco:outer.momentum=0.9": "DiLoCo, 0.9",
    "data_parallel": "data parallel",
}
CONDITIONS: tuple[tuple[Kind, Steps], ...] = (
    ("iid", "constant"),
    ("iid", "decaying"),
    ("biased worker", "decaying"),
    ("non-iid", "constant"),
    ("non-iid", "decaying"),
)


def over_seeds(curves: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Mean and standard error at each round."""
    count = math.sqrt(len(curves))
    columns = list(zip(*curves, strict=True))
    errors = [statistics.stdev(c) / count if len(c) > 1 else 0.0 for c in columns]
    return {"mean": [statistics.fmean(c) for c in columns], "standard_error": errors}


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms."""
    logs = [[math.log(value) for value in values] for values in (xs, ys)]
    return statistics.linear_regression(*logs).slope


def tail(curve: Sequence[float]) -> float:
    """The mean over the last quarter of the rounds."""
    return statistics.fmean(curve[-max(1, len(curve) // 4) :])


def summarise(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The curve of a method under a condition, its final value, its slope over the last 3/4.

    Final values and slopes are computed for each seed's curve, then averaged.
    """
    first = len(curves[0]) // 4
    rounds = [float(i + 1) for i in range(first, len(curves[0]))]
    slopes = [[slope(rounds, curve[first:])] for curve in curves]
    ends = over_seeds([[tail(curve)] for curve in curves])
    fitted = over_seeds(slopes)
    return {
        **over_seeds(curves),
        "end": [ends["mean"][0], ends["standard_error"][0]],
        "slope": [fitted["mean"][0], fitted["standard_error"][0]],
    }


def convex_results(samples: Sequence[Sample], sync_every: int, batch_size: int) -> dict[str, Any]:
    """Task -> condition -> method -> summary; includes the exact expectation if it is known.

    Args:
        samples: the curves; some may be missing after an interruption.
        sync_every: local steps between the points of a curve.
        batch_size: samples of a worker's step.

    Returns:
        The summaries of all curves.
    """
    results: dict[str, Any] = {}
    for task, condition in product(TASKS, CONDITIONS):
        those = [s for s in samples if (s["task"], tuple(s["condition"])) == (task, condition)]
        if not those:
            continue
        of = {}
        for method in dict.fromkeys(sample["method"] for sample in those):
            of[method] = summarise([s["curve"] for s in those if s["method"] == method])
        kind, steps = condition
        if task == "quadratic" and kind != "non-iid":
            count, every = those[0]["steps"], slice(sync_every - 1, None, sync_every)
            seeds = dict.fromkeys(sample["seed"] for sample in those)
            curves = [expected(kind, steps, count, batch_size, seed)[every] for seed in seeds]
            of["expected"] = summarise(curves)
        results.setdefault(task, {})[", ".join(condition)] = of
    return results


def nonconvex_results(samples: Sequence[Sample]) -> dict[str, Any]:
    """Method -> the averages for each T, and their slope; only methods that have all of them."""
    steps = sorted({sample["steps"] for sample in samples})
    results = {}
    for method in dict.fromkeys(sample["method"] for sample in samples):
        averages = {
            (sample["steps"], sample["seed"]): statistics.fmean(sample["curve"])
            for sample in samples
            if sample["method"] == method
        }
        seeds = [seed for at, seed in averages if at == steps[-1]]
        by_seed = [[averages[at, seed] for at in steps] for seed in seeds]
        if len(steps) > 1 and by_seed:
            fitted = over_seeds([[slope(steps, ones)] for ones in by_seed])
            results[method] = {
                **over_seeds(by_seed),
                "slope": [fitted["mean"][0], fitted["standard_error"][0]],
            }
    return results


def tables(convex: dict[str, Any], nonconvex: dict[str, Any]) -> None:
    """Prints final values and slopes."""
    titles = {**METHODS, "expected": "expected"}
    for task, conditions in convex.items():
        rows = [
            [title, *(_cell(found.get(method), "end") for found in conditions.values())]
            for method, title in titles.items()
        ]
        heads = [
            name.replace("constant", "const").replace("decaying", "dec") for name in conditions
        ]
        show(f"{task}: squared distance, last quarter of the rounds", ["method", *heads], rows)
    rows = []
    for method, title in titles.items():
        slopes = [
            _cell(found.get("iid, decaying", {}).get(method), "slope") for found in convex.values()
        ]
        mine = nonconvex.get(method)
        ends = [] if mine is None else [f"{m:.2g} ± {e:.1g}" for m, e in (_pairs(mine)[-1],)]
        rows.append([title, *slopes, *(ends or ["-"]), _cell(mine, "slope")])
    heads = [*(f"{task}, dec." for task in convex), "digits, end", "digits, over T"]
    show(
        "Slopes: over rounds, theory -1; of the mean squared gradient norm over T, at most -0.5",
        ["method", *heads],
        rows,
    )


def _pairs(summary: dict[str, Any]) -> list[tuple[float, float]]:
    return list(zip(summary["mean"], summary["standard_error"], strict=True))


def _cell(summary: dict[str, Any] | None, what: str) -> str:
    if summary is None:
        return "-"
    mean, error = summary[what]
    return f"{mean:.2f} ± {error:.2f}" if what == "slope" else f"{mean:.2g} ± {error:.1g}"
