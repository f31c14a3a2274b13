"""Compares ways to send messages over a slow network: whole, or in synchronised pieces.

Four hosts, made of network namespaces, repeatedly compute the mean of a model, each time with
another way of sending. The result is how close each way comes to the link's own limit, without
headers. Needs root on Linux, and iproute2.
"""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from rich.progress import track
from torch import Tensor

import namespaces
from command import Benchmark, Results
from common import Spread, columns, show
from grawa.comm.messages import Messages
from grawa.errors import UserError
from network_methods import TIMEOUT
from samples import Sample, Samples

WAYS: Mapping[str, dict[str, Any]] = {"whole messages at once": {}} | {
    f"pieces of {size // 2**10} KiB, {ahead} ahead": {
        "in_step": True,
        "piece_bytes": size,
        "ahead": ahead,
    }
    for size in (2**17, 2**19, 2**21)
    for ahead in (1, 2, 4)
}
"""Options of `Messages`."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    rate: str = "100mbit"
    """Rate of the links, in tc's notation."""
    parameters: int = 5_000_000
    """P, float32."""
    turns: int = 5
    """Number of means with each way, after one that is not counted."""


TOY = Config(rate="1gbit", parameters=4000, turns=2)


def check(config: Config) -> None:
    """Raises `UserError` if this can't be measured on this machine."""
    if config.turns < 1:
        raise UserError(f"--turns must be at least 1, got {config.turns}")
    if config.rate not in namespaces.BITS:
        raise UserError(f"--rate must be one of {', '.join(namespaces.BITS)}, got {config.rate}")
    namespaces.check_machine()


def measure(config: Config, samples: Samples) -> None:
    """Computes means on four hosts."""
    with namespaces.hosts() as cluster:
        namespaces.shape(cluster, config.rate)
        namespaces.run_on(cluster, work, config, samples)


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Way of sending -> seconds of each mean."""
    return {"seconds": columns([sample["seconds"] for sample in samples])}


def table(config: Config, results: Results) -> None:
    """Prints how close each way comes to the link's limit."""
    sent = 2 * (namespaces.HOSTS - 1) / namespaces.HOSTS * 4 * config.parameters
    limit = sent / (namespaces.BITS[config.rate] / 8)
    rows = []
    for way, seconds in results["seconds"].items():
        spread = Spread.of([limit / s for s in seconds])
        median = statistics.median(seconds)
        rows.append([way, f"{median:.2f}", f"{spread.median:.1%}", f"{spread.low:.1%}"])
    title = f"A mean of {config.parameters:,} numbers, {namespaces.HOSTS} hosts, {config.rate}"
    show(title, ["sent as", "s", "of the limit", "lower quartile"], rows)


def work(rank: int, config: Config, samples: Samples) -> None:
    """Computes means, together with the other hosts; rank 0 writes the times."""
    namespaces.join(rank, TIMEOUT)
    values, waiting = torch.full((2, config.parameters), float(rank))
    order = random.Random(0)
    for turn in track(range(config.turns + 1), "means", disable=rank > 0):
        drawn = order.sample(list(WAYS), len(WAYS))
        seconds = {way: _mean(values, waiting, rank, way) for way in drawn}
        if turn and rank == 0:
            samples.add(turn=turn, seconds={way: seconds[way] for way in WAYS})
    dist.barrier()
    dist.destroy_process_group()


def _mean(values: Tensor, waiting: Tensor, rank: int, way: str) -> float:
    """Seconds of a mean: all values of a section go to its owner, which sends the mean to all."""
    own, arrived = values.chunk(namespaces.HOSTS)[rank], waiting.chunk(namespaces.HOSTS)
    peers = [(rank + hop) % namespaces.HOSTS for hop in range(1, namespaces.HOSTS)]
    dist.barrier()
    start = time.perf_counter()
    collect, share = _messages(way), _messages(way)
    for peer in peers:
        collect.send(values.chunk(namespaces.HOSTS)[peer], peer)
        collect.receive(arrived[peer][: len(own)], peer)
    collect.run()
    for peer in peers:
        own.add_(arrived[peer][: len(own)])
    own.div_(namespaces.HOSTS)
    for peer in peers:
        share.send(own, peer)
        share.receive(values.chunk(namespaces.HOSTS)[peer], peer)
    share.run()
    dist.barrier()
    return time.perf_counter() - start


def _messages(way: str) -> Messages:
    everyone = dist.group.WORLD
    assert everyone is not None
    return Messages(everyone, "take a mean", **WAYS[way])


BENCHMARK = Benchmark(
    name="exchange",
    text=__doc__,
    takes="3 minutes, at 100 Mbit/s",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
    check=check,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
