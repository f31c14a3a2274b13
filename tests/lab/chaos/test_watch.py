"""A job's record and logs, read as they grow."""

import json
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.chaos.watch import Logs, Watch


def line(kind: str, round: int, **values: Any) -> str:
    event = {"kind": kind, "round": round, "step": 32 * round, "elapsed": 0.5 * round}
    return json.dumps({**event, "left_out": {}, **values}) + "\n"


def rounds(*numbers: int) -> str:
    return "".join(line("round", number) for number in numbers)


def test_a_record_is_followed_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path)
    watch.look()
    assert watch.mark().starts == 0
    path.write_text(line("started", 0) + rounds(1, 2) + '{"kind": "rou')
    watch.look()
    assert (watch.starts, watch.round, watch.step) == (1, 2, 64)
    assert watch.round_seconds == pytest.approx(0.5)
    with path.open("a") as file:
        file.write('nd", "round": 3, "step": 96, "elapsed": 1.6, "left_out": {}}\n')
    watch.look()
    assert watch.round == 3
    assert watch.finished is None


def test_without_a_restart_the_round_after_the_next_surely_began_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path)
    path.write_text(line("started", 0) + rounds(1, 2))
    watch.look()
    mark = watch.mark()
    for number, goes_on in ((3, False), (4, True)):
        with path.open("a") as file:
            file.write(rounds(number))
        watch.look()
        assert watch.goes_on_since(mark) is goes_on
    assert watch.lost_since(mark) == 0


def test_elastic_workers_that_come_late_are_no_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path)
    begun = line("started", 0, job="a")
    late = line("started", 2, job="a", late=True)
    path.write_text(begun + rounds(1) + begun + rounds(2) + late + rounds(3))
    watch.look()
    assert (watch.starts, watch.round, watch.continued_from) == (1, 3, 0)
    with path.open("a") as file:
        file.write(line("started", 3, job="b"))
    watch.look()
    assert (watch.starts, watch.round, watch.continued_from) == (2, 3, 3)


def test_after_a_restart_a_round_counts_that_its_checkpoint_did_not_have(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path)
    path.write_text(line("started", 0) + rounds(1, 2, 3, 4, 5, 6))
    watch.look()
    mark = watch.mark()
    replaced = tmp_path / "new"  # as a run does that continues: later rounds are forgotten
    replaced.write_text(line("started", 0) + rounds(1, 2, 3) + line("started", 4) + rounds(4))
    replaced.rename(path)
    watch.look()
    assert watch.starts == 2
    assert not watch.goes_on_since(mark)  # round 4 was made before, and is told again
    with path.open("a") as file:
        file.write(rounds(5))
    watch.look()
    assert watch.goes_on_since(mark)
    assert watch.lost_since(mark) == 2 * 32


def test_a_worker_that_is_left_out_is_seen_also_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    watch = Watch(path)
    out = line("round", 2, left_out={"3": "not finite"})
    path.write_text(line("started", 0) + rounds(1) + out)
    watch.look()
    mark = watch.mark()
    assert not watch.goes_on_since(mark)
    with path.open("a") as file:
        file.write(rounds(3, 4))
    watch.look()
    assert watch.goes_on_since(mark)
    assert watch.left_out_after(1, 3) == "not finite"
    assert watch.left_out_after(2, 3) == ""
    assert watch.left_out_after(1, 0) == ""


def test_logs_are_read_without_progress(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    path = tmp_path / "attempt-00-host-0.log"
    path.write_text("[default0]:step 96/960  round 3  loss 0.1\n\nstep 1/9  round 1\nrank 1 fai")
    assert logs.new_lines() == []
    with path.open("a") as file:
        file.write("led: killed by SIGKILL\n")
    assert logs.new_lines() == ["rank 1 failed: killed by SIGKILL"]
    assert logs.new_lines() == []


def test_the_last_error_of_a_worker_is_found_among_all_that_is_printed(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    assert logs.last_error().startswith("no error was printed")
    path = tmp_path / "attempt-00-host-0.log"
    path.write_text(
        "[default1]:Traceback (most recent call last):\n"
        '[default1]:  File "mine.py", line 3, in train\n'
        "[default1]:ValueError: my data are missing\n"
        "Root Cause:\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n"
    )
    assert logs.last_error() == f"ValueError: my data are missing (see {tmp_path})"
