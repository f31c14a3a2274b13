"""Training over a real slow network: four hosts, made of network namespaces on a bridge.

Each host has one process and a link of the given rate to the bridge, in each direction, by a token
bucket (`tc tbf`). Latency can't be shaped so: it is that of the machine, some tens of microseconds.
All hosts share the machine's cores, as they do without communication. Needs root on Linux, and
iproute2. What was measured earlier at other rates is kept.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command import Benchmark, Results
from common import show, verdict
from grawa.errors import UserError
from grawa.lab.planning.measure import LEAST_SECONDS
from grawa.lab.simulate.network import Link
from hosts import BITS, check_machine, hosts, run_on, shape
from network_methods import ALL_REDUCE, DDP, METHODS, NO_COMMUNICATION
from network_worker import Task, work
from pictures import network_picture
from samples import Sample, Samples

TARGETS = (
    ("100mbit", "LGRAWA, overlap", NO_COMMUNICATION, 0.95),
    ("100mbit", "LGRAWA, overlap", DDP, 20.0),
    ("20mbit", "LGRAWA, int8, overlap", NO_COMMUNICATION, 0.90),
)
"""At this rate, this method, against that one, at least so many times the samples per second."""

WAITING = ", steps that wait"

ROUNDS = (("1gbit", "LGRAWA"), ("1gbit", ALL_REDUCE), ("100mbit", "LGRAWA"))
"""At this rate, the time of a round of this method is judged."""

ROUND_TARGET = 0.95
"""Of the link's own limit, at 100 Mbit/s, for a blocking float32 round of LGRAWA: the time in
which the link can carry what the round sends, headers and all."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    rates: tuple[str, ...] = ("1gbit", "100mbit", "20mbit")
    """Of the links, as tc writes them."""
    methods: tuple[str, ...] = ()
    """Which; all by default."""
    sync_every: int = 32
    """Local steps between rounds."""
    cycles: int = 2
    """Of so many steps each, that are timed after one that is not."""
    repeat: int = 3
    """Runs of a method that a target is about, else one; the one in the middle is shown."""
    batch: int = 208
    """Samples per step and host."""
    pause: float = 0.0
    """Seconds that a step waits before it computes, as it does where an accelerator computes: take
    a small batch with it. The processors are then free for rounds in the background."""
    width: int = 1024
    """Of each of the model's five layers."""
    planning: float = LEAST_SECONDS
    """Seconds for which the planner repeats each kind of round."""


TOY = Config(rates=("1gbit",), sync_every=8, cycles=1, repeat=1, planning=0.0, batch=2, width=16)


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured here."""
    unknown = set(config.methods) - set(METHODS)
    if unknown:
        raise UserError(f"there is no method {min(unknown)!r}; there are {', '.join(METHODS)}")
    for rate in config.rates:
        Link.parse(rate)
    check_machine()


def measure(config: Config, samples: Samples) -> None:
    """Trains on four hosts, rate by rate."""
    with hosts() as names:
        for rate in config.rates:
            shape(names, rate)
            run_on(names, work, _task(rate, config), samples)


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """What was found at each rate, and planned."""
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
    """What was found now, and at other rates before."""
    rates = {**earlier.get("rates", {}), **found["rates"]}
    return {"rates": dict(sorted(rates.items(), key=_place))}


def tables(_: Config, results: Results) -> None:
    """Prints what was found at each rate, and whether it meets the targets."""
    rates = results["rates"]
    for rate, measured in rates.items():
        _show(rate, measured["found"], measured["planned"])
    found = {rate: measured["found"] for rate, measured in rates.items()}
    _judge(found, {rate: measured["planned"] for rate, measured in rates.items()})


def draw(_: Config, results: Results, folder: Path) -> None:
    """Draws samples per second."""
    found = {rate: measured["found"] for rate, measured in results["rates"].items()}
    network_picture(found, folder / "network.png")


def _kind(rate: str, pause: float) -> str:
    return f"{rate}{WAITING}" if pause else rate


def _place(measured: tuple[str, Any]) -> tuple[bool, float]:
    """Where a rate is shown: steps that wait last, and before them faster links first."""
    kind, _ = measured
    rate = kind.removesuffix(WAITING)
    return kind != rate, -Link.parse(rate).bandwidth


def _in_the_middle(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Of each method's runs the one in the middle, with the shares of all."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        runs.setdefault(sample["method"], []).append(_merge(sample["hosts"]))
    middle = {}
    for method, found in runs.items():
        found.sort(key=lambda run: run.get("share_of_limit", 0.0))
        shares = [run.get("share_of_limit") for run in found]
        middle[method] = {**found[len(found) // 2], "shares_of_limit": shares}
    return middle


def _is_judged(method: str, rate: str) -> bool:
    pairs = any(rate == at and method in (this, that) for at, this, that, _ in TARGETS)
    return pairs or (rate, method) in ROUNDS


def _task(rate: str, config: Config) -> Task:
    """All runs at a rate."""
    wanted = config.methods or tuple(METHODS)
    judged = [method for method in wanted if _is_judged(method, rate)]
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
    """Samples of all hosts in the time of the slowest; bytes of a host, on average."""
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


def _show(rate: str, methods: Mapping[str, Mapping[str, Any]], plan: Any) -> None:
    foreseen = plan["shares"]
    rows = []
    for method, found in methods.items():
        if "failed" in found:
            what = "not installed" if found["failed"] == "not installed" else "refused"
            rows.append([method, what, "", "", "", "", ""])
            continue
        rows.append([
            method,
            f"{found['samples_per_second']:.0f}",
            f"{found['share_of_limit']:.1%}",
            f"{foreseen[method]:.1%}" if method in foreseen else "",
            f"{found['bytes_per_step'] / 1e6:.2f}",
            f"{found['round_seconds']:.2f}" if found["round_seconds"] else "",
            f"{found['exposed_seconds']:.2f}" if found["round_seconds"] else "",
        ])
    columns = [
        "method",
        "samples/s",
        "of the limit",
        "planned",
        "MB a step",
        "round s",
        "blocked s",
    ]
    show(f"Four hosts, links of {rate}", columns, rows)
    print(
        "of the limit: the time of a step without communication, measured before and after in the "
        "same processes,\nover that of a step with it, rounds included;\n"
        "planned: what the planner foresees of it."
    )
    rate_found, latency = plan["bandwidth"] * 8e-6, plan["latency"] * 1e3
    print(f"the planner found {rate_found:.1f} Mbit/s and {latency:.2f} ms")
    for method, found in methods.items():
        if "failed" in found:
            print(f"{method}: {found['failed']}")


def _judge(found: Mapping[str, Mapping[str, Mapping[str, Any]]], plans: Mapping[str, Any]) -> None:
    for at, method, against, least in TARGETS:
        for rate in (at, f"{at}{WAITING}"):
            pair = [found.get(rate, {}).get(name, {}) for name in (method, against)]
            if all("share_of_limit" in one for one in pair):
                ratio = pair[0]["share_of_limit"] / pair[1]["share_of_limit"]
                met = "meets" if ratio >= least else "MISSES"
                what = f"{rate}: {method} / {against}: {ratio:.3f}"
                print(f"{what} {met} the target of at least {least}")
    for rate, plan in plans.items():
        pairs = [
            (share, found[rate][method]["share_of_limit"], method)
            for method, share in plan["shares"].items()
            if "share_of_limit" in found[rate].get(method, {})
        ]
        if pairs:
            off, method = max((abs(planned / real - 1), method) for planned, real, method in pairs)
            print(verdict(f"{rate}: worst prediction of the planner, {method}, off by", off, 0.15))
    fast = found.get("1gbit", {})
    if all(fast.get(name, {}).get("round_seconds") for name in ("LGRAWA", ALL_REDUCE)):
        ratio = fast["LGRAWA"]["round_seconds"] / fast[ALL_REDUCE]["round_seconds"]
        print(verdict("1gbit: a blocking round of LGRAWA over a bare all-reduce", ratio, 1.05))
    blocking = found.get("100mbit", {}).get("LGRAWA", {})
    if "round_seconds" in blocking:
        limit = blocking["bytes_per_step"] * blocking["steps_per_round"] / (BITS["100mbit"] / 8)
        share = limit / blocking["round_seconds"]
        met = "meets" if share >= ROUND_TARGET else "MISSES"
        print(
            f"100mbit: a blocking round of LGRAWA goes at {share:.3f} of the link's limit, headers "
            f"counted ({met} the target of at least {ROUND_TARGET})"
        )


BENCHMARK = Benchmark(
    name="network",
    text=__doc__,
    takes="an hour",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=draw,
    check=check,
    join=join,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
