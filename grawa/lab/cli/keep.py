"""What a run shows, and writes to its folder, while it goes on."""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any, NoReturn

from rich.console import Console

from grawa.checkpoints.places import round_of
from grawa.errors import DivergedError
from grawa.integrations.tensorboard import TensorBoardRounds
from grawa.lab.cli.journal import Journal
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.event_lines import read_events, whole_event
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import say
from grawa.lab.report.round_progress import RoundProgress
from grawa.lab.tasks import Task
from grawa.lab.train.doubts import last_sound_round
from grawa.lab.train.events import Evaluated, Event, Finished, Joined, Started, Trained
from grawa.math.finite import are_finite, finite_or_none
from grawa.rounds.report import RoundReport


def saving_workers(events: Iterator[Event], folder: RunFolder) -> Iterator[Event]:
    """Passes events on; at the end each process saves its workers, before the model is saved."""
    for event in events:
        if isinstance(event, Trained):
            for worker, state in event.workers.items():
                folder.save_worker(worker, state)
            for worker, rounds in event.rounds.items():
                folder.save_rounds(worker, rounds)
        yield event


def keep(
    events: Iterator[Event],
    config: TrainConfig,
    task: Task,
    folder: RunFolder,
    journal: Journal,
    console: Console,
) -> None:
    """Shows a run's events, and writes them to its folder.

    Args:
        events: of this process.
        config: the run.
        task: its task.
        folder: of the run.
        journal: writes to it, as far as it is this process's turn.
        console: where they are shown.
    """
    with console.status("starting"):
        started = next(events)
    assert isinstance(started, Started)
    _begin(started, config, folder, journal, console)
    with ExitStack() as stack:
        stack.callback(journal.close)
        budget, is_modelled = config.settings().budget, config.clock == "virtual"
        shown = RoundProgress(started.steps, budget, is_modelled, console)
        progress = stack.enter_context(shown)
        board = TensorBoardRounds(folder.path / "tensorboard") if config.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        takes_part = not config.elastic
        for event in _naming_checkpoint(events, folder):
            if isinstance(event, RoundReport):
                journal.round(event)
                if takes_part:
                    progress.show(event)
                if board is not None:
                    board(event)
            elif isinstance(event, Joined):
                takes_part = True
                journal.joined(event)
                if event.late:
                    say(Console(), f"worker {event.worker} joins after round {event.round}")
            elif isinstance(event, Evaluated):
                error = finite_or_none(event.error)
                journal.add("evaluated", {**asdict(event), "error": error})
            elif isinstance(event, Trained):
                if not journal.save(event):  # before it is measured, which may fail
                    return
            elif isinstance(event, Finished):
                if not (are_finite(event.consensus.values()) and math.isfinite(event.error)):
                    _refuse(event, task, folder, journal)
                journal.add("finished", _totals(event, task, folder))


def _begin(
    started: Started, config: TrainConfig, folder: RunFolder, journal: Journal, console: Console
) -> None:
    """Shows what the run begins with, and records it."""
    resized = (started.resized,) if started.resized else ()
    for notice in (*journal.begin(started), *started.passed_over, *resized):
        say(console, notice)
    if started.round:
        console.print(f"continues from the checkpoint of round {started.round}")
    # For the same bits, if the run is resumed or repeated.
    folder.put_config(replace(config, stack_workers="on" if started.stacked else "off"))
    if started.processes > 1 and not config.elastic:
        say(console, f"{started.workers} workers in {started.arrangement}")
    if config.stack_workers == "auto" and started.workers > started.processes:
        say(console, f"local steps: {started.stacking}")


def _refuse(finished: Finished, task: Task, folder: RunFolder, journal: Journal) -> NoReturn:
    """Records, and says, that the result is not finite."""
    about = {name: getattr(finished, name) for name in ("step", "round", "elapsed")}
    journal.add("diverged", about)
    raise DivergedError(
        f"the final model or its {task.metric} is not finite after step {finished.step}; lower the "
        f"learning rate, or leave out --no-guard{_last_sound(folder)}"
    )


def _naming_checkpoint(events: Iterator[Event], folder: RunFolder) -> Iterator[Event]:
    """Passes events on; if training has diverged, says which checkpoint is from before."""
    try:
        yield from events
    except DivergedError as error:
        raise DivergedError(f"{error}{_last_sound(folder)}") from None


def _last_sound(folder: RunFolder) -> str:
    sound = last_sound_round(folder.events())
    found = [path for path in folder.saved() if round_of(path) <= sound]
    return f"; the last checkpoint from before that is {found[-1]}" if found else ""


def _totals(finished: Finished, task: Task, folder: RunFolder) -> dict[str, Any]:
    """The result of a run; sums over all its rounds, also those before it was resumed."""
    events, _ = read_events(folder.events_file, whole_event)  # of which lines may be damaged
    rounds = [event for event in events if event["kind"] == "round"]
    summed = ("bytes_sent", "compute_seconds", "round_seconds", "exposed_seconds")
    return {
        "metric": task.metric,
        "error": finished.error,
        "step": finished.step,
        "elapsed": finished.elapsed,
        "round": finished.round,
        "averaged_rounds": finished.averaged_rounds,
        "doubts": list(finished.doubts),
        **{name: sum(event.get(name, 0) for event in rounds) for name in summed},
    }
