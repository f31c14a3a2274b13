"""A function of one's own under `grawa chaos`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from grawa.errors import UserError
from grawa.lab.chaos.commands import Size
from grawa.lab.chaos.own import Journal, function, main
from grawa.lab.chaos.subject import FunctionSubject
from grawa.lab.chaos.watch import Watch
from grawa.rounds.report import RoundReport


def report(number: int) -> RoundReport:
    """The report of a round."""
    return RoundReport(
        round=number,
        fragment=0,
        step=32 * number,
        weights=None,
        scores=None,
        losses=torch.zeros(2),
        steps_made=torch.full((2,), 32),
        consensus_distance=None,
        left_out={},
        bytes_sent=0,
        elapsed=0.5 * number,
        compute_seconds=0.4,
        wait_seconds=0.0,
        round_seconds=0.1,
        exposed_seconds=0.1,
    )


def good(folder: Path, on_round: Callable[[RoundReport], None]) -> float:
    for number in (1, 2, 3):
        on_round(report(number))
    return 0.25


def no_number(folder: Path, on_round: Callable[[RoundReport], None]) -> None:
    """Returns nothing."""


def test_rounds_and_the_final_error_are_kept(tmp_path: Path) -> None:
    subject = FunctionSubject(size=Size(hosts=1, workers=2), what=f"{__name__}:good")
    run = tmp_path / "disturbed" / "run"
    main(subject.what, str(run), str(subject.record(run, run)))
    found = subject.result(run)
    assert (found.error, list(found.rounds)) == (0.25, [1, 2, 3])


def test_a_restart_is_on_record_from_its_first_round_on(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    before, after, watch = Journal(path), Journal(path), Watch(path)
    for number in (1, 2, 3, 4):
        before.note(report(number))
    watch.look()
    mark = watch.mark()
    after.note(report(3))  # from a checkpoint of round 2
    watch.look()
    assert watch.continued_from == 2
    assert watch.goes_on_since(mark)
    assert json.loads(path.read_text().splitlines()[0]) == {"kind": "started", "round": 0}


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("math", "names nothing"),
        ("math:", "names nothing"),
        (":", "names nothing"),
        ("none:train", "there is no module 'none'"),
        ("math:sqrt", "can't be called with a folder"),
        ("json:JSON", "json has no 'JSON'"),
    ],
)
def test_what_is_no_such_function_is_refused(what: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        function(what)


def test_a_function_that_returns_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must return the final error, a finite number, got None"):
        main(f"{__name__}:no_number", str(tmp_path), str(tmp_path / "journal"))
