"""Measures functions of all workers' rows, as ratios to a weighted mean of the same rows.

Medians, trimmed means and distances, of workers in one process and of processes with one worker
each, by shared memory and by messages. All of them run in each repetition, in random order.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor

from command import Benchmark, Results
from common import Spread, columns, ratios, show
from grawa.comm import DistributedCommunicator, InProcessCommunicator, Participants
from grawa.math.leaves import Leaves, Stack
from grawa.math.order import median, trimmed_mean
from grawa.math.weights import uniform
from grawa.workers.stack import stack_of
from models import ManyTensors
from processes import one_thread, together
from samples import Sample, Samples

BASELINE = "weighted mean"


def by_sorting(rows: Tensor) -> Tensor:
    """The lower median by torch."""
    return rows.median(dim=0).values


Way = Callable[[Participants, Stack, Leaves], object]

WAYS: Mapping[str, Way] = {
    BASELINE: lambda comm, rows, out: comm.weighted_mean(rows, uniform(comm.num_workers), out),
    "median": lambda comm, rows, out: comm.reduce_rows(rows, median, out),
    "trimmed mean": lambda comm, rows, out: comm.reduce_rows(rows, one_trimmed, out),
    "median by torch.median": lambda comm, rows, out: comm.reduce_rows(rows, by_sorting, out),
    "distances": lambda comm, rows, out: comm.pairwise_distances(rows),
}


def one_trimmed(rows: Tensor) -> Tensor:
    """The mean without the smallest and the largest value."""
    return trimmed_mean(rows, 1)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    workers: tuple[int, ...] = (4, 8, 16)
    """Numbers of workers in one process."""
    processes: tuple[int, ...] = (4,)
    """Numbers of processes with one worker each."""
    parameters: int = 2_000_000
    """P, float32."""
    tensors: int = 200
    """L, of equal size."""
    repetitions: int = 15
    """Of each way, after one that is not counted."""


TOY = Config(workers=(2, 5), processes=(2,), parameters=1000, tensors=5, repetitions=2)


def measure(config: Config, samples: Samples) -> None:
    """Measures all arrangements."""
    with one_thread():
        for workers in config.workers:
            comm = Participants(InProcessCommunicator(workers))
            _measure(f"1 process of {workers}", comm, workers, config, samples)
    for processes in config.processes:
        with TemporaryDirectory() as folder:
            together(work, processes, processes, Path(folder) / "store", config, samples)


def work(rank: int, size: int, store: Path, config: Config, samples: Samples) -> None:
    """Measures together with the other processes; rank 0 writes the times."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    for name, shared in (("shared memory", True), ("messages", False)):
        transport = DistributedCommunicator(shared_memory=shared)
        comm = Participants(transport)
        title = f"{size} processes, by {name}"
        _measure(title, comm, 1, config, samples if rank == 0 else None)
        transport.release()
    dist.destroy_process_group()


def _measure(
    title: str, comm: Participants, hosted: int, config: Config, samples: Samples | None
) -> None:
    models = [ManyTensors(config.parameters, config.tensors) for _ in range(hosted)]
    with torch.no_grad():
        for parameter in (p for model in models for p in model.parameters()):
            parameter.normal_()
    names = [name for name, _ in models[0].named_parameters()]
    rows = stack_of([dict(model.named_parameters()) for model in models], names)
    out, order = Leaves.like(rows), random.Random(0)
    for turn in range(config.repetitions + 1):
        drawn = order.sample(list(WAYS), len(WAYS))
        seconds = {name: _timed(partial(WAYS[name], comm, rows, out)) for name in drawn}
        if turn and samples is not None:
            samples.add(arrangement=title, seconds={name: seconds[name] for name in WAYS})


def _timed(call: Callable[[], object]) -> float:
    if dist.is_initialized():
        dist.barrier()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Arrangement -> way -> seconds of each repetition."""
    titles = dict.fromkeys(sample["arrangement"] for sample in samples)
    return {
        "seconds": {
            title: columns([s["seconds"] for s in samples if s["arrangement"] == title])
            for title in titles
        }
    }


def table(config: Config, results: Results) -> None:
    """Prints the ratios to a weighted mean."""
    for title, seconds in results["seconds"].items():
        rows = []
        for way, own in seconds.items():
            ratio, spread = ratios(own, seconds[BASELINE]), Spread.of(own)
            rows.append([
                way,
                f"{1e3 * spread.median:.1f}",
                f"{ratio.median:.2f}",
                f"{ratio.low:.2f}-{ratio.high:.2f}",
            ])
        what = f"{title}: {config.parameters:,} parameters"
        show(what, ["way", "ms", "ratio", "quartiles"], rows)


BENCHMARK = Benchmark(
    name="medians",
    text=__doc__,
    takes="a minute",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
