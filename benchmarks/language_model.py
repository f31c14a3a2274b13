"""Compares methods on language models of useful sizes, all workers on one device.

Transformers learn the Python sources that are installed on this machine; nothing is downloaded.
Workers read clean text, or each has a quality of its own: text with random symbols, small batches,
a small text again and again, another language. Text, batches, qualities and initial weights depend
on the seed and are the same for all methods, so that differences to the baseline are paired by
seed. Each method's learning rate is chosen from the same rates on other seeds.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import torch

from command import Benchmark, Results, check_same_options
from grawa.errors import UserError
from grawa.lab.cli import methods
from language_model_config import SIZES, TOY, Config
from language_model_data import LARGEST_BPE, SMALLEST_BPE
from language_model_results import choose, names_of, rows_of
from language_model_run import Job, run, text_of
from language_model_tables import tables
from language_model_task import method_options
from language_model_workers import population
from processes import as_they_end
from samples import Sample, Samples

FIRST_TUNED = 1_000
"""The seed of the first run for tuning."""

_GROWS = ("methods", "quality", "sync_every")
_MAY_DIFFER = (*_GROWS, "seeds", "baseline", "device", "bf16", "stack", "jobs", "minutes")
"""Options in which a run that is resumed may differ."""


def check(config: Config) -> None:
    """Raises `UserError` if options are invalid."""
    if config.size not in SIZES:
        raise UserError(f"--size must be one of {', '.join(SIZES)}, got {config.size}")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("there is no GPU that torch can use: leave out --device, or set it to cpu")
    _check_numbers(config)
    for quality in config.quality:
        population(quality, config.workers, 0)
    for method in names_of(config):
        method_options(method, workers=config.workers, steps=1, sync_every=1, seed=0)


def _check_numbers(config: Config) -> None:
    size = config.resolved()
    least = {"workers": 1, "points": 1, "seeds": 0, "tune": 0, "steps": 1, "batch": 1, "jobs": 1}
    for name, value in least.items():
        given = getattr(config, name)
        if given is not None and given < value:
            raise UserError(f"--{name} must be at least {value}, got {given}")
    if size.bpe and not SMALLEST_BPE <= size.bpe <= LARGEST_BPE:
        raise UserError(
            f"--bpe must be 0, or lie between {SMALLEST_BPE} and {LARGEST_BPE}, got {size.bpe}"
        )
    if size.steps % config.points:
        raise UserError(f"--points must divide the {size.steps} steps, got {config.points}")
    if not all(0 < every <= size.steps for every in config.sync_every):
        raise UserError(f"--sync-every must lie between 1 and the {size.steps} steps")
    if not all(0.0 < rate < 1.0 for rate in config.all_rates()):
        raise UserError("--rates must lie between 0 and 1")
    if config.seeds > FIRST_TUNED:
        raise UserError(f"--seeds must be at most {FIRST_TUNED}, got {config.seeds}")


def tuning(config: Config) -> list[Job]:
    """The runs for tuning, seed by seed."""
    seeds = range(FIRST_TUNED, FIRST_TUNED + config.tune)
    every = product(seeds, config.quality, config.sync_every, names_of(config), config.all_rates())
    return [
        Job(what="tune", quality=quality, sync_every=sync, method=method, seed=seed, lr=lr)
        for seed, quality, sync, method, lr in every
    ]


def counting(config: Config, samples: Sequence[Sample]) -> list[Job]:
    """The runs that count, seed by seed, at the rates that the samples of tuning choose."""
    chosen = choose(config, samples)
    every = product(range(config.seeds), config.quality, config.sync_every, names_of(config))
    return [
        Job(what="run", quality=quality, sync_every=sync, method=method, seed=seed, lr=lr)
        for seed, quality, sync, method in every
        for lr in ((chosen[quality, sync][method],) if config.tune else config.all_rates())
    ]


@dataclass
class _Pace:
    """Tells how long runs take, and whether there is time for another one."""

    minutes: float | None
    seconds: list[float]
    """Of each run on this device so far."""
    began: float = field(default_factory=time.perf_counter)

    def in_time(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """The jobs, until there is no time for one more as long as the longest so far."""
        for job in jobs:
            ends = time.perf_counter() - self.began + max(self.seconds, default=0.0)
            if self.minutes is not None and ends > 60.0 * self.minutes:
                return
            yield job

    def tell(self, sample: Sample, left: int, at_a_time: int) -> None:
        """Prints what a run found, and how long the others take."""
        self.seconds.append(sample["seconds"])
        end = "diverged" if sample["final"] is None else f"{sample['final']:.4f} bits per byte"
        minutes = left * fmean(self.seconds) / at_a_time / 60.0
        print(
            f"{sample['what']} {sample['quality']}, every {sample['sync_every']}, seed "
            f"{sample['seed']}, {sample['method']} at {sample['lr']:g}: {end}, "
            f"{sample['seconds']:.1f} s; {left} left, {minutes:.0f} min",
            flush=True,
        )


def measure(config: Config, samples: Samples) -> bool:
    """Makes the runs for tuning and those that count, except those that there are samples of.

    Returns:
        Whether all were made in time.
    """
    device = config.device_name()
    pace = _Pace(config.minutes, [s["seconds"] for s in samples.read()[1] if s["device"] == device])
    _check_comparable(config, samples)
    later = config.seeds * len(list(product(config.quality, config.sync_every, names_of(config))))
    if not _make(config, tuning(config), later, samples, pace):
        return False
    return _make(config, counting(config, samples.read()[1]), 0, samples, pace)


def _check_comparable(config: Config, samples: Samples) -> None:
    """Refuses to add to samples of another text or precision."""
    own = {"text": text_of(config).about["digest"], "bf16": config.in_bf16()}
    for sample in samples.read()[1]:
        other = {"text": sample["text"]["digest"], "bf16": sample["bf16"]}
        for name in own:
            if own[name] != other[name]:
                raise UserError(
                    f"the samples were made with {name} {other[name]}, and here it is {own[name]}: "
                    "leave out --resume, or choose another folder (--out)"
                )


def _make(config: Config, jobs: Sequence[Job], later: int, samples: Samples, pace: _Pace) -> bool:
    there = {Job.of(sample) for sample in samples.read()[1]}
    left = [job for job in jobs if job not in there]
    made, several = 0, config.at_a_time()
    for _, sample in as_they_end(partial(run, config), pace.in_time(left), several):
        samples.add(**sample)
        made += 1
        pace.tell(sample, len(left) - made + later, several)
    if made < len(left):
        print("there is no time for another run; --resume makes the rest")
    return made == len(left)


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The text, all runs for tuning, and a row for each method with its runs."""
    texts = [sample["text"] for sample in samples]
    runs = [{name: value for name, value in s.items() if name != "text"} for s in samples]
    return {
        "text": texts[0] if texts else None,
        "tuning": [run for run in runs if run["what"] == "tune"],
        "rows": [row.plain() for row in rows_of(config, runs)],
    }


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Adds methods, qualities, intervals and seeds to those of an earlier run."""
    check_same_options(config, earlier, but=_MAY_DIFFER)
    both: dict[str, Any] = {
        name: tuple(dict.fromkeys((*getattr(earlier, name), *getattr(config, name))))
        for name in _GROWS
    }
    methods.named(both["methods"])  # raises an error if a name then stands for two
    return replace(config, **both, seeds=max(earlier.seeds, config.seeds)), samples


BENCHMARK = Benchmark(
    name="language_model",
    text=__doc__,
    takes="an hour and a half of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    check=check,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
