"""Measures how long methods take to reach a loss over a slow link: seconds, by the wall's clock.

Four workers on hosts that are made of network namespaces train for real, with torch's own DDP and
PostLocalSGD and with grawa's methods. Each method's learning rate is chosen on other seeds, from
the same rates. The others make more local steps than DDP, as their steps take less time. Needs root
on Linux, and iproute2.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from command import Benchmark, Results, check_same_options
from common import show
from grawa.errors import UserError
from grawa.lab.simulate.network import parse_hosts
from namespaces import BITS, check_machine, hosts, run_on, shape
from pictures import time_to_loss_picture
from samples import Sample, Samples
from time_to_loss_methods import DDP, METHODS
from time_to_loss_worker import PROBLEMS, Job, Length, work

WORKERS = 4

FIRST_TUNED = 100
"""The seed of the first run for tuning."""

TUNED_AT = "1gbit"
"""Rate of the links in runs for tuning, whose time does not count."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    tasks: tuple[str, ...] = tuple(PROBLEMS)
    arrangements: tuple[str, ...] = ("2x2", "4x1")
    """Hosts x processes on each; four processes."""
    rate: str = "100mbit"
    """Rate of the links, in tc's notation."""
    seeds: int = 5
    tuned: tyro.conf.FlagCreatePairsOff[bool] = True
    """Whether learning rates are chosen on other seeds, in the first arrangement; else it is the
    first rate."""
    sync_every: int = 16
    """Local steps between rounds."""
    longer: int = 2
    """Local steps of the other methods, in those of DDP."""
    points: int = 12
    """Measurements of a run, equally distant in steps."""
    shorter: int = 1
    """What all numbers of steps are divided by."""


TOY = Config(
    tasks=("digits-cnn",),
    arrangements=("2x2",),
    rate="1gbit",
    seeds=1,
    tuned=False,
    points=2,
    shorter=100,
    sync_every=2,
)


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured on this machine."""
    if unknown := set(config.tasks) - set(PROBLEMS):
        raise UserError(f"--tasks must be of {', '.join(PROBLEMS)}, got {min(unknown)}")
    if config.rate not in BITS:
        raise UserError(f"--rate must be one of {', '.join(BITS)}, got {config.rate}")
    for arrangement in config.arrangements:
        _sizes(arrangement)
    check_machine()


def _sizes(arrangement: str) -> tuple[int, int]:
    count, each = parse_hosts(arrangement)
    if count * each != WORKERS:
        raise UserError(
            f"--arrangements are hosts x processes of {WORKERS} workers, such as 2x2, got "
            f"{arrangement!r}"
        )
    return count, each


def measure(config: Config, samples: Samples) -> None:
    """Makes the runs for tuning, and then those that count; leaves out those that are there."""
    _make(config, _tuning(config), samples)
    _, found, _ = samples.read()
    chosen = choose(config, found)
    _make(config, _counting(config, chosen), samples)


def _tuning(config: Config) -> list[Job]:
    if not config.tuned:
        return []
    return [
        Job(
            what="tune",
            task=task,
            arrangement=config.arrangements[0],
            rate=TUNED_AT,
            method=method,
            seed=seed,
            learning_rate=rate,
        )
        for task in config.tasks
        for seed in range(FIRST_TUNED, FIRST_TUNED + PROBLEMS[task].tuning_seeds)
        for method in METHODS
        for rate in PROBLEMS[task].learning_rates
    ]


def _counting(config: Config, chosen: Mapping[str, Mapping[str, float]]) -> list[Job]:
    """The runs that count, methods in random order, seed by seed."""
    order = random.Random(0)
    return [
        Job(
            what="run",
            task=task,
            arrangement=arrangement,
            rate=config.rate,
            method=method,
            seed=seed,
            learning_rate=chosen[task][method],
        )
        for seed in range(config.seeds)
        for arrangement in config.arrangements
        for task in config.tasks
        for method in order.sample(list(METHODS), len(METHODS))
    ]


def _make(config: Config, jobs: Sequence[Job], samples: Samples) -> None:
    _, found, _ = samples.read()
    there = {Job.of(sample) for sample in found}
    length = Length(
        shorter=config.shorter,
        longer=config.longer,
        points=config.points,
        sync_every=config.sync_every,
    )
    for arrangement in config.arrangements:
        left = [job for job in jobs if job.arrangement == arrangement and job not in there]
        if not left:
            continue
        count, each = _sizes(arrangement)
        with hosts(count) as cluster:
            shape(cluster, left[0].rate)
            run_on(cluster, work, left, length, each, samples, each=each)


def choose(config: Config, found: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Task -> method -> the learning rate with the smallest error at the end, on tuning seeds.

    A rate at which a run diverged is not chosen. Without tuning it is the first rate.
    """
    ends: dict[tuple[str, str, float], list[float]] = {}
    for sample in found:
        if sample["what"] == "tune":
            key = (sample["task"], sample["method"], sample["learning_rate"])
            last = sample["errors"][-1] if sample["errors"] else None
            ends.setdefault(key, []).append(float("inf") if last is None else last)

    def end(task: str, method: str, rate: float) -> float:
        return statistics.mean(ends.get((task, method, rate), [float("inf")]))

    return {
        task: {
            method: min(PROBLEMS[task].learning_rates, key=lambda rate: end(task, method, rate))
            for method in METHODS
        }
        for task in config.tasks
    }


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps all samples of a run with the same options."""
    check_same_options(config, earlier)
    return config, samples


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """Learning rates, and task -> arrangement -> method -> the runs' curves, by seed."""
    found: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    tuned = [sample for sample in samples if sample["what"] == "tune"]
    chosen = choose(config, tuned)
    for sample in sorted(samples, key=lambda s: (s["seed"], list(METHODS).index(s["method"]))):
        rate = chosen[sample["task"]][sample["method"]]
        if sample["what"] == "run" and sample["learning_rate"] == rate:
            methods = found.setdefault(sample["task"], {}).setdefault(sample["arrangement"], {})
            curve = {name: sample[name] for name in ("seed", "steps", "seconds", "errors")}
            methods.setdefault(sample["method"], []).append(curve)
    for arrangements in found.values():
        for arrangement, methods in arrangements.items():
            arrangements[arrangement] = {name: methods[name] for name in METHODS if name in methods}
    return {"learning_rates": chosen, "tuning": tuned, "found": found}


def reached(curve: Mapping[str, Sequence[Any]], error: float) -> float | None:
    """Seconds until the error is that small, between two measurements on a straight line."""
    before: tuple[float, float] | None = None
    for seconds, own in zip(curve["seconds"], curve["errors"], strict=True):
        if own is None:
            return None
        if own <= error:
            if before is None:
                return float(seconds)
            share = (before[1] - error) / (before[1] - own)
            return float(before[0] + share * (seconds - before[0]))
        before = (seconds, own)
    return None


def tables(config: Config, results: Results) -> None:
    """Prints a table for each task and arrangement."""
    for task, arrangements in results["found"].items():
        for arrangement, methods in arrangements.items():
            _show(config, results, task, arrangement, methods)


def _show(
    config: Config,
    results: Results,
    task: str,
    arrangement: str,
    methods: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    ends = {run["seed"]: run for run in methods.get(DDP, []) if run["errors"]}
    rows = []
    for name, runs in methods.items():
        whole = [run for run in runs if run["errors"] and run["errors"][-1] is not None]
        errors = [run["errors"][-1] for run in whole]
        compared = [run for run in whole if run["seed"] in ends]
        times = [
            (reached(run, ends[run["seed"]]["errors"][-1]), ends[run["seed"]]["seconds"][-1])
            for run in compared
        ]
        known = [time for time, _ in times if time is not None]
        parts = [time / of for time, of in times if time is not None]
        rows.append([
            name,
            f"{results['learning_rates'][task][name]:g}",
            _middle([run["seconds"][-1] for run in whole], "{:.3g}"),
            _middle(errors, "{:.3f}"),
            f"{min(errors):.3f} - {max(errors):.3f}" if errors else "",
            f"{len(known)} of {len(runs)}",
            _middle(known, "{:.3g}"),
            _middle(parts, "{:.2f}"),
        ])
    metric = PROBLEMS[task].task.metric
    show(
        f"{task}, {arrangement} processes, {config.rate}: {metric}",
        ["method", "rate", "s", "at the end", "range", "reached", "after s", "of DDP's"],
        rows,
    )
    print(
        "reached: seeds in which the consensus came to the error that DDP has at the end; after "
        "how many\nseconds, and in parts of DDP's. Medians over seeds."
    )


def _middle(values: Sequence[float], text: str) -> str:
    return text.format(statistics.median(values)) if values else ""


def draw(config: Config, results: Results, folder: Path) -> None:
    """Draws the errors against seconds, a picture for each task."""
    for task, arrangements in results["found"].items():
        picture = folder / f"time_to_loss_{task}.png"
        time_to_loss_picture(arrangements, PROBLEMS[task].task.metric, config.rate, DDP, picture)


BENCHMARK = Benchmark(
    name="time_to_loss",
    text=__doc__,
    takes="several hours",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=draw,
    check=check,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
