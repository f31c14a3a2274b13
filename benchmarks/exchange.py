"""How messages had best leave over a slow network: whole, or in pieces that keep in step.

Run `python benchmarks/exchange.py` as root on Linux with iproute2. Four hosts, as for `network.py`,
take means of a model again and again, each time by another way of sending; shown is how near the
link's own limit they come, headers not counted.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
import tyro

import hosts
from common import Spread, show, write_results
from grawa.comm import DistributedCommunicator, messages
from grawa.lab.files import write_text
from grawa.math.leaves import Leaves, Rows
from grawa.math.weights import uniform
from network_methods import TIMEOUT

WHOLE = "whole messages at once"
WAYS = {WHOLE: (0, 0)} | {
    f"pieces of {size // 2**10} KiB, {ahead} ahead": (size, ahead)
    for size in (2**17, 2**19, 2**21)
    for ahead in (1, 2, 4)
}
"""Bytes of a piece, and how many turns may be under way."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    rate: str = "100mbit"
    """Of the links, as tc writes it."""
    parameters: int = 5_000_000
    """P, float32."""
    turns: int = 5
    """Means by each way, at least 2, after one that is not counted."""
    output: Path = Path("benchmarks/results/exchange.json")
    """Where everything goes."""


def main(config: Config) -> None:
    """Measures, writes and prints."""
    if config.turns < 2:
        sys.exit(f"exchange: --turns must be at least 2, got {config.turns}")
    hosts.check_machine()
    asked = {**asdict(config), "output": str(config.output)}
    with tempfile.TemporaryDirectory() as folder, hosts.hosts() as names:
        hosts.shape(names, config.rate)
        found = Path(folder) / "found.json"
        task = {**asked, "port": next(hosts.PORTS), "output": str(found)}
        failed = hosts.run_on(names, __file__, task)
        if failed is not None:
            sys.exit(failed)
        seconds: dict[str, list[float]] = json.loads(found.read_text(encoding="utf-8"))
    write_results(config.output, {"config": asked, "seconds": seconds})
    sent = 2 * (hosts.HOSTS - 1) / hosts.HOSTS * 4 * config.parameters
    limit = sent / (hosts.BITS[config.rate] / 8)
    rows = []
    for way, samples in seconds.items():
        spread = Spread.of([limit / s for s in samples])
        median = statistics.median(samples)
        rows.append([way, f"{median:.2f}", f"{spread.median:.1%}", f"{spread.low:.1%}"])
    title = f"A mean of {config.parameters:,} numbers, {hosts.HOSTS} hosts, {config.rate}"
    show(title, ["sent as", "s", "of the limit", "lower quartile"], rows)
    print(f"all samples are in {config.output}")


def work(task: dict[str, str], rank: int) -> None:
    """Takes means, together with the other hosts; rank 0 writes down the times."""
    torch.set_num_threads(1)
    hosts.join(int(task["port"]), rank, TIMEOUT)
    comm = DistributedCommunicator(timeout=TIMEOUT)
    rows = Rows({"x": torch.zeros(1, int(task["parameters"]))}.items()).twin()
    rows["x"].fill_(float(rank))
    out = comm.weighted_mean(rows, uniform(hosts.HOSTS))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    order = random.Random(0)
    for turn in range(int(task["turns"]) + 1):
        for way in order.sample(list(WAYS), len(WAYS)):
            taken = _mean(comm, rows, out, way)
            if turn:
                seconds[way].append(taken)
    if rank == 0:
        write_text(Path(task["output"]), json.dumps(seconds))
    dist.barrier()
    dist.destroy_process_group()


def _mean(comm: DistributedCommunicator, rows: Rows, out: Leaves, way: str) -> float:
    size, ahead = WAYS[way]
    dist.barrier()
    start = time.perf_counter()
    with (
        patch.object(comm, "_in_step", way != WHOLE),
        patch.object(messages, "PIECE_BYTES", size),
        patch.object(messages, "AHEAD", ahead),
    ):
        comm.weighted_mean(rows, uniform(hosts.HOSTS), out)
    dist.barrier()
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].startswith("{"):
        work(json.loads(sys.argv[1]), int(sys.argv[2]))
    else:
        main(tyro.cli(Config, description=__doc__))
