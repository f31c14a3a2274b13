"""A process's time of day, shifted."""

import runpy
import time
from pathlib import Path

import pytest

from grawa.lab.chaos import clock_hook


def test_time_of_day_follows_the_file_and_other_clocks_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("time", "time_ns", "clock_gettime"):
        monkeypatch.setattr(time, name, getattr(time, name))  # to put them back
    true, path = time.time, str(tmp_path / "clock")
    clock_hook.put(path, 0.0)
    monkeypatch.setenv(clock_hook.VARIABLE, path)
    runpy.run_path(clock_hook.__file__)  # as in a new process
    for seconds in (3600.0, -86_400.0, 0.0):
        clock_hook.put(path, seconds)
        assert time.time() - true() == pytest.approx(seconds, abs=1.0)
        assert time.time_ns() / 1e9 - true() == pytest.approx(seconds, abs=1.0)
        assert time.clock_gettime(time.CLOCK_REALTIME) - true() == pytest.approx(seconds, abs=1.0)
        monotonic = time.clock_gettime(time.CLOCK_MONOTONIC)
        assert monotonic == pytest.approx(time.monotonic(), abs=1.0)
