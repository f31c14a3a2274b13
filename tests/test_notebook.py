"""The notebook, executed in a real kernel, and what is stored of it."""

import re
import runpy
from pathlib import Path
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.world

DOCS = Path(__file__).parents[1] / "docs"

MOST_BYTES = 300_000
"""So that code hosts show it."""


def kinds(notebook: Any) -> list[set[str]]:
    """Which kinds of output each cell has."""
    return [{each.output_type for each in cell.get("outputs", ())} for cell in notebook.cells]


def printed(notebook: Any) -> str:
    """All that its cells have printed."""
    streams = (each for cell in notebook.cells for each in cell.get("outputs", ()))
    return "".join(each.text for each in streams if each.output_type == "stream")


def test_the_notebook_runs_and_what_is_stored_of_it_is_what_it_shows() -> None:
    path = DOCS / "first_steps.ipynb"
    stored = nbformat.read(path, as_version=4)
    assert path.stat().st_size < MOST_BYTES
    assert not re.search(r"(?m)^/", printed(stored)), "a folder of some machine"
    fresh = runpy.run_path(str(DOCS / "build" / "notebook.py"))["executed"]()
    assert kinds(fresh) == kinds(stored)
    for notebook in (fresh, stored):
        text = printed(notebook)
        assert "step 320 of 320 [####################] round 40" in text
        errors = [float(error) for error in re.findall(r"error ([\d.]+)%", text)]
        (equal, *others), (_, with_two_bad, processes) = errors[:3], errors[3:]
        assert max(others) < equal
        assert max(with_two_bad, processes) < 8.0
