"""Trains over a real slow network: four hosts, made of network namespaces on a bridge.

Each host has one process, and a link to the bridge that a token bucket (`tc tbf`) limits to the
given rate in each direction. Latency can't be set this way: it is the machine's, some tens of
microseconds. All hosts share the machine's cores, also in the runs without communication. Needs
root on Linux, and iproute2. Earlier results at other rates are kept.
"""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command import Benchmark, Results
from grawa.errors import UserError
from grawa.lab.planning.measure import LEAST_SECONDS
from grawa.lab.simulate.network import Link
from namespaces import BITS, check_machine, hosts, run_on, shape
from network_methods import METHODS
from network_tables import WAITING, is_judged, tables
from network_worker import Task, work
from row_pictures import network_picture
from samples import Sample, Samples


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    rates: tuple[str, ...] = ("1gbit", "100mbit", "20mbit")
    """Rates of the links, in tc's notation."""
    methods: tuple[str, ...] = ()
    """The methods; all by default."""
    sync_every: int = 32
    """Local steps between rounds."""
    cycles: int = 2
    """Number of intervals of `sync_every` steps that are timed, after one that is not."""
    repeat: int = 3
    """Runs of methods with a target, of which the median is shown; others have one run."""
    batch: int = 208
    """Samples per step and host."""
    pause: float = 0.0
    """Seconds that a step waits before it computes, to imitate an accelerator: use a small batch
    with it. While it waits, the processors are free for rounds in the background."""
    width: int = 1024
    """Width of each of the model's five layers."""
    planning: float = LEAST_SECONDS
    """Seconds for which the planner repeats each kind of round."""


TOY = Config(rates=("1gbit",), sync_every=8, cycles=1, repeat=1, planning=0.0, batch=2, width=16)


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured on this machine."""
    unknown = set(config.methods) - set(METHODS)
    if unknown:
        raise UserError(f"there is no method {min(unknown)!r}; there are {', '.join(METHODS)}")
    for rate in config.rates:
        Link.parse(rate)
    check_machine()


def measure(config: Config, samples: Samples) -> None:
    """Trains on four hosts, with one rate after another."""
    with hosts() as cluster:
        for rate in config.rates:
            shape(cluster, rate)
            run_on(cluster, work, _task(rate, config), samples)


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The results at each rate, and the predictions."""
    rates: dict[str, Any] = {}
    for kind in dict.fromkeys(sample["rate"] for sample in samples):
        those = [sample for sample in samples if sample["rate"] == kind]
        rates[kind] = {
            "config": asdict(config),
            "found": _in_the_middle([sample for sample in those if "hosts" in sample]),
            "planned": those[0]["planned"],
        }
    return {"rates": rates}


def join(earlier: Results, found: Results) -> Results:
    """The new results, and earlier ones at other rates."""
    rates = {**earlier.get("rates", {}), **found["rates"]}
    return {"rates": dict(sorted(rates.items(), key=_place))}


def draw(_: Config, results: Results, folder: Path) -> None:
    """Draws samples per second."""
    found = {
        kind.replace(WAITING, ", processors free"): measured["found"]
        for kind, measured in results["rates"].items()
    }
    network_picture(found, folder / "network.png")


def _kind(rate: str, pause: float) -> str:
    return f"{rate}{WAITING}" if pause else rate


def _place(measured: tuple[str, Any]) -> tuple[bool, float]:
    """Sort key of rates: faster links first, and runs with a pause last."""
    kind, _ = measured
    rate = kind.removesuffix(WAITING)
    return kind != rate, -Link.parse(rate).bandwidth


def _in_the_middle(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """The median run of each method, with the ratios of all its runs."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        runs.setdefault(sample["method"], []).append(_merge(sample["hosts"]))
    middle = {}
    for method, found in runs.items():
        found.sort(key=lambda run: run.get("share_of_limit", 0.0))
        shares = [run.get("share_of_limit") for run in found]
        middle[method] = {**found[len(found) // 2], "shares_of_limit": shares}
    return middle


def _task(rate: str, config: Config) -> Task:
    """All runs at a rate."""
    wanted = config.methods or tuple(METHODS)
    judged = [method for method in wanted if is_judged(method, rate)]
    return Task(
        runs=(*wanted, *judged * (config.repeat - 1)),
        sync_every=config.sync_every,
        cycles=config.cycles,
        batch=config.batch,
        width=config.width,
        pause=config.pause,
        planning=config.planning,
        rate=_kind(rate, config.pause),
        slow=BITS.get(rate, 1e8) < 5e8,
    )


def _merge(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merges the hosts: samples of all in the time of the slowest, mean bytes of a host."""
    if "failed" in ranks[0]:
        return {"failed": ranks[0]["failed"]}
    seconds = max(rank["seconds"] for rank in ranks)
    step = seconds / ranks[0]["steps"]
    return {
        "share_of_limit": max(rank["plain_step_seconds"] for rank in ranks) / step,
        "samples_per_second": sum(rank["samples"] for rank in ranks) / seconds,
        "bytes_per_step": statistics.mean(rank["wire_bytes"] / rank["steps"] for rank in ranks),
        "round_seconds": max(rank["round_seconds"] for rank in ranks),
        "steps_per_round": ranks[0]["steps"] / max(1, ranks[0]["rounds"]),
        "exposed_seconds": max(rank["exposed_seconds"] for rank in ranks),
        "step_seconds": step,
    }


BENCHMARK = Benchmark(
    name="network",
    text=__doc__,
    takes="about an hour",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=lambda _, results: tables(results["rates"]),
    draw=draw,
    check=check,
    join=join,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
