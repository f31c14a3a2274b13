"""One process of `sync.py`: sets the methods up and times their rounds."""

import ctypes
import json
import os
import random
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from rich.progress import track

import memory
from breakdown import break_down
from methods import BASELINE, BROKEN_DOWN, METHODS, QUIETLY, Method, is_installed, sgd
from models import ManyTensors

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure, and where to leave the results."""

    rounds: int
    processes: int
    parameters: int
    tensors: int
    folder: Path
    """Where the processes find each other, and leave their results."""

    @property
    def results(self) -> Path:
        """The file of what all processes found."""
        return self.folder / "results.json"


def work(rank: int, task: Task) -> None:
    """Measures, together with the other processes; rank 0 writes down what all found."""
    _die_with_parent()
    torch.set_num_threads(1)
    _tell_accelerate(rank, task.processes)
    dist.init_process_group(
        "gloo",
        init_method=(task.folder / "rendezvous").as_uri(),
        rank=rank,
        world_size=task.processes,
        timeout=QUIETLY,
    )
    found: list[dict[str, Any]] = [{}] * task.processes
    dist.all_gather_object(found, _measure(task))
    if rank == 0:
        task.results.write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _die_with_parent() -> None:
    """Has Linux end this process when its parent ends, however that comes about."""
    set_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def _tell_accelerate(rank: int, processes: int) -> None:
    """Accelerate uses the process group that is there, but wants a launcher's variables too."""
    launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in launched.items()})
    os.environ["MASTER_ADDR"] = "localhost"


def _measure(task: Task) -> dict[str, Any]:
    names = [name for name in METHODS if is_installed(name)]
    methods: dict[str, Method] = {}
    extra: dict[str, memory.Extra] = {}
    for name in _track(names, "setting up"):
        methods[name], extra[name] = _set_up(name, task)
    before = {name: _sent(method) for name, method in methods.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in _track(range(task.rounds), "measuring "):
        for name in order.sample(names, len(names)):
            times[name].append(_time(methods[name]))
    sent = {name: [(_sent(m) - before[name]) / task.rounds] for name, m in methods.items()}
    broken = [_break_down(methods[BROKEN_DOWN]) for _ in _track(range(task.rounds), "breakdown ")]
    parts = {part: [turn[part] for turn in broken] for part in broken[0]}
    for method in methods.values():
        method.close()
    return {
        "seconds": {name: [wall for wall, _ in turns] for name, turns in times.items()},
        "processor_seconds": {name: [cpu for _, cpu in turns] for name, turns in times.items()},
        "bytes_sent": sent,
        "extra_memory": extra,
        "breakdown": parts,
    }


def _track(sequence: Sequence[Item], what: str) -> Iterable[Item]:
    return track(sequence, what, disable=dist.get_rank() > 0)


def _set_up(name: str, task: Task) -> tuple[Method, memory.Extra]:
    tensors = 1 if name == BASELINE else task.tensors
    model = ManyTensors(task.parameters, tensors, seed=dist.get_rank())
    optimizer = sgd(model)
    optimizer.step()  # makes its momentum, which is not to be counted
    return memory.measure(lambda: METHODS[name](model, optimizer), _prepare, _run)


def _prepare(method: Method) -> None:
    method.local_step()
    dist.barrier()


def _run(method: Method) -> None:
    method.run()


def _time(method: Method) -> tuple[float, float]:
    """Seconds by the wall clock, and of this process's threads."""
    _prepare(method)
    wall, processor = time.perf_counter(), time.process_time()
    method.run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return (wall if method.seconds is None else method.seconds()), processor


def _break_down(method: Method) -> dict[str, float]:
    _prepare(method)
    return break_down(method.run)


def _sent(method: Method) -> int:
    return method.bytes_sent() if method.bytes_sent else 0
