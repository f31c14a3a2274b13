"""Decides whether the workers of a process step one by one or in one batched pass."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten

import torch
from torch import Tensor

from grawa.lab.tasks import Data, Task
from grawa.lab.together import everyones
from grawa.lab.train.settings import Settings
from grawa.lab.train.timed_steps import NotTimedError, Times, clock_for, time_both

CLEARLY = 1.25
"""Stacked steps must be so many times as fast in the trial. In the run they gain less, since norms
and pull come on top, and they take more memory (measured in `docs/decisions.md`)."""

_LONGEST_REASON = 140
"""Characters of a reason, which is printed in one line."""


@dataclass(frozen=True, kw_only=True)
class Stacking:
    """How the workers of each process make their local steps.

    Attributes:
        stacked: whether in one batched pass, not one by one.
        reason: why, in words.
    """

    stacked: bool
    reason: str

    def __str__(self) -> str:
        return f"{'stacked' if self.stacked else 'one by one'} ({self.reason})"


def choose_stacking(
    task: Task,
    data: Data,
    settings: Settings,
    samples: Sequence[tuple[int, Tensor]],
    steps: int | None,
    before: bool | None = None,
    *,
    clock: Callable[[], float] | None = None,
) -> Stacking:
    """Decides how the workers step; with `auto` by timing both kinds, if that can pay.

    All processes decide the same, so that one value of `--stack-workers` repeats the run. Rounds
    wait for the slowest process; so the slowest process's times are compared.

    Args:
        task: the task.
        data: the task's data, on the device of this process.
        settings: of the run.
        samples: the number of each worker in this process, and the indices of its samples.
        steps: local steps of the run, if they end it.
        before: whether a run that continues stacked them until now, which it then goes on to do, so
            that it ends with the same bits; `None` for a new run.
        clock: the time in seconds; by default `clock_for` the device.

    Returns:
        The decision, the same on every process; every process must call this.
    """
    if settings.stack_workers != "auto":
        return Stacking(stacked=settings.stack_workers == "on", reason="as --stack-workers says")
    if before is not None:
        return Stacking(stacked=before, reason="as before the interruption")
    obstacle = _obstacle(settings, len(samples))
    if obstacle is not None:
        return Stacking(stacked=False, reason=obstacle)

    def length(step: float) -> float:
        by_steps = math.inf if steps is None else steps * step
        return min(by_steps, math.inf if settings.budget is None else settings.budget)

    device = data.train_inputs.device
    clock = clock or clock_for(device)
    with _leaving_no_trace(device):
        try:
            found: Times | str = time_both(task, data, settings, samples, length, clock=clock)
        except NotTimedError as error:
            found = str(error)
        except Exception as error:  # such as want of memory; the run itself may do without stacking
            found = f"the timed trial failed: {error}"
    return _decide(everyones(found, "choose how workers step"))


def _obstacle(settings: Settings, hosted: int) -> str | None:
    """Why steps are not even timed."""
    if hosted == 1:
        return "one worker in each process"
    if settings.modelled is not None:
        return "nothing is timed with --clock virtual; --stack-workers on stacks them"
    return settings.stacking_obstacle()


def _decide(found: Sequence[Times | str]) -> Stacking:
    """The decision, given each process's times, or why it has none."""
    refusal = next((each for each in found if isinstance(each, str)), None)
    if refusal is not None:
        return Stacking(stacked=False, reason=_short(refusal))
    times = [each for each in found if isinstance(each, Times)]
    faster_by = max(each.looped for each in times) / max(each.stacked for each in times)
    if faster_by >= CLEARLY:
        return Stacking(stacked=True, reason=f"{faster_by:.2f} times as fast as one by one")
    reason = f"stacked they would be {faster_by:.2f} times as fast"
    return Stacking(stacked=False, reason=reason)


def _short(text: str) -> str:
    """The first sentence of a text, or its beginning: torch's explanations can be long."""
    return shorten(text.partition(". ")[0], _LONGEST_REASON, placeholder=" ...")


@contextmanager
def _leaving_no_trace(device: torch.device) -> Generator[None]:
    """Restores the global random generators afterwards, and frees a GPU's unused memory."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        yield
    if on_gpu:
        torch.cuda.empty_cache()
