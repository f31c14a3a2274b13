"""What a run shows, and writes to its folder, while it goes on."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from grawa.integrations.tensorboard import TensorBoardRounds
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.report.console import RoundProgress
from grawa.lab.tasks import Task
from grawa.lab.train.events import Evaluated, Event, Finished, Started, Trained
from grawa.rounds.report import RoundReport


def saving_workers(events: Iterator[Event], folder: RunFolder) -> Iterator[Event]:
    """Passes events on; at the end each process saves its workers, before the model is saved."""
    for event in events:
        if isinstance(event, Trained):
            for worker, state in event.workers.items():
                folder.save_worker(worker, state)
        yield event


def keep(events: Iterator[Event], config: TrainConfig, task: Task, folder: RunFolder) -> None:
    """Shows a run's events, and writes them to its folder."""
    console = Console()
    with console.status("starting"):
        started = next(events)
    assert isinstance(started, Started)
    for notice in (*folder.forget_after(started.recorded), *started.passed_over):
        console.print(notice)
    if started.round:
        console.print(f"continues from the checkpoint of round {started.round}")
    # For the same bits, if the run is resumed or repeated.
    folder.put_config(replace(config, stack_workers="on" if started.stacked else "off"))
    folder.append("started", asdict(started))
    if started.processes > 1:
        print(f"{started.workers} workers in {started.arrangement}")
    if config.stack_workers == "auto" and started.workers > started.processes:
        print(f"local steps: {started.stacking}")
    with ExitStack() as stack:
        budget = config.settings().budget
        progress = stack.enter_context(RoundProgress(started.steps, budget, console))
        board = TensorBoardRounds(folder.path / "tensorboard") if config.tensorboard else None
        if board is not None:
            stack.callback(board.close)
        for event in events:
            if isinstance(event, RoundReport):
                folder.append("round", event.as_json())
                progress.show(event)
                if board is not None:
                    board(event)
            elif isinstance(event, Evaluated):
                folder.append("evaluated", asdict(event))
            elif isinstance(event, Trained):
                folder.save_model(event.consensus)  # before it is measured, which may fail
            elif isinstance(event, Finished):
                folder.append("finished", _totals(event, task, folder))


def _totals(finished: Finished, task: Task, folder: RunFolder) -> dict[str, Any]:
    """The result of a run; sums over all its rounds, also those before it was resumed."""
    rounds = [event for event in folder.events() if event["kind"] == "round"]
    summed = ("bytes_sent", "compute_seconds", "round_seconds", "exposed_seconds")
    return {
        "metric": task.metric,
        "error": finished.error,
        "step": finished.step,
        "elapsed": finished.elapsed,
        "round": finished.round,
        "averaged_rounds": finished.averaged_rounds,
        **{name: sum(event[name] for event in rounds) for name in summed},
    }
