"""Measures the duration of a round, as a ratio to a bare all-reduce of the same bytes.

All methods run in each repetition, in random order; the slowest process of a round counts. Only the
averaging is timed, with all that belongs to it: health checks, scores, guard, exchange, pull and
report. At the end, the time of rounds of MGRAWA is broken down by module.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from command import Benchmark, Results
from common import Spread, columns, ratios, show, verdict
from methods import BASELINE, BROKEN_DOWN, METHODS, is_installed
from processes import together
from row_pictures import sync_picture
from samples import Sample, Samples
from sync_worker import Task, work

TARGETS = {
    "grawa MGRAWA": 0.8,
    "grawa LGRAWA": 0.8,
    "MGRAWA, by sockets": 1.25,
    "LGRAWA, by sockets": 1.25,
}
"""Largest ratios to the time of the bare all-reduce that meet the target."""

COPIES = {"LocalSGD": 1, "MGRAWA": 1, "LGRAWA": 1, "EASGD": 2, "LSGD": 2, "DiLoCo": 3}
"""Most copies of the parameters that our methods may need beside the model."""

SLACK_BYTES = 14e6
"""Allowed memory besides, for a model of any size: the mailbox in shared memory (8.4 MB),
connections and their buffers, unused memory of the allocator, code that is first read in a round.
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    rounds: int = 30
    """Number of rounds of each method."""
    processes: int = 4
    """N, all on this machine, over gloo."""
    parameters: int = 10_000_000
    """P, float32."""
    tensors: int = 200
    """L, of equal size."""

    @property
    def model_bytes(self) -> int:
        """Bytes of the parameters."""
        return 4 * self.parameters


TOY = Config(rounds=2, processes=2, parameters=4000, tensors=4)


def measure(config: Config, samples: Samples) -> None:
    """Starts the processes, which measure."""
    os.environ.setdefault("RUST_LOG", "error")  # otherwise torchft logs every quorum
    with tempfile.TemporaryDirectory() as folder:
        task = Task(**asdict(config), meeting=(Path(folder) / "rendezvous").as_uri())
        together(work, config.processes, task, samples)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """The measurements of each method, and of the parts of a round."""
    memory = {s["method"]: [s["rest"], s["peak"]] for s in samples if s["what"] == "memory"}
    turns = [sample for sample in samples if sample["what"] == "turn"]
    measured = ("seconds", "processor_seconds", "bytes_sent")
    found = {what: _in_order(columns([turn[what] for turn in turns])) for what in measured}
    parts = [sample["seconds"] for sample in samples if sample["what"] == "breakdown"]
    names = dict.fromkeys(name for part in parts for name in part)
    breakdown = {name: [part.get(name, 0.0) for part in parts] for name in names}
    return {**found, "extra_memory": memory, "breakdown": breakdown}


def _in_order(found: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {name: found[name] for name in METHODS if name in found}


def tables(config: Config, found: Results) -> None:
    """Prints rounds, their parts, and whether they meet the targets."""
    _show_methods(config, found)
    _show_breakdown(found["breakdown"])
    _judge(config, found)


def draw(config: Config, found: Results, folder: Path) -> None:
    """Draws the ratios."""
    sync_picture(spreads(found["seconds"]), config.processes, folder / "sync.png")


def spreads(seconds: Mapping[str, Sequence[float]]) -> dict[str, Spread]:
    """Quartiles and median of each method's ratio to the bare all-reduce."""
    return {name: ratios(own, seconds[BASELINE]) for name, own in seconds.items()}


def _show_methods(config: Config, found: Results) -> None:
    heads = ["method", "ms", "ratio", "quartiles", "CPU ratio", "MB sent", "memory", "at peak"]
    rows = [
        _row(name, config, found)
        if is_installed(name)
        else [name, "", "", "not installed", "", "", "", ""]
        for name in METHODS
        if name in found["seconds"] or not is_installed(name)
    ]
    size = f"{config.parameters:,} float32 parameters in {config.tensors} tensors"
    show(f"A round of {config.processes} processes, {size}", heads, rows)
    print(
        "ratio: to the bare all_reduce of the same turn, median and quartiles over "
        f"{config.rounds} turns.\nCPU ratio: of all processes' processor time, which other load on "
        "the machine hardly moves.\nMB sent: by a process, a round. Memory: kept beside model, "
        "gradients and optimizer, and the most in a round,\nin multiples of the parameters' bytes."
    )
    if not all(map(is_installed, METHODS)):
        print("pip install -e .[bench] installs what is not.")


def _row(name: str, config: Config, found: Results) -> list[str]:
    seconds = found["seconds"][name]
    spread = ratios(seconds, found["seconds"][BASELINE])
    processor = ratios(found["processor_seconds"][name], found["processor_seconds"][BASELINE])
    # For methods that don't count bytes, the closed form of a ring all-reduce is used.
    ring = 2 * (config.processes - 1) / config.processes * config.model_bytes
    return [
        name,
        f"{Spread.of(seconds).median * 1e3:.1f}",
        f"{spread.median:.2f}",
        f"{spread.low:.2f} - {spread.high:.2f}",
        f"{processor.median:.2f}",
        f"{(Spread.of(found['bytes_sent'][name]).median or ring) / 1e6:.1f}",
        *(f"{extra / config.model_bytes:.2f}" for extra in found["extra_memory"][name]),
    ]


def _show_breakdown(parts: Mapping[str, Sequence[float]]) -> None:
    """Prints the parts that take at least one percent, the longest first."""
    medians = {part: Spread.of(seconds).median for part, seconds in parts.items()}
    whole = sum(medians.values())
    longest = sorted(medians, key=lambda part: -medians[part])
    large = {part: medians[part] for part in longest if medians[part] >= 0.01 * whole}
    shown = {**large, "the rest": whole - sum(large.values())}
    rows = [[p, f"{s * 1e3:.2f}", f"{s / whole:.0%}"] for p, s in shown.items() if whole]
    title = f"A round of {BROKEN_DOWN.removeprefix('grawa ')}, mean of the processes"
    show(title, ["module", "median ms", "share"], rows)
    print("with what a module calls in C++, and with its waiting there for the other processes")


def _judge(config: Config, found: Results) -> None:
    for method, target in TARGETS.items():
        if method in found["seconds"]:
            spread = ratios(found["seconds"][method], found["seconds"][BASELINE])
            print(verdict(f"time of {method}", spread.median, target))
    for method, copies in COPIES.items():
        if f"grawa {method}" in found["extra_memory"]:
            peak = found["extra_memory"][f"grawa {method}"][1] / config.model_bytes
            allowed = copies + SLACK_BYTES / config.model_bytes
            print(verdict(f"memory of {method}, copies and slack", peak, allowed))


BENCHMARK = Benchmark(
    name="sync",
    text=__doc__,
    takes="3 to 5 minutes of two cores",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=draw,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
