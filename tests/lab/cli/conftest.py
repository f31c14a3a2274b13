"""The command, run in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.cli.processes import Ended, grawa


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return grawa
