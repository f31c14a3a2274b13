"""How much memory something takes, by the operating system's own count (Linux)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

Built = TypeVar("Built")


class Extra(NamedTuple):
    """Bytes of memory that were not there before."""

    rest: int
    """Kept between runs."""
    peak: int
    """The most during a run, with what is kept."""


def measure(
    build: Callable[[], Built], prepare: Callable[[Built], object], run: Callable[[Built], object]
) -> tuple[Built, Extra]:
    """Builds something and measures what it keeps and what a run of it takes.

    Resident memory counts everything: tensors, the collective library's buffers, the allocator's
    leftovers; what several processes have mapped counts in equal parts for each. Freed memory is
    given back to the system first, so that its reuse is counted too. The first run is a warm-up,
    after which what is made lazily is there.

    Returns:
        What was built, and its memory.
    """
    _give_back()
    before = _own()
    built = build()
    prepare(built)
    run(built)
    prepare(built)
    _give_back()
    rest = _own() - before
    resident = _figure("status", "VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts anew
    run(built)
    return built, Extra(rest, rest + _figure("status", "VmHWM") - resident)


def _give_back() -> None:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _own() -> int:
    """Memory that is no file's, in this process's part."""
    return sum(_figure("smaps_rollup", field) for field in ("Pss_Anon", "Pss_Shmem"))


def _figure(file: str, field: str) -> int:
    lines = Path(f"/proc/self/{file}").read_text(encoding="utf-8").splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
