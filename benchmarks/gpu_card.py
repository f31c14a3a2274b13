"""The card that is measured: times that wait for it, and what it does meanwhile."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from grawa.math.host import wait_for

_MEASURED = "what is measured"
"""Marks it among the events that the profiler sees."""

_COPIES = 10
"""Copies of which the bandwidth is the median."""

_BROUGHT = "Memcpy HtoD", "Memcpy DtoH"
"""Names that the profiler gives to copies between host and device begin so."""


class Event(NamedTuple):
    """What the profiler has seen of one thing that host or device did."""

    name: str
    on_device: bool
    start: float
    """Microseconds."""
    end: float
    inside_operator: bool = False
    """Whether another operator has called it."""


class Activity(NamedTuple):
    """What happened while something ran."""

    operators: int
    """Of torch, called by the host, without those that operators call themselves."""
    kernels: int
    """On the device; copies inside it and fills count, too."""
    kernel_seconds: float
    """The kernels' own time, one after another."""
    copies: int
    """Between host and device."""
    waits: int
    """How often the host has waited for the device."""


def activity_of(events: Sequence[Event]) -> Activity:
    """Sums up the events of the part that is marked as measured."""
    mark = next(e for e in events if e.name == _MEASURED and not e.on_device)
    inside = [e for e in events if not e.on_device and mark.start <= e.start <= mark.end]
    device = [e for e in events if e.on_device and e.name != _MEASURED]
    kernels = [e for e in device if not e.name.startswith(_BROUGHT)]
    return Activity(
        operators=sum(e.name.startswith("aten::") and not e.inside_operator for e in inside),
        kernels=len(kernels),
        kernel_seconds=sum(e.end - e.start for e in kernels) * 1e-6,
        copies=len(device) - len(kernels),
        waits=sum(e.name.endswith("Synchronize") for e in inside),
    )


@dataclass(frozen=True)
class Card:
    """A device.

    Args:
        kind: "cuda", or "cpu".
    """

    kind: str

    @property
    def device(self) -> torch.device:
        """As torch knows it."""
        return torch.device(self.kind)

    @property
    def is_gpu(self) -> bool:
        """Whether it is not the host itself."""
        return self.kind != "cpu"

    @property
    def name(self) -> str:
        """The card's name."""
        return torch.cuda.get_device_name() if self.kind == "cuda" else self.kind

    def wait(self) -> None:
        """Until all that was asked of it is done."""
        wait_for(self.device)

    def timed(self, run: Callable[[], object]) -> float:
        """Seconds of a run, from an idle device until it is idle again."""
        self.wait()
        start = time.perf_counter()
        run()
        self.wait()
        return time.perf_counter() - start

    def watched(self, run: Callable[[], object]) -> Activity:
        """What happens in a run, according to torch's profiler."""
        activities = [ProfilerActivity.CPU]
        if self.kind == "cuda":
            activities.append(ProfilerActivity.CUDA)
        os.environ.setdefault("KINETO_LOG_LEVEL", "10")  # else it prints when it starts and stops
        self.wait()
        with profile(activities=activities) as seen:
            with record_function(_MEASURED):
                run()
            self.wait()
        return activity_of([
            Event(
                name=event.name,
                on_device=event.device_type.name != "CPU",
                start=event.time_range.start,
                end=event.time_range.end,
                inside_operator=event.cpu_parent is not None
                and event.cpu_parent.name.startswith("aten::"),
            )
            for event in seen.events() or ()
        ])

    def bytes_per_second(self, size: int) -> float:
        """The memory's bandwidth: of a copy, which reads and writes so many bytes each."""
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        seconds = [self.timed(lambda: target.copy_(source)) for _ in range(_COPIES)]
        return 2 * size / statistics.median(seconds)
