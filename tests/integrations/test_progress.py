"""How far training is: a line that is drawn anew where it can be, and few lines elsewhere."""

from io import StringIO

import pytest

import grawa
from grawa.integrations import Progress
from tests.helpers import Fleet, batches


class Terminal(StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


class Closed(StringIO):
    """Output that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def shown(file: StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is shown of six rounds, one of which is the last."""
    monkeypatch.setattr("grawa.integrations.progress._REDRAW_SECONDS", 0.0)
    fleet, progress = Fleet(2), Progress(12, file=file)
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=progress
    ) as averager:
        fleet.train(batches(12, 2), averager)
    return file.getvalue()


def test_a_terminal_shows_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    begin, *lines = shown(Terminal(), monkeypatch).split("\r")
    assert begin == "" and len(lines) == 6
    assert lines[0].startswith("step 2 of 12 [###.................] round 1, loss ")
    assert lines[-1].startswith("step 12 of 12 [####################] round 6, loss ")
    assert [line.count("\n") for line in lines] == [0, 0, 0, 0, 0, 1]
    assert max(map(len, lines)) <= 60


def test_a_log_gets_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = shown(StringIO(), monkeypatch).splitlines()
    assert first.startswith("step 2 of 12 ") and last.startswith("step 12 of 12 ")


def test_training_goes_on_where_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(Closed(), monkeypatch) == ""


def test_only_the_first_process_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grawa.integrations.progress.is_first_process", lambda: False)
    assert shown(StringIO(), monkeypatch) == ""


def test_there_must_be_steps() -> None:
    with pytest.raises(grawa.UserError, match="total_steps must be a whole number, at least 1"):
        Progress(0)
