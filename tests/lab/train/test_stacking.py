"""With `auto` local steps are stacked if a timed trial says so, and nothing else changes."""

from collections.abc import Callable, Iterator
from itertools import chain, cycle, repeat
from pathlib import Path
from typing import Any

import pytest
import torch

import grawa
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Data, Digits, Task
from grawa.lab.train import run, stacking
from grawa.lab.train.faults import Fault
from grawa.lab.train.settings import Settings
from grawa.lab.train.stacking import Stacking, choose_stacking
from tests.lab.train.runs import always, end, events, same_model, settings, started
from tests.lab.train.test_stacked import Branched, Dropped
from tests.world import on_ranks

TASK = Digits(train_size=200)
LGRAWA = always(grawa.LGRAWA())
STEPS = 250

Clock = Callable[[], float]


def clock_of(looped: float, stacked: float) -> Clock:
    """A clock by which steps take so many seconds; it is read before and after each step."""
    first_steps = 4  # one by one, before the first stacked one
    durations = chain(repeat(looped, first_steps), [stacked], cycle([looped, stacked]))

    def moments() -> Iterator[float]:
        now = 0.0
        for duration in durations:
            yield now
            now += duration
            yield now

    return moments().__next__


def chosen(clock: Clock, task: Task = TASK, steps: int | None = STEPS, **changes: Any) -> Stacking:
    own = settings(**{"stack_workers": "auto", "steps": steps, **changes})
    data = task.data(0)
    samples = [(i, torch.arange(i * 20, i * 20 + 20)) for i in range(own.workers)]
    return choose_stacking(task, data, own, samples, own.steps, clock=clock)


def test_what_is_clearly_faster_is_stacked() -> None:
    found = chosen(clock_of(0.03, 0.012))
    assert str(found) == "stacked (2.50 times as fast as one by one)"
    assert found.stacked


@pytest.mark.parametrize(("stacked", "ratio"), [(0.025, "1.20"), (0.06, "0.50")])
def test_what_is_hardly_faster_or_slower_is_not(stacked: float, ratio: str) -> None:
    found = chosen(clock_of(0.03, stacked))
    assert str(found) == f"one by one (stacked they would be {ratio} times as fast)"
    assert not found.stacked


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sam": ({"optimizer": "sam"}, "SAM's two passes can't be stacked"),
    "noise": ({"faults": (Fault.parse("input-noise=0.5:1"),)}, "can't be stacked"),
    "batches": ({"faults": (Fault.parse("batch-of-one:2"),)}, "the same batch size"),
    "alone": ({"workers": 1}, "one worker in each process"),
    "virtual": ({"modelled": lambda: VirtualClock(0.1)}, "nothing is timed with --clock virtual"),
    "dropout": ({"task": Dropped()}, "can't be stacked: it fails for several models at once: vmap"),
    "branches": ({"task": Branched()}, "it fails for several models at once: vmap"),
    "short": ({"steps": 100}, "the run is too short"),
    "short budget": ({"budget": 3.0, "steps": None}, "the run is too short"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_or_need_not_be_timed_is_one_by_one(
    changes: dict[str, Any], reason: str
) -> None:
    found = chosen(clock_of(0.03, 0.01), **changes)
    assert not found.stacked
    assert reason in found.reason
    assert len(found.reason) < 150


def test_long_steps_on_a_cpu_are_not_timed() -> None:
    found = chosen(clock_of(2.0, 0.1))
    assert str(found).startswith("one by one (a worker's step takes over 10 ms")


def test_a_long_budget_is_a_long_run() -> None:
    assert chosen(clock_of(0.02, 0.01), steps=None, budget=3600.0).stacked


def test_a_trial_that_fails_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(stacking, "time_both", fail)
    found = chosen(clock_of(0.03, 0.01))
    assert str(found) == "one by one (the timed trial failed: CUDA out of memory)"


@pytest.mark.parametrize("word", ["on", "off"])
def test_who_says_which_gets_it_untimed(word: str) -> None:
    def never() -> float:
        raise AssertionError("timed")

    assert chosen(never, stack_workers=word).stacked == (word == "on")


def timed_by(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Runs choose by this clock, and as if they were long."""

    def choose(
        task: Task, data: Data, own: Settings, samples: Any, _: int, before: bool | None
    ) -> Stacking:
        return choose_stacking(task, data, own, samples, STEPS, before, clock=clock)

    monkeypatch.setattr(run, "choose_stacking", choose)


@pytest.mark.parametrize(("stacked", "word"), [(0.01, "on"), (0.06, "off")])
def test_the_trial_changes_no_bit_of_the_run(
    stacked: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed_by(monkeypatch, clock_of(0.03, stacked))
    auto = events(LGRAWA, settings(stack_workers="auto"))
    assert started(auto).stacked == (word == "on")
    assert same_model(end(auto), end(events(LGRAWA, settings(stack_workers=word))))


def test_the_trial_draws_none_of_the_runs_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with dropout draws from the global generator, in the trial too."""
    timed_by(monkeypatch, clock_of(0.03, 0.01))
    found = []
    for word in ("auto", "off"):
        torch.manual_seed(1)
        found.append(events(LGRAWA, settings(stack_workers=word), task=Dropped()))
    assert "vmap: called random operation" in started(found[0]).stacking
    assert same_model(*map(end, found))


def test_a_resumed_run_goes_on_as_it_began(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    auto = settings(stack_workers="auto")
    timed_by(monkeypatch, clock_of(0.03, 0.01))
    whole = end(events(LGRAWA, auto))
    timed_by(monkeypatch, clock_of(0.03, 0.01))
    events(LGRAWA, auto, checkpoints=tmp_path, until=4)
    timed_by(monkeypatch, clock_of(0.03, 0.06))
    resumed = events(LGRAWA, auto, checkpoints=tmp_path)
    assert started(resumed).step == 8
    assert started(resumed).stacking == "stacked (as before the interruption)"
    assert same_model(end(resumed), whole)


def chosen_by(*times: tuple[float, float]) -> str:
    """What a process decides whose steps take so long, one by one and stacked."""
    return str(chosen(clock_of(*times[torch.distributed.get_rank()])))


@pytest.mark.world
@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ((0.03, 0.015), "stacked (2.00 times as fast as one by one)"),
        ((0.03, 0.06), "one by one (stacked they would be 0.50 times as fast)"),
        ((9.00, 0.01), "one by one (a worker's step takes over 10 ms"),
    ],
)
def test_all_processes_do_what_suits_the_slowest(
    second: tuple[float, float], expected: str
) -> None:
    one, other = on_ranks(2, chosen_by, (0.03, 0.01), second)
    assert one == other
    assert one.startswith(expected)
