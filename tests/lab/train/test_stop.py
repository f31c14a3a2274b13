"""A run is asked to stop: it ends with a checkpoint, from which it goes on bit for bit."""

import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import grawa
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Event
from grawa.lab.train.loop import train
from grawa.lab.train.stop import STOPS, StoppedError, StopSignals, asking
from tests.lab.train.runs import always, end, events, rounds_saved, same_model, saving_to, settings
from tests.world import on_ranks

VIRTUAL = partial(VirtualClock, 0.1, jitter=0.2)
RUNS: dict[str, tuple[grawa.Strategy, dict[str, Any]]] = {
    "a last round for the last steps": (grawa.LGRAWA(), {"steps": 26}),
    "parts, in the background": (
        grawa.DiLoCo(),
        {"steps": 14, "fragments": 2, "overlap_steps": 1, "evaluate_every": 2, "swa": 0.9},
    ),
    "steps one by one": (
        grawa.LGRAWA(), {"schedule": grawa.SharedCount(4), "modelled": VIRTUAL},
    ),
    "a budget": (grawa.EASGD(), {"steps": None, "budget": 2.4, "modelled": VIRTUAL}),
}  # fmt: skip


def stopped(
    folder: Path, asked_after: int, strategy: grawa.Strategy, options: dict[str, Any]
) -> list[Event] | None:
    """The events of a run that is asked to stop after so many; `None` if it has finished."""
    found: list[Event] = []

    @contextmanager
    def asked(request: Callable[[], None]) -> Generator[None]:
        requests.append(request)
        yield

    requests: list[Callable[[], None]] = []
    saving = saving_to(folder, every=0)
    stream = train(
        Digits(train_size=200), always(strategy), settings(**options), saving=saving, asking=asked
    )
    try:
        for event in stream:
            found.append(event)
            if requests and len(found) >= asked_after:
                requests[0]()
    except StoppedError as stop:
        assert stop.saved
        return found
    return None


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("asked_after", [1, 3, "the last steps"])
def test_a_run_stops_after_a_round_and_goes_on_from_there(
    asked_after: int | str, name: str, tmp_path: Path
) -> None:
    strategy, options = RUNS[name]
    whole = events(always(strategy), settings(**options))
    rounds = [i for i, event in enumerate(whole) if isinstance(event, grawa.RoundReport)]
    before_last = rounds[-options.get("fragments", 1)]
    after = asked_after if isinstance(asked_after, int) else before_last
    found = stopped(tmp_path, after, strategy, options)
    assert found is not None
    last = [event for event in found if isinstance(event, grawa.RoundReport)][-1]
    assert last.stopping
    assert rounds_saved(tmp_path) == [last.round]
    again = events(always(strategy), settings(**options), checkpoints=tmp_path)
    assert same_model(end(again), end(whole))
    assert end(again).round == end(whole).round


def on_wall(folder: Path, schedule: grawa.Warmup, overlap_steps: int) -> tuple[bool, int]:
    """Two processes of two workers, asked to stop; whether it goes on to the same model."""
    chosen = {"schedule": schedule, "overlap_steps": overlap_steps}
    strategy = grawa.LGRAWA()
    assert stopped(folder, 4, strategy, chosen) is not None
    again = end(events(always(strategy), settings(**chosen), checkpoints=folder))
    whole = end(events(always(strategy), settings(**chosen)))
    return same_model(again, whole), again.round


@pytest.mark.world
@pytest.mark.parametrize("overlap_steps", [0, 2])
def test_between_two_rounds_at_one_step(overlap_steps: int, tmp_path: Path) -> None:
    """In a warm-up the next round is due where the one in the background is applied."""
    schedule = grawa.Warmup(4, steps=9)
    found = on_ranks(2, on_wall, tmp_path, schedule, overlap_steps)
    assert [same for same, _ in found] == [True, True]


@pytest.mark.world
def test_steps_of_all_that_are_counted_together_stop_together(tmp_path: Path) -> None:
    found = on_ranks(2, shared, tmp_path)
    assert found[0] == found[1]


def shared(folder: Path) -> list[int]:
    options = {"schedule": grawa.SharedCount(4), "overlap_steps": 1}
    assert stopped(folder, 3, grawa.LGRAWA(), options) is not None
    end(events(always(grawa.LGRAWA()), settings(**options), checkpoints=folder))
    return rounds_saved(folder)


class Process:
    """What signals do to a process that trains.

    Args:
        within: as for `asking`.
    """

    def __init__(self, within: float | None) -> None:
        self.requests = 0
        self.signals = StopSignals()
        self._within = within

    def gets(self, *numbers: signal.Signals, apart: float = 0.0) -> None:
        """Signals while it trains."""
        with asking(self._request, self.signals, self._within):
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(apart)

    def _request(self) -> None:
        self.requests += 1


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("within", [60.0, None])
def test_the_first_signal_is_a_request(number: signal.Signals, within: float | None) -> None:
    process = Process(within)
    process.gets(number, number)  # a terminal may send it twice
    assert (process.requests, process.signals.first) == (1, number)
    assert not any(signal.getitimer(signal.ITIMER_REAL))


def test_another_one_ends_a_process_that_no_launcher_would_end() -> None:
    process = Process(60.0)
    with pytest.raises(StoppedError) as ended:
        process.gets(signal.SIGINT, signal.SIGTERM, apart=0.25)
    assert (ended.value.exit_code, ended.value.saved) == (130, False)
    under_launcher = Process(None)
    under_launcher.gets(signal.SIGINT, signal.SIGTERM, apart=0.25)
    assert under_launcher.requests == 1


@pytest.mark.parametrize("within", [0.0, 0.05])
def test_so_does_the_end_of_the_time(within: float) -> None:
    process = Process(within)
    with pytest.raises(StoppedError) as ended:
        process.gets(signal.SIGTERM, apart=5.0)
    assert (ended.value.exit_code, process.requests) == (143, 1)


def test_signals_that_are_ignored_stay_so() -> None:
    """As by `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = Process(0.0)
        process.gets(signal.SIGHUP)
        assert process.requests == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
