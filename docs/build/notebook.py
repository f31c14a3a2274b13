"""Runs docs/first_steps.ipynb and stores its output: python docs/build/notebook.py."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "first_steps.ipynb"

PATIENCE_SECONDS = 300
"""How long a cell may take."""


def executed() -> nbformat.NotebookNode:
    """The notebook with new output; raises what a cell raises."""
    notebook: nbformat.NotebookNode = nbformat.read(NOTEBOOK, as_version=4)
    about = dict(notebook.metadata)
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=PATIENCE_SECONDS,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,  # a line that is drawn anew is stored once
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = about  # without the version of Python
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream":
                output.text = _without_folders(output.text)
    return notebook


def _without_folders(text: str) -> str:
    """A text in which this machine's folders are left out before grawa's own."""
    return re.sub(r"(?m)^/\S*/(?=grawa/)", "", text)


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
