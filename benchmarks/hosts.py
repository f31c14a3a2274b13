"""Measures rounds of several hosts with several processes each: seconds, and models over the link.

Hosts are network namespaces on a bridge, and a token bucket limits each one's link to the given
rate in each direction. What a host sends is read from its interface. All methods run in each turn,
in random order; the slowest process of a round counts. Needs root on Linux, and iproute2.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from command import Benchmark, Results
from common import Spread, ratios, show, verdict
from grawa.errors import UserError
from grawa.lab.simulate.network import parse_hosts
from hosts_worker import OURS, Task, work
from methods import BASELINE
from namespaces import BITS, check_machine, hosts, run_on, shape
from row_pictures import hosts_picture
from samples import Sample, Samples

MOST_MODELS = 1.05
"""Most that a host may send for a round in float32, in what it must send at least: 2(H-1)/H."""

MOST_TIME = 0.65
"""Most time of a blocking round of 2 x 4 processes, in that of a bare all-reduce."""

MOST_INT8 = 0.3
"""Most that a host may send in int8, in what it sends in float32."""

MOST_OF_LEADER = 1.05
"""Most models that a host may send for a round of LSGD."""

MOST_OFF = 0.15
"""By how much a planned time may differ from the measured one, as a fraction of that."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    arrangements: tuple[str, ...] = ("2x4", "4x2", "2x2", "4x1")
    """Hosts x processes on each."""
    rates: tuple[str, ...] = ("1gbit", "200mbit", "100mbit")
    """Rates of the links, in tc's notation."""
    turns: int = 5
    """Rounds of each method, after one that is not timed."""
    parameters: int = 2_250_000
    """P, float32."""
    tensors: int = 40
    """L, of equal size."""


TOY = Config(arrangements=("2x2",), rates=("1gbit",), turns=1, parameters=250_000, tensors=4)


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured on this machine."""
    for rate in config.rates:
        if rate not in BITS:
            raise UserError(f"--rates must be of {', '.join(BITS)}, got {rate}")
    for arrangement in config.arrangements:
        _sizes(arrangement)
    check_machine()


def _sizes(arrangement: str) -> tuple[int, int]:
    count, each = parse_hosts(arrangement)
    if count < 2:
        raise UserError(f"--arrangements need at least two hosts, such as 2x4, got {arrangement!r}")
    return count, each


def measure(config: Config, samples: Samples) -> None:
    """Measures one arrangement after the other, at one rate after the other."""
    os.environ.setdefault("RUST_LOG", "error")
    for arrangement in config.arrangements:
        count, each = _sizes(arrangement)
        with hosts(count) as cluster:
            for rate in config.rates:
                shape(cluster, rate)
                hiding = 0.4 + 8 * 4 * 4 * config.parameters / BITS[rate]
                task = Task(
                    arrangement=arrangement,
                    rate=rate,
                    turns=config.turns,
                    parameters=config.parameters,
                    tensors=config.tensors,
                    processes=each,
                    hosts=count,
                    hiding=hiding,
                )
                run_on(cluster, work, task, samples, each=each)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Arrangement -> rate -> method -> seconds and models sent of each turn, seconds planned."""
    found: dict[str, dict[str, dict[str, dict[str, list[float]]]]] = {}
    for sample in _of_whole_turns(samples):
        rates = found.setdefault(sample["arrangement"], {})
        methods = rates.setdefault(sample["rate"], {})
        own = methods.setdefault(
            sample["method"], {"seconds": [], "models_sent": [], "planned": []}
        )
        for name, values in own.items():
            if name in sample:
                values.append(sample[name])
    order = [BASELINE, "PyTorch average_parameters", "PyTorch hierarchical", "torchft LocalSGD"]
    for rates in found.values():
        for rate, methods in rates.items():
            known = [name for name in order if name in methods]
            names = [*known, *sorted(set(methods) - set(known), key=_place)]
            rates[rate] = {name: methods[name] for name in names}
    return {"found": found}


def _of_whole_turns(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples without those of a turn that was interrupted, in which methods are missing."""
    turns: dict[tuple[str, str], Counter[int]] = {}
    for sample in samples:
        if "turn" in sample:
            turns.setdefault(_where(sample), Counter())[sample["turn"]] += 1
    most = {where: max(counts.values()) for where, counts in turns.items()}
    whole = [
        sample
        for sample in samples
        if "turn" in sample and turns[_where(sample)][sample["turn"]] == most[_where(sample)]
    ]
    measured = {(*_where(sample), sample["method"]) for sample in whole}
    planned = [sample for sample in samples if "planned" in sample]
    return [*whole, *(s for s in planned if (*_where(s), s["method"]) in measured)]


def _where(sample: Sample) -> tuple[str, str]:
    return sample["arrangement"], sample["rate"]


def _place(name: str) -> tuple[str, int]:
    method, _, variant = name.partition(", ")
    return variant, list(OURS).index(method)


def tables(config: Config, results: Results) -> None:
    """Prints a table for each arrangement and rate, and whether the targets are met."""
    for arrangement, rates in results["found"].items():
        for rate, methods in rates.items():
            _show(config, arrangement, rate, methods)
    for arrangement, rates in results["found"].items():
        for rate, methods in rates.items():
            _judge(arrangement, rate, methods)


def _show(
    config: Config, arrangement: str, rate: str, methods: Mapping[str, Mapping[str, list[float]]]
) -> None:
    baseline = methods.get(BASELINE, {"seconds": []})["seconds"]
    rows = []
    for name, own in methods.items():
        seconds = Spread.of(own["seconds"])
        ratio = ratios(own["seconds"], baseline[: len(own["seconds"])]) if baseline else None
        rows.append([
            name,
            f"{seconds.median * 1e3:.0f}",
            f"{Spread.of(own['planned']).median * 1e3:.0f}" if own["planned"] else "",
            f"{ratio.median:.2f}" if ratio else "",
            f"{ratio.low:.2f} - {ratio.high:.2f}" if ratio else "",
            f"{Spread.of(own['models_sent']).median:.2f}",
        ])
    count, _ = _sizes(arrangement)
    size = f"{config.parameters:,} float32 parameters in {config.tensors} tensors"
    show(
        f"{arrangement} processes, {rate}, {size}",
        ["method", "ms", "planned", "ratio", "quartiles", "models sent"],
        rows,
    )
    print(
        "models sent: by a host, a round, in the parameters' bytes, with headers; at least "
        f"{2 * (count - 1) / count:.2f}.\nPlanned: the ms that `grawa plan` predicts, from what it "
        "measures between these processes.\nOverlap: how long a round blocks training."
    )


def _judge(arrangement: str, rate: str, methods: Mapping[str, Mapping[str, list[float]]]) -> None:
    count, each = _sizes(arrangement)
    least = 2 * (count - 1) / count
    where = f"at {arrangement}, {rate}"
    for name in OURS:
        if name not in methods:
            continue
        sent = Spread.of(methods[name]["models_sent"]).median
        if name == "LSGD":
            print(verdict(f"models of LSGD {where}", sent, MOST_OF_LEADER))
        else:
            print(verdict(f"models of {name} {where}, in the least", sent / least, MOST_MODELS))
        if f"{name}, int8" in methods and name != "LSGD":
            coded = Spread.of(methods[f"{name}, int8"]["models_sent"]).median
            print(verdict(f"models of {name}, int8 {where}, in float32", coded / sent, MOST_INT8))
        if (count, each) == (2, 4) and name != "LSGD" and BASELINE in methods:
            ratio = ratios(methods[name]["seconds"], methods[BASELINE]["seconds"])
            print(verdict(f"time of {name} {where}", ratio.median, MOST_TIME))
    for name, own in methods.items():
        if own["planned"]:
            of_measured = Spread.of(own["planned"]).median / Spread.of(own["seconds"]).median
            print(verdict(f"plan of {name} {where}, off by", abs(of_measured - 1), MOST_OFF))


def draw(_: Config, results: Results, folder: Path) -> None:
    """Draws seconds and models sent."""
    hosts_picture(results["found"], folder / "hosts.png")


BENCHMARK = Benchmark(
    name="hosts",
    text=__doc__,
    takes="half an hour",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=tables,
    draw=draw,
    check=check,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
