"""Measures memory as counted by the operating system (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

Built = TypeVar("Built")


class Extra(NamedTuple):
    """Additional bytes of memory."""

    rest: int
    """Between runs."""
    peak: int
    """The maximum during a run, including `rest`."""


def measure(
    build: Callable[[], Built], prepare: Callable[[Built], object], run: Callable[[Built], object]
) -> tuple[Built, Extra]:
    """Builds an object, and measures the memory that it keeps and the memory that a run needs.

    Resident memory includes everything: tensors, buffers of the collective library, unused memory
    of the allocator. Memory shared by several processes counts in equal parts for each. Freed
    memory is returned to the system first, so that its reuse is counted too. The first run is a
    warm-up, after which lazily created buffers exist.

    Returns:
        The object, and its memory.
    """
    _give_back()
    before = own_bytes()
    built = build()
    prepare(built)
    run(built)
    prepare(built)
    _give_back()
    rest = own_bytes() - before
    resident = _figure("status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    run(built)
    return built, Extra(rest, rest + _figure("status", "VmHWM") - resident)


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def own_bytes() -> int:
    """This process's share of memory that is not backed by files."""
    return sum(_figure("smaps_rollup", field) for field in ("Pss_Anon", "Pss_Shmem"))


def _figure(file: str, field: str) -> int:
    lines = Path(f"/proc/self/{file}").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
