"""A page: facts, tested claims, tables and pictures, in one file that needs no network."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from grawa.lab.files import write_text
from grawa.lab.report.drawing import Picture
from grawa.lab.report.tables import Cell, Table
from grawa.lab.report.verdicts import Verdict

_FEW = 5
"""Most undecided claims that are shown openly; more are folded."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading.
        pictures: shown before the tables.
        tables: shown after the pictures.
        folded: whether it is closed at first.
    """

    title: str
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of a page on a run or a study.

    Attributes:
        title: its heading.
        answer: sentences that say what came out, before everything else.
        subtitle: a sentence that describes it.
        notices: what a reader must know first, such as missing trials.
        verdicts: heading -> tested claims; those of the first heading are open.
        sections: everything else.
        facts: command, versions, machine, date.
    """

    title: str
    answer: Sequence[str] = ()
    subtitle: str
    notices: Sequence[str] = ()
    verdicts: Mapping[str, Sequence[Verdict]] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def first_lines(self) -> list[str]:
        """The lines with which a terminal begins: the answer, and the notices."""
        return [*self.answer, *(f"note: {notice}" for notice in self.notices)]


def write_page(pages: Sequence[Page], path: Path) -> Path:
    """Writes one or several pages to one file.

    Args:
        pages: the pages.
        path: the file.

    Returns:
        The path.
    """
    environment = Environment(
        loader=PackageLoader("grawa.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(sort_key=_sort_key, tally=tally, decided=_decided, few=_FEW)
    text = environment.get_template("report.html").render(pages=pages)
    write_text(path, text)
    return path


def _sort_key(cell: Cell) -> str:
    """The key by which a column is sorted: a number, or nothing if there is none."""
    return "" if cell.value is None or math.isnan(cell.value) else repr(float(cell.value))


def _decided(verdicts: Sequence[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """Splits verdicts into decided ones (supported or contradicted) and all others."""
    parts: tuple[list[Verdict], list[Verdict]] = ([], [])
    for one in verdicts:
        parts[one.outcome not in {"supported", "contradicted"}].append(one)
    return parts


def tally(verdicts: Sequence[Verdict]) -> str:
    """The number of claims with each outcome, as text."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())


def facts_of(about: Mapping[str, Any]) -> dict[str, str]:
    """Command, versions, machine and date from an `environment.json`."""
    versions = about.get("versions") or {}
    machine = (about.get("processor"), f"{about.get('cores')} cores", about.get("platform"))
    known = {
        "command": about.get("command"),
        "date": about.get("time"),
        "python": about.get("python"),
        "versions": ", ".join(f"{name} {found}" for name, found in versions.items() if found),
        "code": about.get("git"),
        "machine": ", ".join(str(part) for part in machine if part),
    }
    return {name: str(value) for name, value in known.items() if value}
