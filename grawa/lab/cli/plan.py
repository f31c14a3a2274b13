"""`grawa plan`: predicts the cost of a method and a `sync_every` before anything is trained."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from inspect import signature
from typing import TypeVar

import torch
from rich.console import Console
from torch.nn import Module
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.cli import names
from grawa.lab.cli.plan_config import PlanConfig
from grawa.lab.cli.plan_network import check, network_asked
from grawa.lab.cli.plan_scores import planned, with_probes
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.files import check_file, write_text
from grawa.lab.planning.costs import given
from grawa.lab.planning.links import Progress, measure_network
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.planning.predict import Measured
from grawa.lab.report.console import say
from grawa.lab.report.plan import plan_lines, plan_tables
from grawa.lab.report.plan_answer import plan_answer, plan_notes
from grawa.lab.report.plan_json import plan_json
from grawa.lab.simulate.network import Network
from grawa.lab.tasks import Task
from grawa.lab.together import check_same, on_all
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.worker import Worker
from grawa.process_group import distributed, is_first_process, pick_device, under_launcher

_BATCH_SIZE = 16

Value = TypeVar("Value")


def plan_command(asked: PlanConfig) -> None:
    """Runs `grawa plan`.

    Args:
        asked: the options.
    """
    for file in (asked.output.out, asked.output.picture):
        if file is not None and is_first_process():
            check_file(file)
    device = asked.task.device
    with distributed(device) if under_launcher() else _here(device) as place:
        measure_all = _on_all(partial(_prepare, asked, place))
        console = Console(quiet=not is_first_process(), markup=False)

        def show(text: str) -> AbstractContextManager[object]:
            return console.status(f"measuring {text}")

        measured = measure_all(show)
    if is_first_process():
        _report(with_probes(measured), asked, console)


def _report(measured: Measured, asked: PlanConfig, console: Console) -> None:
    """Prints the answer and what it follows from, and writes the files that were asked for."""
    most_lost, output = asked.most_lost(), asked.output
    console.print(" ".join(plan_answer(measured, most_lost)), highlight=False)
    console.print()
    for line in plan_lines(measured, real=asked.network.link is None):
        say(console, line)
    for table in plan_tables(measured, most_lost):
        console.print(table)
    for note in plan_notes(measured):
        console.print(note, highlight=False)
    if output.out is not None:
        write_text(output.out, json.dumps(plan_json(measured, most_lost), indent=1) + "\n")
    if output.picture is not None:
        from grawa.lab.report.plan_picture import plan_picture  # takes a second: Matplotlib

        plan_picture(measured, most_lost).save_png(output.picture)
        say(console, f"{output.picture}: the predictions as a picture")


@contextmanager
def _here(device: str) -> Generator[torch.device]:
    yield pick_device(device)


def _on_all(make: Callable[[], Value]) -> Value:
    """As `on_all`, but what is wrong is said by the first process alone."""
    try:
        return on_all(make)
    except UserError:
        if is_first_process():
            raise
        sys.exit(2)


def _prepare(asked: PlanConfig, device: torch.device) -> Callable[[Progress], Measured]:
    """Checks the options; returns what then measures, collectively."""
    check_same(asked.shared, "the options")  # else one might wait where another goes on
    check(asked)
    made = {name: planned(name) for name in asked.strategies}
    network = network_asked(asked.network)
    if asked.what is not None:
        return partial(measure, _subject(asked.what, asked, device), made, network)
    numbers = asked.model.numbers()

    def from_numbers(show: Progress) -> Measured:
        known = network
        if not isinstance(known, Network):
            known = measure_network(known, device, show)
        return given(*numbers, made, known, asked.task.batch_size)

    return from_numbers


def _subject(what: str, asked: PlanConfig, device: torch.device) -> Subject:
    folder = asked.task.data
    if own.is_own(what, names.known_tasks()):
        if folder is not None:
            raise UserError(f"--data is for tasks only, and {what} is a function of your own")
        found = _own(what)
        if found is not None:
            return found
    batch_size = _BATCH_SIZE if asked.task.batch_size is None else asked.task.batch_size
    config = TrainConfig(task=what, workers=1, batch_size=batch_size)
    settings, task = config.settings(), names.task(what, folder)
    data = load(task, settings, device)
    worker = Worker(0, task, data, deal(task, data, settings)[0], settings, device)

    def step() -> None:
        worker.backward(1)
        worker.optimizer.step()

    return Subject(model=worker.model, optimizer=worker.optimizer, step=step, samples=batch_size)


def _own(what: str) -> Subject | None:
    """Calls the user's function, and checks what it returns; `None` if that is a task."""
    function = own.load(own.split(what)[0])
    if isinstance(function, Task):
        return None
    try:
        signature(function).bind()
    except (TypeError, ValueError):
        raise UserError(f"{what} is not a function that can be called without arguments") from None
    made = function()
    match made:
        case (Module() as model, Optimizer() as optimizer, step, int(samples)) if callable(step):
            chosen: Callable[[], object] = step
            return Subject(model=model, optimizer=optimizer, step=chosen, samples=samples)
        case Task():
            return None
    raise UserError(
        f"{what} must return (model, optimizer, step, samples) or a task, got {made!r:.100}"
    )
