"""Measures local steps one by one and stacked, and what `--stack-workers auto` chooses.

For each task and number of workers, all in one process, two runs of LGRAWA make local steps in
turn, one by one and stacked, without rounds; a ratio is that of two times next to each other. Then
`auto` chooses, several times, as at the start of a long run. On the CPU it is one thread's
processor time, which hardly depends on other load.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from rich.progress import track

from command import Benchmark, Results
from common import Spread, ratios, show
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.run import Run
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.stacking import Stacking, choose_stacking
from grawa.lab.train.timed_steps import clock_for
from grawa.math.host import wait_for
from grawa.process_group import pick_device
from processes import one_thread
from samples import Sample, Samples

NEVER = 10**9
"""Local steps between rounds, and of the run."""

MOST_SECONDS, FEWEST_PAIRS = 20.0, 3
"""After that time a task is not timed further, once there are so many pairs."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    tasks: tuple[str, ...] = (
        *("digits", "digits:model=cnn", "glyphs", "glyphs:model=cnn", "quadratic", "logistic"),
        *("wells", "text:model=transformer_small"),
    )
    """Tasks as for `grawa train`."""
    workers: tuple[int, ...] = (4, 8, 16)
    """Numbers of workers."""
    pairs: int = 15
    """Timings of each kind."""
    seconds: float = 0.1
    """Least duration of each."""
    choices: int = 5
    """How often `auto` chooses."""
    device: str = "cpu"
    """cpu or cuda."""


TOY = Config(tasks=("quadratic",), workers=(2,), pairs=2, seconds=1e-3, choices=1)


def measure(config: Config, samples: Samples) -> None:
    """Times all tasks with all numbers of workers."""
    with one_thread():
        for task, workers in track(list(product(config.tasks, config.workers)), "timing"):
            samples.add(task=task, workers=workers, **_found(config, task, workers))


def _found(config: Config, task: str, workers: int) -> dict[str, Any]:
    chosen = partial(TrainConfig, task=task, workers=workers, steps=NEVER, sync_every=NEVER)
    one_by_one, stacked = _times(config, [chosen(stack_workers=w) for w in ("off", "on")])
    choices = [_choice(config, chosen()) for _ in range(config.choices)]
    return {
        "one_by_one": [seconds / workers for seconds in one_by_one],
        "stacked": [seconds / workers for seconds in stacked],
        "choices": [choice.stacked for choice in choices],
        "reasons": [choice.reason for choice in choices],
    }


def _times(config: Config, kinds: Sequence[TrainConfig]) -> tuple[list[float], ...]:
    """For each kind of run the seconds of a local step of all workers, measured in turn."""
    device = pick_device(config.device)
    runs = []
    for kind in kinds:
        task = names.task(kind.task)
        runs.append(Run(task, partial(strategy_for, kind), kind.settings(), device, None))
        runs[-1].engine.local_steps_begin()
        _seconds(runs[-1], 2, device)  # the first steps also allocate memory
    counts = [max(1, round(config.seconds / _seconds(run, 1, device))) for run in runs]
    times: tuple[list[float], ...] = tuple([] for _ in runs)
    end = time.perf_counter() + MOST_SECONDS
    for pair in range(config.pairs):
        if pair >= FEWEST_PAIRS and time.perf_counter() > end:
            break
        for run, count, found in zip(runs, counts, times, strict=True):
            found.append(_seconds(run, count, device) / count)
    return times


def _seconds(run: Run, steps: int, device: torch.device) -> float:
    """The duration of some local steps, up to the time when a GPU has made them."""
    clock = clock_for(device)
    began = clock()
    for _ in range(steps):
        run.step()
    wait_for(device)
    return clock() - began


def _choice(config: Config, chosen: TrainConfig) -> Stacking:
    task, settings = names.task(chosen.task), chosen.settings()
    data = load(task, settings, pick_device(config.device))
    shards = list(enumerate(deal(task, data, settings)))
    return choose_stacking(task, data, settings, shards, settings.steps)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """The samples as they are."""
    return {"found": list(samples)}


def table(_: Config, results: Results) -> None:
    """Prints times, ratios and choices."""
    rows = [_row(found) for found in results["found"]]
    columns = ["task", "workers", "one by one, us", "stacked, us", "faster by", "auto stacks"]
    show("A worker's local step", columns, rows)


def _row(found: Sample) -> list[str]:
    one_by_one, stacked = found["one_by_one"], found["stacked"]
    faster = ratios(one_by_one, stacked)
    return [
        found["task"],
        str(found["workers"]),
        *(f"{1e6 * Spread.of(times).median:.0f}" for times in (one_by_one, stacked)),
        f"{faster.median:.2f} ({faster.low:.2f} to {faster.high:.2f})",
        f"{sum(found['choices'])} of {len(found['choices'])}",
    ]


BENCHMARK = Benchmark(
    name="stacking",
    text=__doc__,
    takes="6 minutes of a core",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
