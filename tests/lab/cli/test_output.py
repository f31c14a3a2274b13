"""Output that can't be written, or has no letters for it, ends no training."""

import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from grawa.lab.cli.main import main
from grawa.lab.cli.output import forgiving_output
from grawa.lab.report.tables import Cell, Table, as_rich

FULL = Path("/dev/full")


def closed_pipe() -> IO[str]:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def ended(out: IO[str], err: IO[str], *args: str) -> int | str | None:
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main(args)
    out.close()
    return stop.value.code


TRAIN = ("train", "quadratic", "--workers", "1", "--steps", "64", "--out", "run")


@pytest.mark.parametrize("output", [lambda: FULL.open("w"), closed_pipe], ids=["full", "closed"])
@pytest.mark.parametrize(
    ("args", "code"), [(TRAIN, 0), (("strategies",), 1), (("--version",), 1), (("--help",), 1)]
)
def test_lost_output_is_said_and_costs_no_run(
    output: Callable[[], IO[str]],
    args: tuple[str, ...],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "errors").open("w+") as err:
        assert ended(output(), err, *args) == code
        err.seek(0)
        (line,) = err.read().splitlines()
    assert line.startswith("grawa: not all output could be written: ")
    assert (tmp_path / "run" / "model.safetensors").exists() == (args == TRAIN)


def test_the_exit_code_is_right_where_nothing_can_be_said(tmp_path: Path) -> None:
    with FULL.open("w") as err, (tmp_path / "output").open("w") as out:
        assert ended(out, err, "nonsense") == 2


def test_an_ascii_terminal_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "output"
    with path.open("wb") as file, (tmp_path / "errors").open("w") as err:
        out = TextIOWrapper(file, encoding="ascii")
        assert ended(out, err, *TRAIN[:3], "2", *TRAIN[4:], "--processes", "1") == 0
    text = path.read_text(encoding="ascii")
    assert re.search(r"step 64/64  round 2 .* weights [_.=+*%#-]{2} ", text)
    assert "?" not in text


def in_ascii(show: Callable[[], None]) -> str:
    """What arrives in an ASCII terminal."""
    out = TextIOWrapper(BytesIO(), encoding="ascii")
    with redirect_stdout(out), forgiving_output():
        show()
    out.seek(0)
    return out.read()


def test_a_table_keeps_its_columns_in_an_ascii_terminal() -> None:
    table = Table(
        name="errors", title="±", columns=[("method", False), ("error ± SE", True)],
        rows=[[Cell(text="a"), Cell(text="1.00 ± 0.10")], [Cell(text="b"), Cell(text="-")]],
    )  # fmt: skip
    shown = in_ascii(lambda: Console(width=60).print(as_rich(table)))
    title, *lines = shown.rstrip("\n").split("\n")
    assert title.strip() == "+/-"
    assert "1.00 +/- 0.10" in lines[3]
    assert len({len(line) for line in lines}) == 1


def test_letters_that_nothing_looks_like_are_marked() -> None:
    assert in_ascii(lambda: print("rêve \ud800 ⠋…")) == "r?ve ? \\~\n"


def test_after_a_loss_nothing_is_raised_and_streams_are_put_back() -> None:
    with FULL.open("w") as full, redirect_stdout(full):
        with forgiving_output() as output:
            for _ in range(3):
                print("lost", flush=True)
        assert output is not None
        assert isinstance(output.error, OSError)
        assert sys.stdout is full


def test_closed_output_stays_closed() -> None:
    with redirect_stdout(None), forgiving_output() as output:
        print("nowhere")
        assert output is None
