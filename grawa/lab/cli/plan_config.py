"""The options of `grawa plan`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from grawa.durations import seconds
from grawa.errors import UserError
from grawa.lab.units import count, share

STRATEGIES = ("lgrawa", "mgrawa", "local_sgd", "easgd", "lsgd", "diloco", "data_parallel")

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model and its training in numbers, in place of a task.

    Attributes:
        parameters: Number of parameters, such as 124M, 1.5B or 25557032. Nothing is measured then,
            and what workers compute in a round is left out.
        step_time: Time of a local step without communication, such as 300ms.
        dtype: The parameters' dtype, in which they are sent.
    """

    parameters: Annotated[str | None, "COUNT"] = None
    step_time: Annotated[str | None, "TIME"] = None
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
        workers: Number of workers; by default as many as --hosts has or torchrun started, or 4.
        link: Bandwidth and latency between workers, such as 100mbit:20ms. It is needed unless
            torchrun has started this command: then the real links are measured without it.
        topology: How workers are connected. Measured links are those of a mesh.
        hosts: Number of hosts x workers on each, such as 2x4, if several workers share a host. The
            link and the topology are then those between hosts. When links are measured, processes
            that share a machine and its network are on one host, unless this says otherwise.
        inner_link: Bandwidth and latency between the workers of a host, such as 50gbit:5us. Without
            it, messages inside hosts take no time.
    """

    workers: int | None = None
    link: Annotated[str | None, "BANDWIDTH:LATENCY"] = None
    topology: Literal["ring", "mesh", "star"] = "ring"
    hosts: Annotated[str | None, "HOSTSxWORKERS"] = None
    inner_link: Annotated[str | None, "BANDWIDTH:LATENCY"] = None


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How a task is measured.

    Attributes:
        batch_size: Samples per worker and step; by default 16 for a task. Without a task, it adds
            samples per second to what is shown.
        data: The folder or archive with the data, for a task that reads them.
        device: Where steps, rounds and links are measured: cpu, cuda, or auto for a GPU if there is
            one.
    """

    batch_size: int | None = None
    data: Annotated[str | None, "PATH"] = None
    device: str = "auto"


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Files to write.

    Attributes:
        picture: A PNG file to draw the predictions in.
        out: A JSON file to write the answer and all numbers to.
    """

    picture: Annotated[Path | None, "PATH"] = None
    out: Annotated[Path | None, "PATH"] = None


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
        strategies: The methods, as in `grawa train --strategy`, or with a score:
            lgrawa:score=training. The answer is for the first of them.
        loss: The largest share of the time that may be lost in rounds.
    """

    what: Annotated[str | None, "[TASK]"] = None
    model: ModelOptions = ModelOptions()
    network: NetworkOptions = NetworkOptions()
    task: TaskOptions = TaskOptions()
    output: OutputOptions = OutputOptions()
    strategies: Annotated[tuple[str, ...], "METHOD..."] = STRATEGIES
    loss: Annotated[str, "SHARE"] = "5%"

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
