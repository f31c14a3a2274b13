"""`grawa plan`: predicts the cost of a method and a `sync_every` before anything is trained."""

import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from inspect import signature
from math import prod
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch.nn import Module
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.cli import names
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.files import check_file, write_text
from grawa.lab.planning.links import Hosts, find_hosts
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.report.plan import plan_json, plan_lines, plan_picture, plan_tables
from grawa.lab.shapes import shown
from grawa.lab.simulate.network import Link, Network, Topology, network_of, parse_hosts
from grawa.lab.tasks import Task
from grawa.lab.together import check_same, on_all
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.worker import Worker
from grawa.lab.units import share
from grawa.process_group import distributed, is_first_process, pick_device, under_launcher
from grawa.strategies.protocol import Strategy

WORKERS = 4

_MOST_WORKERS = 2048
"""Their messages are counted with a row for each, in 1 GB of memory for so many."""

STRATEGIES = ("lgrawa", "mgrawa", "local_sgd", "easgd", "lsgd", "diloco", "data_parallel")

Value = TypeVar("Value")


def plan_command(
    what: str,
    strategies: tuple[str, ...] = STRATEGIES,
    workers: int | None = None,
    link: str | None = None,
    topology: Topology = "ring",
    hosts: str | None = None,
    inner_link: str | None = None,
    batch_size: int = 16,
    data: str | None = None,
    loss: str = "5%",
    device: str = "auto",
    picture: Path | None = None,
    out: Path | None = None,
) -> None:
    """Predict the speed of each method over a network, from a few measured times.

    The time of a local step and of each method's round is measured on this machine; the time of
    messages is computed from the links. Under torchrun, without --link, the links are measured too:
    that between hosts, and that between the processes of a host.

    Example:
        grawa plan digits --workers 8 --link 100mbit:20ms

    Args:
        what: A task, such as digits; or module:function for a function of your own that returns
            (model, optimizer, step, samples): step() makes a whole local step of so many samples.
        strategies: The methods, as in `grawa train --strategy`.
        workers: Number of workers; by default as many as --hosts has or as torchrun started, or 4.
        link: Bandwidth and latency between workers, such as 100mbit:20ms; needed without torchrun.
        topology: How workers are connected; measured links are those of a mesh.
        hosts: Hosts x workers on each, such as 2x4, if several workers share a host; --link and
            --topology are then those between hosts. Under torchrun, without --link, processes that
            share a machine and its network are on one host, unless this says otherwise.
        inner_link: Bandwidth and latency between the workers of a host, such as 50gbit:5us.
        batch_size: Samples per worker and step, for a task.
        data: The folder or archive with the data, for a task that reads them.
        loss: The largest fraction of the time that may be spent waiting in rounds.
        device: cpu, cuda, or auto for a GPU if there is one.
        picture: A PNG file to draw the predictions in.
        out: A JSON file to write all numbers to.
    """
    for file in (out, picture):
        if file is not None and is_first_process():
            check_file(file)
    options = (what, strategies, workers, link, topology, hosts, inner_link, batch_size, loss)

    def prepare(place: torch.device) -> tuple[dict[str, Strategy], float, Subject, Network | Hosts]:
        check_same(options, "the options")  # else one might wait where another goes on
        made = {name: names.strategy(name) for name in strategies}
        network = _network(link, topology, workers, hosts, inner_link)
        return made, _fraction(loss), _subject(what, batch_size, data, place), network

    with distributed(device) if under_launcher() else _here(device) as place:
        made, most_lost, subject, network = _on_all(partial(prepare, place))
        console = Console(quiet=not is_first_process(), markup=False)

        def show(text: str) -> AbstractContextManager[object]:
            return console.status(f"measuring {text}")

        measured = measure(subject, made, network, show)
    if not is_first_process():
        return
    for line in plan_lines(measured, real=not isinstance(network, Network)):
        console.print(line, soft_wrap=True, highlight=False)
    for table in plan_tables(measured, most_lost):
        console.print(table)
    if out is not None:
        write_text(out, json.dumps(plan_json(measured, most_lost), indent=1) + "\n")
    if picture is not None:
        plan_picture(measured, picture)
        console.print(f"{picture}: the predictions as a picture")


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


def _fraction(loss: str) -> float:
    """The largest fraction of the time that may be lost."""
    most_lost = share(loss, "loss")
    if most_lost >= 1.0:
        raise UserError(f"loss must be below 100%, got {loss!r}")
    return most_lost


def _network(
    link: str | None,
    topology: Topology,
    workers: int | None,
    hosts: str | None,
    inner_link: str | None,
) -> Network | Hosts:
    """The network that is described; or the ranks of each host, to measure between."""
    if link is None:
        if not under_launcher():
            raise UserError(
                "give the link between workers, such as --link 100mbit:20ms; or start this "
                "command with torchrun to measure the real link"
            )
        return _ranks(workers, hosts, inner_link)
    if workers is None:
        running = int(os.environ["WORLD_SIZE"]) if under_launcher() else 1
        workers = WORKERS if running == 1 else running
        workers = workers if hosts is None else prod(parse_hosts(hosts))
    if workers < 2:
        raise UserError(f"a plan needs at least 2 workers, got {workers}")
    if workers > _MOST_WORKERS:
        raise UserError(f"a plan is made for at most {_MOST_WORKERS} workers, got {shown(workers)}")
    inner = None if inner_link is None else Link.parse(inner_link)
    return network_of(Link.parse(link), topology, workers, hosts, inner)


def _ranks(workers: int | None, hosts: str | None, inner_link: str | None) -> Hosts:
    """The ranks of each host, between which links are measured; collective."""
    processes = dist.get_world_size()
    if inner_link is not None:
        raise UserError("--inner-link needs --link; without both, torchrun measures both links")
    if workers not in (None, processes):
        raise UserError(
            f"links are measured between the {processes} processes that torchrun started, and "
            f"{workers} workers were asked for: give --link to plan for others"
        )
    if hosts is None:
        return find_hosts()
    count, each = parse_hosts(hosts)
    if count * each != processes:
        raise UserError(
            f"{hosts} hosts have {count * each} processes, and torchrun started {processes}: give "
            "--link to plan for others"
        )
    return find_hosts([range(h * each, (h + 1) * each) for h in range(count)])


def _subject(what: str, batch_size: int, folder: str | None, device: torch.device) -> Subject:
    if own.is_own(what, names.known_tasks()):
        if folder is not None:
            raise UserError(f"--data is for tasks only, and {what} is a function of your own")
        found = _own(what)
        if found is not None:
            return found
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
