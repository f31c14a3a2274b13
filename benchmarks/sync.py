"""The speed of a round, as a ratio to a bare all-reduce of the same bytes.

Run `python benchmarks/sync.py`; `--help` tells the options. All methods take turns in one run, in
an order drawn anew for each turn, and a round takes as long as its slowest process. What is timed
is the averaging alone, with everything that belongs to it: health checks, scores, guard,
exchange, pull and report.
"""

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from torch.multiprocessing.spawn import spawn

from common import Spread, ratios, show, verdict, write_results
from methods import BASELINE, METHODS, is_installed
from pictures import sync_picture
from sync_worker import Task, work

TARGET = 1.25
"""Of MGRAWA and LGRAWA."""

COPIES = {"LocalSGD": 1, "MGRAWA": 1, "LGRAWA": 1, "EASGD": 2, "LSGD": 2, "DiLoCo": 3}
"""Copies of the parameters that a method of ours may need beside the model, at most."""

SLACK_BYTES = 4e6
"""For what is no copy of parameters: connections, their buffers, the allocator's leftovers."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    rounds: int = 30
    """Rounds of each method."""
    processes: int = 4
    """N, all on this machine, over gloo."""
    parameters: int = 10_000_000
    """P, float32."""
    tensors: int = 200
    """L, of equal size."""
    output: Path = Path("benchmarks/results/sync.json")
    """Where all samples go."""

    @property
    def model_bytes(self) -> int:
        """Of the parameters."""
        return 4 * self.parameters


def main(config: Config) -> None:
    """Measures, writes and prints."""
    os.environ["OMP_NUM_THREADS"] = "1"  # the processes share the cores
    os.environ.setdefault("RUST_LOG", "error")  # torchft tells of every quorum otherwise
    asked = {name: value for name, value in asdict(config).items() if name != "output"}
    with tempfile.TemporaryDirectory() as folder:
        task = Task(**asked, folder=Path(folder))
        spawn(work, (task,), nprocs=config.processes, daemon=True)
        found = _merge(json.loads(task.results.read_text(encoding="utf-8")))
    write_results(config.output, {"config": asked, **found})
    _show_methods(config, found)
    _show_breakdown(found["breakdown"])
    _judge(config, found)
    picture = config.output.with_suffix(".png")
    sync_picture(spreads(found["seconds"]), picture)
    print(f"all samples are in {config.output}, the picture is {picture}")


def _merge(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """What all found: the slowest one's time, all processor time, the mean of the rest."""
    return {
        "seconds": _over_ranks(ranks, "seconds", max),
        "processor_seconds": _over_ranks(ranks, "processor_seconds", sum),
        "bytes_sent": _over_ranks(ranks, "bytes_sent", statistics.mean),
        "extra_memory": _over_ranks(ranks, "extra_memory", statistics.mean),
        "breakdown": _over_ranks(ranks, "breakdown", statistics.mean),
    }


def _over_ranks(
    ranks: list[dict[str, Any]], what: str, merge: Callable[[Iterable[float]], float]
) -> dict[str, list[float]]:
    return {
        name: [merge(turn) for turn in zip(*(rank[what][name] for rank in ranks), strict=True)]
        for name in ranks[0][what]
    }


def spreads(seconds: dict[str, list[float]]) -> dict[str, Spread]:
    """Quartiles and median of each method's ratio to the bare all-reduce."""
    return {name: ratios(own, seconds[BASELINE]) for name, own in seconds.items()}


def _show_methods(config: Config, found: dict[str, Any]) -> None:
    columns = ["method", "ms", "ratio", "quartiles", "CPU ratio", "MB sent", "memory", "at peak"]
    rows = [
        _row(name, config, found)
        if is_installed(name)
        else [name, "", "", "not installed", "", "", "", ""]
        for name in METHODS
    ]
    size = f"{config.parameters:,} float32 parameters in {config.tensors} tensors"
    show(f"A round of {config.processes} processes, {size}", columns, rows)
    print(
        "ratio: to the bare all_reduce of the same turn, median and quartiles over "
        f"{config.rounds} turns.\nCPU ratio: of all processes' processor time, which other load on "
        "the machine hardly moves.\nMB sent: by a process, a round. Memory: kept beside model, "
        "gradients and optimizer, and the most in a round,\nin multiples of the parameters' bytes."
    )
    if not all(map(is_installed, METHODS)):
        print("pip install -e .[bench] installs what is not.")


def _row(name: str, config: Config, found: dict[str, Any]) -> list[str]:
    seconds = found["seconds"][name]
    spread = ratios(seconds, found["seconds"][BASELINE])
    processor = ratios(found["processor_seconds"][name], found["processor_seconds"][BASELINE])
    # The closed form of a ring all-reduce stands in where a method doesn't count.
    ring = 2 * (config.processes - 1) / config.processes * config.model_bytes
    return [
        name,
        f"{Spread.of(seconds).median * 1e3:.1f}",
        f"{spread.median:.2f}",
        f"{spread.low:.2f} - {spread.high:.2f}",
        f"{processor.median:.2f}",
        f"{(found['bytes_sent'][name][0] or ring) / 1e6:.1f}",
        *(f"{extra / config.model_bytes:.2f}" for extra in found["extra_memory"][name]),
    ]


def _show_breakdown(parts: dict[str, list[float]]) -> None:
    medians = {part: Spread.of(seconds).median for part, seconds in parts.items()}
    whole = sum(medians.values())
    rows = [[p, f"{s * 1e3:.2f}", f"{s / whole:.0%}"] for p, s in medians.items()]
    show("A round of MGRAWA, mean of the processes", ["part", "median ms", "share"], rows)


def _judge(config: Config, found: dict[str, Any]) -> None:
    for method in ("MGRAWA", "LGRAWA"):
        spread = ratios(found["seconds"][f"grawa {method}"], found["seconds"][BASELINE])
        print(verdict(f"time of {method}", spread.median, TARGET))
    for method, copies in COPIES.items():
        peak = found["extra_memory"][f"grawa {method}"][1] / config.model_bytes
        allowed = copies + SLACK_BYTES / config.model_bytes
        print(verdict(f"memory of {method}, copies and slack", peak, allowed))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
