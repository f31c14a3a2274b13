"""Times local steps one by one and stacked, on workers that are thrown away afterwards."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from grawa.lab.tasks import Data, Task
from grawa.lab.train.hosted import Hosted, Looped
from grawa.lab.train.settings import Settings
from grawa.lab.train.stackable import try_out
from grawa.lab.train.stacked import Stacked
from grawa.lab.train.worker import Worker
from grawa.math.host import wait_for
from grawa.workers.replicas import Replicas

SHORTEST_SECONDS = 5.0
"""A run whose local steps take less in total is not timed: there is too little to gain."""

SHORTEST_STEPS = 200
"""The same in steps: the timing takes at least as long as some ten steps, 5% of so many."""

LONGEST_STEP_SECONDS = 0.01
"""A worker's step on a CPU that takes longer is not timed: its operations keep a core busy by
themselves, so that stacking loses (`docs/decisions.md`), for much time and memory."""

MOST_SECONDS, MOST_SHARE = 1.0, 0.05
"""How long steps are timed: the smaller of a time and a share of the run's."""

FEWEST_PAIRS = 3
"""Steps of each kind that are timed even if that takes longer."""

_FIRST_STEPS = 3
"""Steps for a first impression, whose fastest is the one that other load has disturbed least."""


class NotTimedError(Exception):
    """Why steps of both kinds are not timed."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a local step of all workers in this process.

    Attributes:
        looped: one by one; the median.
        stacked: in one batched pass; by the median ratio to the step before it, from which other
            load on the machine cancels out.
    """

    looped: float
    stacked: float


def time_both(
    task: Task,
    data: Data,
    settings: Settings,
    samples: Sequence[tuple[int, Tensor]],
    length: Callable[[float], float],
    *,
    clock: Callable[[], float],
) -> Times:
    """Makes steps of both kinds in turn, with new workers that have generators of their own.

    Args:
        task: the task.
        data: the task's data, on the device of this process.
        settings: of the run.
        samples: the number of each worker in this process, and the indices of its samples.
        length: seconds of a local step -> seconds of the run.
        clock: the time in seconds.

    Returns:
        The times.

    Raises:
        NotTimedError: if the run is too short, its steps are too long, or they can't be stacked.
    """
    device = data.train_inputs.device
    workers = [Worker(i, task, data, own, settings, device) for i, own in samples]
    replicas = Replicas([w.model for w in workers], [[w.optimizer] for w in workers])

    def seconds(hosted: Hosted) -> float:
        wait_for(device)
        began = clock()
        # Steps of a run are counted from 1, so that no fault happens before this one.
        hosted.backward(slice(None), [0] * len(workers))
        hosted.move(slice(None))
        wait_for(device)
        return clock() - began

    looped = Looped(workers)
    seconds(looped)  # the first step also allocates memory
    once = min(seconds(looped) for _ in range(_FIRST_STEPS))
    whole = length(once)
    if whole < max(SHORTEST_SECONDS, SHORTEST_STEPS * once):
        raise NotTimedError("the run is too short for a timed trial to pay")
    if device.type == "cpu" and once / len(workers) > LONGEST_STEP_SECONDS:
        raise NotTimedError(
            f"a worker's step takes over {1000 * LONGEST_STEP_SECONDS:.0f} ms, for which stacking "
            "does not pay on a CPU"
        )
    tried = try_out(task, data, settings)
    if tried.obstacle is not None:
        raise NotTimedError(f"the model can't be stacked: {tried.obstacle}")
    stacked = Stacked(task, data, workers, replicas, tried.names)
    seconds(stacked)
    found: list[tuple[float, float]] = []
    most = min(MOST_SECONDS, MOST_SHARE * whole)
    while len(found) < FEWEST_PAIRS or sum(map(sum, found)) < most:
        found.append((seconds(looped), seconds(stacked)))
    one_by_one = median(first for first, _ in found)
    return Times(looped=one_by_one, stacked=one_by_one * median(b / a for a, b in found))


def clock_for(device: torch.device) -> Callable[[], float]:
    """The clock for steps on a device: seconds, in which other load shows as little as possible.

    Returns:
        With a single thread on a CPU its processor time, otherwise the wall-clock time.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.thread_time if alone else time.perf_counter
