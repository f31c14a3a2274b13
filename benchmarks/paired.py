"""Whether what saves time costs accuracy: each way of making rounds against the plain one.

Run `python benchmarks/paired.py`; `--help` tells the options. Four workers, all in one process,
learn `digits` by LGRAWA with the defaults of `grawa train`. Each variant is run with the same seeds
as the plain one, so the same data, order and initial weights, and differences are taken seed by
seed.
"""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.progress import track

from common import show, write_results
from grawa.lab.cli import names
from grawa.lab.cli.run import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.loop import Finished, train

PLAIN = "blocking, every 32, float32"

VARIANTS: Mapping[str, dict[str, Any]] = {
    PLAIN: {},
    "overlap 16": {"overlap_steps": 16},
    "overlap 28": {"overlap_steps": 28},
    "4 fragments": {"fragments": 4},
    "4 fragments, overlap 7": {"fragments": 4, "overlap_steps": 7},
    "bf16": {"comm_dtype": "bf16"},
    "int8": {"comm_dtype": "int8"},
    "int8, overlap 28": {"comm_dtype": "int8", "overlap_steps": 28},
    "shared-count": {"schedule": "shared-count"},
    "hook_every 4": {"hook_every": 4},
}
"""Options of `grawa train`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run."""

    seeds: int = 8
    """How many, from 0."""
    strategy: str = "lgrawa"
    """The method."""
    train_size: int = 1200
    """Training images; the rest of 1,797 is the test."""
    jobs: int = os.cpu_count() or 1
    """Runs at a time."""
    output: Path = Path("benchmarks/results/paired.json")
    """Where all errors go."""


def error_of(config: Config, run: tuple[str, int]) -> float:
    """Test error of the consensus, in percent."""
    torch.set_num_threads(1)  # runs share the cores
    variant, seed = run
    asked = TrainConfig(
        task=f"digits:train_size={config.train_size}",
        strategy=config.strategy,
        processes=1,
        seed=seed,
        device="cpu",
        **VARIANTS[variant],
    )
    *_, last = train(names.task(asked.task), partial(strategy_for, asked), asked.settings())
    assert isinstance(last, Finished), "the last event tells the end"
    return 100.0 * last.error


def main(config: Config) -> None:
    """Runs, writes and prints."""
    runs = list(product(VARIANTS, range(config.seeds)))
    with ProcessPoolExecutor(config.jobs, mp_context=get_context("spawn")) as pool:
        found = pool.map(partial(error_of, config), runs)
        values = list(track(found, "training", total=len(runs)))
    errors = {
        name: values[i * config.seeds : (i + 1) * config.seeds] for i, name in enumerate(VARIANTS)
    }
    asked = {**asdict(config), "output": str(config.output)}
    write_results(config.output, {"config": asked, "errors": errors})
    rows = [_row(name, own, errors[PLAIN]) for name, own in errors.items()]
    show(
        f"Test error of {config.strategy} on digits, %, {config.seeds} seeds",
        ["rounds", "error", "difference, paired", "standard errors"],
        rows,
    )
    print(f"all errors are in {config.output}")


def _row(name: str, own: Sequence[float], plain: Sequence[float]) -> list[str]:
    differences = [a - b for a, b in zip(own, plain, strict=True)]
    mean, error = statistics.mean(differences), _standard_error(differences)
    return [
        name,
        f"{statistics.mean(own):.2f} ± {_standard_error(own):.2f}",
        "" if name == PLAIN else f"{mean:+.2f} ± {error:.2f}",
        "" if name == PLAIN or not error else f"{mean / error:+.1f}",
    ]


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
