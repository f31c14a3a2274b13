"""Measures whether resumed runs end with the same bits: breaks them off, and resumes them.

Every method is run as it is by default and with each of the other options: schedules, overlap,
fragments, dtypes of messages and parameters, optimizers, clocks, budgets, faults. Each run is made
once without a break, and once broken off twice and resumed from its folder twice. Compared are the
final models, bit for bit, and the events in the folder, each of which must be there once.
"""

import random
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from command import Benchmark, Results, check_same_options
from common import show
from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.journal import OwnJournal
from grawa.lab.cli.keep import keep
from grawa.lab.cli.process import strategy_for
from grawa.lab.cli.run import check
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.train.checkpoint import Saving
from grawa.lab.train.events import Event
from grawa.lab.train.loop import train
from samples import Sample, Samples

_VIRTUAL = {"clock": "virtual", "jitter": 0.2, "speeds": "1,0.8,0.6,0.37"}

VARIANTS: dict[str, dict[str, Any]] = {
    "by default": {},
    "AdamW": {"optimizer": "adamw", "lr": 0.01},
    "SAM": {"optimizer": "sam", "lr": 0.05},
    "float64": {"dtype": "float64"},
    "warmup": {"schedule": "warmup:9"},
    "quadratic": {"schedule": "quadratic"},
    "fragments": {"fragments": 3},
    "overlap": {"overlap_steps": 2},
    "overlap, fragments": {"overlap_steps": 1, "fragments": 2},
    "mixed": {"overlap_steps": 2, "alpha": 0.5},
    "bf16": {"comm_dtype": "bf16"},
    "int8": {"comm_dtype": "int8"},
    "int8, overlap": {"comm_dtype": "int8", "overlap_steps": 2},
    "virtual clock": {**_VIRTUAL, "link": "100mbit:5ms"},
    "virtual, shared count": {**_VIRTUAL, "schedule": "shared-count"},
    "virtual, budget": {**_VIRTUAL, "budget": "1.3s", "steps": None},
    "virtual, budget, overlap": {**_VIRTUAL, "budget": "1.3s", "steps": None, "overlap_steps": 2},
    "until an error": {"until_error": "30%", "evaluate_every": 2},
    "averaged": {"swa": "50%"},
    "faults": {"fault": ("lr-x10:1", "nan:2@14")},
    "stacked": {"stack_workers": "on"},
    "no guard": {"guard": False},
}
"""What is changed -> options of `grawa train`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    methods: tuple[str, ...] = tuple(names.STRATEGIES)
    """Methods of `grawa train --strategy`."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """What is changed."""
    seeds: int = 2
    """Of the runs, and of the events after which they are broken off."""
    steps: int = 40
    """Local steps of each worker."""


TOY = Config(methods=("lgrawa", "diloco"), variants=("by default", "overlap"), seeds=1, steps=16)


def measure(config: Config, samples: Samples) -> None:
    """Runs all combinations of which there is no sample yet."""
    _, found, _ = samples.read()
    there = {_which(sample) for sample in found}
    for which in product(config.methods, config.variants, range(config.seeds)):
        if which not in there:
            method, variant, seed = which
            samples.add(method=method, variant=variant, seed=seed, **tried(config, *which))


def _which(sample: Sample) -> tuple[str, str, int]:
    return sample["method"], sample["variant"], sample["seed"]


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps all samples of a run with the same options."""
    check_same_options(config, earlier)
    return config, samples


def tried(config: Config, method: str, variant: str, seed: int) -> dict[str, Any]:
    """One combination: refused, or whether it came to the same end."""
    usual = {"steps": config.steps, "sync_every": 4, "batch_size": 8, "checkpoint_every": 1}
    run = TrainConfig(
        task="digits:train_size=200",
        strategy=method,
        workers=4,
        processes=1,
        seed=seed,
        **{**usual, **VARIANTS[variant]},
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            check(run)
            whole = RunFolder.create(Path(folder) / "whole", run)
            _train(run, whole, None)
        except UserError as error:
            return {"refused": str(error)}
        broken = RunFolder.create(Path(folder) / "broken", run)
        chance = random.Random(f"{method} {variant} {seed}")
        stops = sorted(chance.sample(range(1, len(whole.events())), 2))
        for stop in (*stops, None):
            _train(broken.config(), broken, stop)
        return {
            "stops": stops,
            "same_bits": _same(whole.load_model(), broken.load_model()),
            "same_events": _events(whole) == _events(broken),
        }


def _train(config: TrainConfig, folder: RunFolder, events: int | None) -> None:
    """Trains to the end, or until the folder has so many events."""
    saving = Saving(
        folder=folder.checkpoints,
        every=config.checkpoint_interval(),
        identity=identity(config),
        resume="grawa resume",
        events=folder.events_file,
    )
    task = names.task(config.task, config.data)
    stream: Iterator[Event] = train(
        task, partial(strategy_for, config), config.settings(), saving=saving
    )
    if events is not None:
        stream = islice(stream, max(1, events - len(folder.events())))
    with redirect_stdout(StringIO()):
        keep(stream, config, task, folder, OwnJournal(folder), Console())
    for thread in threading.enumerate():
        if thread.name == "grawa checkpoint":
            thread.join()  # a process that is killed leaves no thread that writes on


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def _events(folder: RunFolder) -> Counter[tuple[str, int, int]]:
    """How often each event of a round is there."""
    return Counter(
        (event["kind"], event["round"], event["step"])
        for event in folder.events()
        if event["kind"] != "started"
    )


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """Counts by method and variant."""
    made = [sample for sample in samples if "refused" not in sample]
    return {
        "combinations": len({(sample["method"], sample["variant"]) for sample in made}),
        "runs": len(made),
        "same_bits": sum(sample["same_bits"] for sample in made),
        "same_events": sum(sample["same_events"] for sample in made),
        "different": [
            sample for sample in made if not (sample["same_bits"] and sample["same_events"])
        ],
        "refused": sorted({sample["refused"] for sample in samples if "refused" in sample}),
    }


def display(config: Config, results: Results) -> None:
    """Prints the counts, and what differed."""
    counts = ("combinations", "runs", "same_bits", "same_events")
    show("Broken off twice, and resumed", counts, [[str(results[name]) for name in counts]])
    for sample in results["different"]:
        print(f"different: {sample}")
    for why in results["refused"]:
        print(f"refused: {why}")


BENCHMARK = Benchmark(
    name="broken_off",
    text=__doc__,
    takes="10 minutes",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=display,
    resume=resume,
)

main = BENCHMARK.run

if __name__ == "__main__":
    main()
