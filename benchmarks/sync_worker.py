"""One process of `sync.py`: sets the methods up and times their rounds."""

import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from rich.progress import track

import memory
from breakdown import break_down
from methods import BASELINE, BROKEN_DOWN, METHODS, QUIETLY, Method, is_installed, sgd
from models import ManyTensors
from samples import Samples

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure."""

    rounds: int
    processes: int
    parameters: int
    tensors: int
    meeting: str
    """The `init_method` of the process group."""


def work(rank: int, task: Task, samples: Samples) -> None:
    """Measures, together with the other processes; rank 0 writes the results of all."""
    tell_accelerate(rank, task.processes)
    dist.init_process_group(
        "gloo",
        init_method=task.meeting,
        rank=rank,
        world_size=task.processes,
        timeout=QUIETLY,
    )
    _measure(task, samples)
    dist.barrier()
    dist.destroy_process_group()


def tell_accelerate(rank: int, processes: int) -> None:
    """Sets a launcher's variables, which Accelerate needs besides the existing process group."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ["MASTER_ADDR"] = "localhost"


def _measure(task: Task, samples: Samples) -> None:
    names = [name for name in METHODS if is_installed(name)]
    methods: dict[str, Method] = {}
    for name in _track(names, "setting up"):
        methods[name], extra = _set_up(name, task)
        memory_of = _merged(extra._asdict(), statistics.mean)
        _add(samples, what="memory", method=name, **memory_of)
    order = random.Random(0)
    for turn in _track(range(task.rounds), "measuring "):
        drawn = order.sample(names, len(names))
        _turn(turn, {name: methods[name] for name in drawn}, samples)
    for turn in _track(range(task.rounds), "breakdown "):
        method = methods[BROKEN_DOWN]
        _prepare(method)
        seconds = _merged(break_down(method.run), statistics.mean)
        _add(samples, what="breakdown", turn=turn, seconds=seconds)
    for method in methods.values():
        method.close()


def _turn(turn: int, methods: Mapping[str, Method], samples: Samples) -> None:
    """Runs a round of each method: the slowest process's time, and the total processor time."""
    before = {name: _sent(method) for name, method in methods.items()}
    times = {name: _time(method) for name, method in methods.items()}
    sent = {n: (_sent(method) - before[n]) / method.rounds for n, method in methods.items()}
    _add(
        samples,
        what="turn",
        turn=turn,
        seconds=_merged({name: wall for name, (wall, _) in times.items()}, max),
        processor_seconds=_merged({name: cpu for name, (_, cpu) in times.items()}, sum),
        bytes_sent=_merged(sent, statistics.mean),
    )


def _merged(
    own: Mapping[str, float], merge: Callable[[Iterable[float]], float]
) -> dict[str, float]:
    """Combines dictionaries of numbers from all processes; a missing number counts as zero."""
    everyone: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, dict(own))
    names = dict.fromkeys(name for each in everyone for name in each)
    return {name: merge([each.get(name, 0.0) for each in everyone]) for name in names}


def _add(samples: Samples, **sample: object) -> None:
    if dist.get_rank() == 0:
        samples.add(**sample)


def _track(sequence: Sequence[Item], what: str) -> Iterable[Item]:
    return track(sequence, what, disable=dist.get_rank() > 0)


def _set_up(name: str, task: Task) -> tuple[Method, memory.Extra]:
    tensors = 1 if name == BASELINE else task.tensors
    model = ManyTensors(task.parameters, tensors, seed=dist.get_rank())
    optimizer = sgd(model)
    optimizer.step()  # creates its momentum, which must not be counted
    return memory.measure(lambda: METHODS[name](model, optimizer), _prepare, _run)


def _prepare(method: Method) -> None:
    method.local_step()
    dist.barrier()


def _run(method: Method) -> None:
    method.run()


def _time(method: Method) -> tuple[float, float]:
    """Wall-clock seconds of a round, and processor seconds of this process's threads."""
    _prepare(method)
    processor = time.process_time()
    wall = method.timed()
    return wall, (time.process_time() - processor) / method.rounds


def _sent(method: Method) -> int:
    return method.bytes_sent() if method.bytes_sent else 0
