"""Trains for 10,000 rounds, and sees whether memory, descriptors, threads and time stay level.

Every tenth part of a job, each process counts its own memory (shared memory in equal parts), open
descriptors, threads and children, and how long a round took since. Jobs differ in their processes
and in what they do beside plain rounds.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import grawa
from command import Benchmark, Results
from common import show
from grawa.errors import UserError
from memory import own_bytes
from processes import begin, fresh_processes
from samples import Sample, Samples

TIMEOUT = timedelta(seconds=60)
PARTS, SAVE_EVERY = 10, 50

JOBS: Mapping[str, dict[str, Any]] = {
    "plain": {"strategy": grawa.LGRAWA()},
    "overlapped, in fragments": {
        "strategy": grawa.DiLoCo(),
        "overlap_steps": 1,
        "sync_every": 4,
        "fragments": 2,
    },
    "int8": {"strategy": grawa.LocalSGD(), "comm_dtype": "int8"},
    "counted together": {"strategy": grawa.MGRAWA(), "schedule": grawa.SharedCount(4)},
    "with checkpoints": {"strategy": grawa.EASGD()},
    "elastic": {"strategy": grawa.LGRAWA()},
}
"""Name -> options of the Averager. A checkpoint is saved in the background every 50 rounds."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    rounds: int = 10_000
    """Rounds of a job."""
    jobs: tuple[str, ...] = tuple(JOBS)
    """Which are run."""


TOY = Config(rounds=40, jobs=("plain", "with checkpoints"))


def train(pipe: Connection, rank: int, processes: int, job: str, rounds: int, place: str) -> None:
    """Trains, and sends what was counted."""
    begin()
    hosted = 4 // processes if job != "elastic" else 1
    options = {"sync_every": 2, "timeout": TIMEOUT, **JOBS[job]}
    strategy = options.pop("strategy")
    if "schedule" in options:
        options.pop("sync_every")
    if job == "elastic":
        options["elastic"] = grawa.Elastic(
            min_workers=processes, lighthouse=place, worker=rank, num_workers=processes
        )
    elif processes > 1:
        dist.init_process_group("gloo", f"file://{place}", TIMEOUT, processes, rank)
    models = [nn.Linear(100, 100) for _ in range(hosted)]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in models]
    inputs = torch.randn(16, 100)

    def told(report: grawa.RoundReport) -> None:
        if job == "with checkpoints" and report.round % SAVE_EVERY == 0:
            averager.save(f"{place}-saved", wait=False)
        if report.round % (rounds // PARTS) == 0:
            pipe.send({"round": report.round, "at": time.monotonic(), **counted()})

    averager = grawa.Averager(models, optimizers, strategy, on_round=[told], **options)
    with averager:
        while averager.round < rounds:
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                model(inputs).square().mean().backward()
                optimizer.step()


def counted() -> dict[str, int]:
    """What this process has."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "bytes": own_bytes(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(children),
    }


def measure(config: Config, samples: Samples) -> None:
    """All jobs, on one process and on two."""
    for job in config.jobs:
        for processes in (1, 2):
            if (job, processes) != ("elastic", 1):
                for sample in _run(job, processes, config.rounds):
                    samples.add(job=job, processes=processes, **sample)
                print(f"{job}, {processes}: done", file=sys.stderr, flush=True)


def _run(job: str, processes: int, rounds: int) -> list[Sample]:
    """What each process has counted."""
    elastic = grawa.Elastic(min_workers=processes)
    context = fresh_processes()
    with TemporaryDirectory() as folder, grawa.lighthouse(elastic) as at:
        place = at if job == "elastic" else f"{folder}/meet"
        running: list[tuple[Connection, ForkServerProcess]] = []
        for rank in range(processes):
            own, its = context.Pipe()
            args = (its, rank, processes, job, rounds, place)
            process = context.Process(target=train, args=args, daemon=True)
            process.start()
            its.close()
            running.append((own, process))
        found = []
        for rank, (pipe, process) in enumerate(running):
            lines = []
            try:
                while True:
                    lines.append(pipe.recv())
            except EOFError:
                process.join()
            if len(lines) != PARTS:
                raise RuntimeError(f"{job}: process {rank} has not come to its end")
            found += [{"rank": rank, **line} for line in lines]
        return found


def check(config: Config) -> None:
    """Refuses other jobs."""
    if unknown := set(config.jobs) - set(JOBS):
        raise UserError(f"there is no job {min(unknown)!r}; there are {', '.join(JOBS)}")
    if config.rounds < 2 * PARTS or config.rounds % PARTS:
        raise UserError(f"rounds must be a multiple of {PARTS}, at least {2 * PARTS}")


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """Of each job, what its first process has counted after the first part, and at the end."""
    found = []
    for sample in samples:
        own = [s for s in samples if all(s[k] == sample[k] for k in ("job", "processes", "rank"))]
        if sample is own[0]:
            ends = {
                "first": own[0],
                "last": own[-1],
                "first_ms": 1e3 * _seconds(own[:2]),
                "last_ms": 1e3 * _seconds(own[-2:]),
            }
            found.append({k: sample[k] for k in ("job", "processes", "rank")} | ends)
    return {"rounds": config.rounds, "found": found}


def _seconds(pair: Sequence[Sample]) -> float:
    """Of a round between two counts."""
    first, last = pair
    seconds: float = (last["at"] - first["at"]) / (last["round"] - first["round"])
    return seconds


def display(config: Config, results: Results) -> None:
    """Prints a row for each process."""
    rows = []
    for each in results["found"]:
        first, last = each["first"], each["last"]
        rows.append([
            f"{each['job']}, process {each['rank']} of {each['processes']}",
            *(f"{end['bytes'] / 1e6:.1f}" for end in (first, last)),
            *(f"{first[name]} to {last[name]}" for name in ("descriptors", "threads", "children")),
            *(f"{each[name]:.2f}" for name in ("first_ms", "last_ms")),
        ])
    tenth = f"{config.rounds // PARTS:,}"
    names = ["", f"MB at {tenth}", "at the end", "descriptors", "threads", "children"]
    show(f"{config.rounds:,} rounds", [*names, "ms, first", "ms, last"], rows)


BENCHMARK = Benchmark(
    name="long_run",
    text=__doc__,
    takes="ten minutes",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=display,
    check=check,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
