"""The command, run in this process."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.cli.main import main


@dataclass
class Ended:
    """How a command ended, run in this process."""

    code: int | str | None
    out: str
    err: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Any:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*args: str | Path) -> Ended:
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        return Ended(stop.value.code, *capfd.readouterr())

    return run
