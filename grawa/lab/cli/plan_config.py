"""The options of `grawa plan`, and the network that they describe."""

import os
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import torch.distributed as dist
import tyro

from grawa.durations import seconds
from grawa.errors import UserError
from grawa.lab.planning.links import Hosts, find_hosts
from grawa.lab.report.console import in_words
from grawa.lab.shapes import shown
from grawa.lab.simulate.network import Link, Network, Topology, network_of, parse_hosts
from grawa.lab.units import count, share
from grawa.process_group import under_launcher

STRATEGIES = ("lgrawa", "mgrawa", "local_sgd", "easgd", "lsgd", "diloco", "data_parallel")

WORKERS = 4

_MOST_WORKERS = 2048
"""Their messages are counted with N numbers for each of N workers: in some seconds for so many."""

_MOST_SAMPLES = 10**9

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}

_EXAMPLE = "grawa plan --parameters 124M --step-time 300ms --link 1gbit:1ms"


def _option(metavar: str, hint: str = "") -> Any:
    """How an option without a default value is shown in the help."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint and f"({hint})")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model and its training in numbers, in place of a task.

    Attributes:
        parameters: Number of parameters, such as 124M, 1.5B or 25557032. Nothing is measured then,
            and what workers compute in a round is left out.
        step_time: Time of a local step without communication, such as 300ms.
        dtype: The parameters' dtype, in which they are sent.
    """

    parameters: Annotated[str | None, _option("COUNT")] = None
    step_time: Annotated[str | None, _option("TIME")] = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @property
    def given(self) -> list[str]:
        """The options that differ from their defaults, as they are written."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]

    def numbers(self) -> tuple[int, float, float]:
        """What replaces a task.

        Returns:
            Number of parameters, bytes of each, and seconds of a local step.

        Raises:
            UserError: if one is invalid.
        """
        assert self.parameters is not None and self.step_time is not None, "both were required"
        step_seconds = seconds(self.step_time, "--step-time")
        if step_seconds <= 0.0:
            raise UserError(f"--step-time must be positive, got {self.step_time!r}")
        return count(self.parameters, "--parameters"), _BYTES[self.dtype], step_seconds


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """The network between the workers.

    Attributes:
        workers: Number of workers.
        link: Bandwidth and latency between workers, such as 100mbit:20ms. It is needed unless
            torchrun has started this command: then the real links are measured without it.
        topology: How workers are connected. Measured links are those of a mesh.
        hosts: Number of hosts x workers on each, such as 2x4, if several workers share a host. The
            link and the topology are then those between hosts. When links are measured, processes
            that share a machine and its network are on one host, unless this says otherwise.
        inner_link: Bandwidth and latency between the workers of a host, such as 50gbit:5us. Without
            it, messages inside hosts take no time.
    """

    workers: Annotated[
        int | None, _option("INT", "default: as many as --hosts has or torchrun started, or 4")
    ] = None
    link: Annotated[str | None, _option("BANDWIDTH:LATENCY")] = None
    topology: Topology = "ring"
    hosts: Annotated[str | None, _option("HOSTSxWORKERS")] = None
    inner_link: Annotated[str | None, _option("BANDWIDTH:LATENCY")] = None

    def network(self) -> Network | Hosts:
        """The network that is described; or the ranks of each host, to measure between."""
        if self.link is None:
            if not under_launcher():
                raise UserError(
                    "give the link between workers, such as --link 100mbit:20ms; or start this "
                    "command with torchrun to measure the real link"
                )
            return self._ranks()
        workers = self.workers
        if workers is None:
            running = int(os.environ["WORLD_SIZE"]) if under_launcher() else 1
            workers = WORKERS if running == 1 else running
            workers = workers if self.hosts is None else prod(parse_hosts(self.hosts))
        if workers < 2:
            raise UserError(f"a plan needs at least 2 workers, got {workers}")
        if workers > _MOST_WORKERS:
            raise UserError(
                f"a plan is made for at most {_MOST_WORKERS} workers, got {shown(workers)}"
            )
        inner = None if self.inner_link is None else Link.parse(self.inner_link)
        return network_of(Link.parse(self.link), self.topology, workers, self.hosts, inner)

    def _ranks(self) -> Hosts:
        """The ranks of each host, between which links are measured; collective."""
        processes = dist.get_world_size()
        if self.inner_link is not None:
            raise UserError("--inner-link needs --link; without both, torchrun measures both links")
        if self.workers not in (None, processes):
            raise UserError(
                f"links are measured between the {processes} processes that torchrun started, and "
                f"{self.workers} workers were asked for: give --link to plan for others"
            )
        if self.hosts is None:
            return find_hosts()
        number, each = parse_hosts(self.hosts)
        if number * each != processes:
            raise UserError(
                f"{self.hosts} hosts have {number * each} processes, and torchrun started "
                f"{processes}: give --link to plan for others"
            )
        return find_hosts([range(h * each, (h + 1) * each) for h in range(number)])


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is measured.

    Attributes:
        batch_size: Samples per worker and step. Without a task, it adds samples per second to what
            is shown.
        data: The folder or archive with the data, for a task that reads them.
        device: Where steps, rounds and links are measured: cpu, cuda, or auto for a GPU if there is
            one.
    """

    batch_size: Annotated[int | None, _option("INT", "default: 16 for a task")] = None
    data: Annotated[str | None, _option("PATH")] = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Files to write.

    Attributes:
        picture: A PNG file to draw the predictions in.
        out: A JSON file to write the answer and all numbers to.
    """

    picture: Annotated[Path | None, _option("PATH")] = None
    out: Annotated[Path | None, _option("PATH")] = None


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The options of `grawa plan`.

    Attributes:
        what: A task to measure, such as digits; or module:function for a function of your own that
            returns (model, optimizer, step, samples), in which step() makes a whole local step of
            so many samples. Without it, --parameters and --step-time take its place.
        model: The model and its training in numbers, in place of a task.
        network: The network between the workers.
        task: How a task is measured.
        output: Files to write.
        strategies: The methods, as in `grawa train --strategy`. The answer is for the first of
            them.
        loss: The largest share of the time that may be lost in rounds.
    """

    what: Annotated[tyro.conf.Positional[str | None], _option("[TASK]")] = None
    model: tyro.conf.OmitArgPrefixes[ModelOptions] = ModelOptions()
    network: tyro.conf.OmitArgPrefixes[NetworkOptions] = NetworkOptions()
    task: tyro.conf.OmitArgPrefixes[TaskOptions] = TaskOptions()
    output: tyro.conf.OmitArgPrefixes[OutputOptions] = OutputOptions()
    strategies: tuple[str, ...] = STRATEGIES
    loss: str = "5%"

    @property
    def shared(self) -> tuple[object, ...]:
        """The options that must be the same on every rank."""
        return self.what, self.model, self.network, self.strategies, self.task.batch_size, self.loss

    def most_lost(self) -> float:
        """The largest fraction of the time that may be lost."""
        found = share(self.loss, "loss")
        if found >= 1.0:
            raise UserError(f"loss must be below 100%, got {self.loss!r}")
        return found

    def check(self) -> None:
        """Raises `UserError` unless there is either a task, or all numbers that replace one."""
        self.most_lost()
        if not self.strategies:
            raise UserError("strategies must name at least one, such as lgrawa")
        if self.what is not None:
            if self.model.given:
                raise UserError(
                    f"a task is measured, and {in_words(self.model.given)} would take its place: "
                    f"leave out either {self.what} or {in_words(self.model.given)}"
                )
            return
        needed = {"--parameters": self.model.parameters, "--step-time": self.model.step_time}
        if not under_launcher():
            needed["--link"] = self.network.link
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise UserError(
                f"give {in_words(missing)}, as in `{_EXAMPLE}`; or name a task to measure, as in "
                "`grawa plan digits --link 1gbit:1ms`"
            )
        if self.task.data is not None:
            raise UserError("--data is for tasks only, and no task is named")
        batch_size = self.task.batch_size
        if batch_size is not None and not 1 <= batch_size <= _MOST_SAMPLES:
            raise UserError(
                f"batch_size must be from 1 to {_MOST_SAMPLES}, got {shown(batch_size)}"
            )
