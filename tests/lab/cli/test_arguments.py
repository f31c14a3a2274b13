"""What a function's signature makes of a command line."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest

from grawa.errors import UserError
from grawa.lab.cli.arguments import arguments_of
from grawa.lab.cli.parsing import parsed


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A wire.

    Attributes:
        link: Its bandwidth.
        length: In metres.
    """

    link: str = "1gbit"
    length: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options."""

    task: Annotated[str | None, "[TASK]"] = None
    """What is trained."""

    rounds: int = 3
    """How many."""

    loud: bool = False
    """Print more."""

    guard: bool = True
    """Keep others out."""

    fault: Annotated[tuple[str, ...], "FAULT"] = ()
    """Faults, one by one."""

    options: tuple[str, ...] = ("a", "b")
    """Several in a row."""

    wire: Wire = Wire(length=5.0)
    """The wire."""


def do(asked: Asked, from_file: Annotated[Path | None, "--config", "FILE"] = None) -> None:
    """Do it.

    Args:
        asked: the options.
        from_file: A file.
    """
    SEEN.append((asked, from_file))


SEEN: list[tuple[Asked, Path | None]] = []


def asked(*words: str) -> tuple[Asked, Path | None]:
    parsed("grawa do", do, words, {})()
    return SEEN.pop()


LINES: dict[str, tuple[Asked, Path | None]] = {
    "": (Asked(), None),
    "digits": (Asked(task="digits"), None),
    "--rounds 5 digits --loud": (Asked(task="digits", rounds=5, loud=True), None),
    "--rounds=5 --rounds 6": (Asked(rounds=6), None),
    "--loud --no-loud --no-guard": (Asked(guard=False), None),
    "--fault nan:0@1 digits --fault x": (Asked(task="digits", fault=("nan:0@1", "x")), None),
    "digits --options c d --options e": (Asked(task="digits", options=("c", "d", "e")), None),
    "--link 5mbit": (Asked(wire=Wire(link="5mbit", length=5.0)), None),
    "--length 25%": (Asked(wire=Wire(length=0.25)), None),
    "--config a_b.toml": (Asked(), Path("a_b.toml")),
}


@pytest.mark.parametrize("line", LINES)
def test_a_line_is_read_as_it_is_declared(line: str) -> None:
    assert asked(*line.split()) == LINES[line]


REFUSED = {
    "--rounds five": "--rounds must be a whole number, got 'five'; see `grawa do --help`",
    "--rounds 2.5": "--rounds must be a whole number, got '2.5'",
    "--length far": "--length must be a finite number, got 'far'",
    "--round 5": r"there is no option --round \(did you mean --rounds\?\)",
    "--loud=yes": "--loud: ignored explicit argument 'yes'",
    "digits text": "there is one argument too many: 'text'",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_said(line: str) -> None:
    with pytest.raises(UserError, match=REFUSED[line]):
        asked(*line.split())


def test_what_has_no_default_must_be_given() -> None:
    def show(run: Path, axis: Literal["time", "steps"]) -> None:
        """Show."""

    command: Callable[..., None] = show
    assert [argument.metavar for argument in arguments_of(command)] == ["PATH", "time|steps"]
    with pytest.raises(UserError, match=r"^time\|steps is missing; see `grawa show --help`"):
        parsed("grawa show", command, ["runs/x"], {})


def test_help_has_parts_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        asked("--help")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: grawa do [TASK] [options]"
    told = [" ".join(line.split()) for line in lines]
    for expected in (
        "arguments:", "TASK What is trained.", "--rounds N How many. (default: 3)",
        "--loud Print more.", "--guard, --no-guard", "wire:",
        "--length X In metres. (default: 5)", "--config FILE A file.",
    ):  # fmt: skip
        assert any(line.startswith(expected) for line in told), expected
