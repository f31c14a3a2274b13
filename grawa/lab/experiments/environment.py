"""The environment of a measurement: command, date, machine, versions."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.records import read_record
from grawa.lab.shapes import mapping, optional, table, text, whole

PACKAGES = ("grawa", "torch", "numpy", "scikit-learn")

_SHAPE = table(
    {},
    {
        **dict.fromkeys(
            ("command", "time", "python", "git", "platform", "processor"), optional(text)
        ),
        "versions": optional(mapping(optional(text))),
        "cores": optional(whole()),
    },
)
"""Of `environment.json`."""


def environment(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """The environment of a run or a measurement.

    Args:
        packages: packages whose versions are recorded.

    Returns:
        Plain values; `None` for what is not known.
    """
    return {
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "git": _git_hash(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
    }


def read_environment(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Reads the `environment.json` of a run or a study.

    Args:
        folder: the folder with the file.

    Returns:
        The environment, empty if the file is missing or damaged; and a notice if it is damaged.
    """
    path = folder / "environment.json"
    if not path.exists():
        return {}, []
    try:
        return read_record(path, _SHAPE), []
    except UserError as error:
        return {}, [f"Command, versions and machine are not known: {error}."]


def version(package: str) -> str | None:
    """An installed package's version, or `None`."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _program() -> str:
    """The name of the program, without this machine's folders."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py":  # as `python -m grawa`
        return program.parent.name
    return program.name if program.is_absolute() else str(program)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _git_hash() -> str | None:
    """The commit of the running code, if it is in a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
