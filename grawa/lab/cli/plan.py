"""`grawa plan`: predicts the cost of a method and a `sync_every` before anything is trained."""

import importlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch.nn import Module
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.files import write_text
from grawa.lab.planning.measure import Subject, measure
from grawa.lab.report.plan import plan_json, plan_picture, plan_tables
from grawa.lab.simulate.network import Link, Network, network_of
from grawa.lab.train.sharing import deal, load
from grawa.lab.train.worker import Worker
from grawa.lab.units import share
from grawa.process_group import distributed, is_first_process, pick_device, under_launcher

STRATEGIES = ("lgrawa", "mgrawa", "local_sgd", "easgd", "lsgd", "diloco", "data_parallel")


def plan_command(
    what: tyro.conf.Positional[str],
    strategies: tuple[str, ...] = STRATEGIES,
    workers: int = 4,
    link: str | None = None,
    topology: Literal["ring", "mesh", "star"] = "ring",
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
    messages is computed from the link. Under torchrun the link between the processes is measured
    too.

    Args:
        what: A task, such as digits; or module:function for a function of your own that returns
            (model, optimizer, step, samples): step() makes a whole local step of so many samples.
        strategies: The methods, as in `grawa train --strategy`.
        workers: Number of workers; under torchrun the number of processes.
        link: Bandwidth and latency between workers, such as 100mbit:20ms; needed without torchrun.
        topology: How workers are connected.
        hosts: Hosts x workers on each, such as 2x4, if several workers share a host; --link and
            --topology are then those between hosts.
        inner_link: Bandwidth and latency between the workers of a host, such as 50gbit:5us.
        batch_size: Samples per worker and step, for a task.
        data: The folder or archive with the data, for a task that reads them.
        loss: The largest fraction of the time that may be spent waiting in rounds.
        device: cpu, cuda, or auto for a GPU if there is one.
        picture: A PNG file to draw the predictions in.
        out: A JSON file to write all numbers to.

    Raises:
        UserError: if an argument is invalid.
    """
    made = {name: names.strategy(name) for name in strategies}
    most_lost = share(loss, "loss")
    if most_lost >= 1.0:
        raise UserError(f"loss must be below 100%, got {loss!r}")
    with distributed(device) if under_launcher() else _here(device) as place:
        network = None
        if link is not None or not under_launcher():
            network = _network(link, topology, workers, hosts, inner_link)
        console = Console(quiet=not is_first_process())
        subject = _subject(what, batch_size, data, place)

        def show(text: str) -> object:
            return console.status(f"measuring {text}")

        measured = measure(subject, made, network, show)  # type: ignore[arg-type]
    if not is_first_process():
        return
    line = measured.network.link
    console.print(
        f"{measured.network.num_workers} workers, {measured.model_bytes / 4:,.0f} parameters, "
        f"{measured.step_seconds * 1e3:,.2f} ms a step; "
        f"{line.bandwidth * 8e-6:,.1f} Mbit/s and {line.latency * 1e3:,.2f} ms between "
        f"{'workers' if hosts is None else f'hosts, {hosts}'}"
        f"{' (measured)' if network is None else ''}, {measured.network.topology}"
    )
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


def _network(
    link: str | None,
    topology: Literal["ring", "mesh", "star"],
    workers: int,
    hosts: str | None,
    inner_link: str | None,
) -> Network:
    if link is None:
        raise UserError(
            "give the link between workers, such as --link 100mbit:20ms; or start this command "
            "with torchrun to measure the real link"
        )
    if workers < 2:
        raise UserError(f"a plan needs at least 2 workers, got {workers}")
    inner = None if inner_link is None else Link.parse(inner_link)
    return network_of(Link.parse(link), topology, workers, hosts, inner)


def _subject(what: str, batch_size: int, folder: str | None, device: torch.device) -> Subject:
    if ":" in what and what.split(":")[0] not in names.TASKS:
        if folder is not None:
            raise UserError(f"--data is for tasks only, and {what} is a function of your own")
        return _own(what)
    config = TrainConfig(task=what, workers=1, batch_size=batch_size)
    settings, task = config.settings(), names.task(what, folder)
    data = load(task, settings, device)
    worker = Worker(0, task, data, deal(task, data, settings)[0], settings, device)

    def step() -> None:
        worker.backward(1)
        worker.optimizer.step()

    return Subject(model=worker.model, optimizer=worker.optimizer, step=step, samples=batch_size)


def _own(what: str) -> Subject:
    """Calls the user's function, and checks what it returns."""
    module, _, name = what.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"there is no {what!r}: {error}; give a task, or module:function that can be imported "
            "from here"
        ) from None
    made = function()
    match made:
        case (Module() as model, Optimizer() as optimizer, step, int(samples)) if callable(step):
            chosen: Callable[[], object] = step
            return Subject(model=model, optimizer=optimizer, step=chosen, samples=samples)
    raise UserError(f"{what} must return (model, optimizer, step, samples), got {made!r:.100}")
