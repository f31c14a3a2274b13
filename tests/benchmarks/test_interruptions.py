"""What was measured before something ended a benchmark is kept, and can be tabulated."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import guard
import local_step
import stragglers
from common import read_json, show
from grawa.errors import UserError
from processes import as_they_end, one_by_one, together
from samples import Samples


@dataclass(frozen=True)
class _Ending(Samples):
    """A file of samples whose measurement ends early."""

    error: type[BaseException]
    after: int

    def add(self, **sample: Any) -> None:
        _, found, _ = self.read()
        if len(found) == self.after:
            raise self.error
        super().add(**sample)


def _interrupted(folder: Path, error: type[BaseException], after: int) -> None:
    def measure(config: local_step.Config, samples: Samples) -> None:
        ending = _Ending(samples.path, error, after)
        for step in ("ResNet-20", "SGD"):
            for turn in range(2):
                ending.add(step=step, turn=turn, seconds={"bare": 1.0, "norms and pull": 1.5})

    replace(local_step.BENCHMARK, measure=measure).run(["--toy", "--out", str(folder)])


def test_sigterm_is_as_ctrl_c(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measure(config: local_step.Config, samples: Samples) -> None:
        samples.add(step="SGD", turn=0, seconds={"bare": 1.0, "norms and pull": 1.5})
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        replace(local_step.BENCHMARK, measure=measure).run(["--toy", "--out", str(tmp_path)])
    assert ended.value.code == 130
    assert "the 1 samples so far are in" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_leaves_the_samples_and_their_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "local_step.json"
    whole.write_text('{"seconds": "of the last whole run"}', encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        _interrupted(tmp_path, KeyboardInterrupt, after=3)
    assert ended.value.code == 130
    printed = capsys.readouterr().out
    assert f"the 3 samples so far are in {tmp_path / 'local_step.jsonl'}" in printed
    assert "norms and pull" in printed
    found = read_json(tmp_path / "local_step.interrupted.json")["seconds"]
    assert {step: len(variants["bare"]) for step, variants in found.items()} == {
        "ResNet-20": 2,
        "SGD": 1,
    }
    assert read_json(whole) == {"seconds": "of the last whole run"}


def test_an_error_is_raised_when_the_samples_have_been_tabulated(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _interrupted(tmp_path, ZeroDivisionError, after=2)
    found = read_json(tmp_path / "local_step.interrupted.json")["seconds"]
    assert len(found["ResNet-20"]["bare"]) == 2


def test_nothing_is_tabulated_before_there_are_samples(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _interrupted(tmp_path, ZeroDivisionError, after=0)
    assert not (tmp_path / "local_step.interrupted.json").exists()


def test_a_second_run_does_not_write_into_the_file_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"step": "SGD", "turn": 0, "seconds": {"bare": 1.0}}

    def measure(config: local_step.Config, samples: Samples) -> None:
        samples.add(**sample)
        with pytest.raises(SystemExit) as refused:
            _interrupted(tmp_path, ZeroDivisionError, after=0)
        assert refused.value.code == 2
        assert samples.read()[1] == [sample]

    replace(local_step.BENCHMARK, measure=measure).run(["--toy", "--out", str(tmp_path)])
    assert "another run is adding samples to" in capsys.readouterr().err
    assert read_json(tmp_path / "local_step.json")["seconds"] == {"SGD": {"bare": [1.0]}}


def test_results_of_stragglers_go_by_what_was_run_and_not_by_the_order_of_samples() -> None:
    config = stragglers.TOY
    samples = [
        {"clock": clock, **kind._asdict(), "found": {"samples": i, "error": 0.1}}
        for clock in ("real", "virtual")
        for i, kind in enumerate(stragglers.kinds(config))
    ]
    whole = stragglers.merge(config, samples)
    assert stragglers.merge(config, samples[::-1]) == whole
    missing = stragglers.merge(config, samples[1:])
    assert missing["kinds"] == whole["kinds"][1:]
    assert missing["real"] == whole["real"][1:]


@pytest.mark.parametrize("text", ["", "neither JSON\n", '{"step": 1}\n'])
def test_a_file_that_holds_no_samples_is_refused(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        local_step.main(["--tabulate", str(path)])
    assert ended.value.code == 2
    assert str(path) in capsys.readouterr().err


def test_what_can_not_be_measured_leaves_earlier_samples_alone(tmp_path: Path) -> None:
    samples = tmp_path / "guard.jsonl"
    samples.write_text("earlier", encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        guard.main(["--out", str(tmp_path), "--guard", "unknown=1"])
    assert ended.value.code == 2
    assert samples.read_text(encoding="utf-8") == "earlier"


def test_samples_that_are_kept_stand_before_new_ones(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "some.jsonl")
    for turn in (1, 2):
        asked = {"config": {}, "environment": {"run": turn}}
        with samples.begin(asked, lambda asked, found: (asked, found[:1])):
            samples.add(turn=turn)
            samples.add(turn=turn)
            samples.end()
    assert samples.read()[1:] == ([{"turn": 1}, {"turn": 2}, {"turn": 2}], True)


def test_an_interrupted_run_is_resumed_from_its_samples(tmp_path: Path) -> None:
    def measure(config: local_step.Config, samples: Samples) -> None:
        there = len(samples.read()[1])
        ending = _Ending(samples.path, KeyboardInterrupt, after=2 if there == 0 else 9)
        for turn in range(there, 3):
            ending.add(step="SGD", turn=turn, seconds={"bare": 1.0, "norms and pull": 1.5})

    benchmark = replace(
        local_step.BENCHMARK, measure=measure, resume=lambda config, _, found: (config, found)
    )
    words = ["--toy", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        benchmark.run(words)
    path = tmp_path / "local_step.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": "SGD", "turn": 2, "sec')  # cut off by a crash
    before = path.read_text(encoding="utf-8")
    benchmark.run([*words, "--resume"])
    assert path.read_text(encoding="utf-8").startswith(before)
    found = read_json(tmp_path / "local_step.json")
    assert len(found["seconds"]["SGD"]["bare"]) == 3
    assert len(found["environment"]["resumed"]) == 1


def test_samples_stay_when_none_can_be_kept(tmp_path: Path) -> None:
    def refuse(*_: object) -> Any:
        raise UserError("they are of another machine")

    samples = Samples(tmp_path / "some.jsonl")
    with samples.begin({}):
        samples.add(turn=1)
    with pytest.raises(UserError, match="another machine"), samples.begin({}, refuse):
        pass
    assert samples.read()[1] == [{"turn": 1}]


def test_a_benchmark_that_can_not_be_resumed_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        guard.main(["--toy", "--out", str(tmp_path), "--resume"])
    assert ended.value.code == 2
    assert "can't be resumed" in capsys.readouterr().err


def _fail_on_one(rank: int, meeting: str) -> None:
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    if rank == 1:
        raise UserError("the second one failed")
    dist.barrier()


@pytest.mark.world
def test_when_one_process_fails_all_end_and_its_error_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="the second one failed"):
        together(_fail_on_one, 2, (tmp_path / "rendezvous").as_uri())


def _square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("at_a_time", [1, pytest.param(2, marks=pytest.mark.world)])
def test_jobs_come_back_in_their_order(at_a_time: int) -> None:
    found = list(one_by_one(_square, [3, 1, 2], at_a_time, "squaring"))
    assert found == [(3, 9), (1, 1), (2, 4)]


@pytest.mark.parametrize("at_a_time", [1, pytest.param(2, marks=pytest.mark.world)])
def test_jobs_are_taken_when_they_can_begin(at_a_time: int) -> None:
    taken: list[int] = []

    def jobs() -> Iterator[int]:
        for job in range(-6, 0):
            taken.append(job)
            yield job

    found = as_they_end(_square, jobs(), at_a_time)
    first = next(iter(found))
    assert len(taken) <= at_a_time
    assert sorted([first, *found]) == [(job, job**2) for job in range(-6, 0)]


def test_tables_are_shown_on_a_terminal_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(written, encoding="ascii", write_through=True))
    show("error ± error", ["method", "mean ± error"], [["a", "1.0 ± 0.1"]])
    text = written.getvalue().decode("ascii")
    assert "1.0 +/- 0.1" in text and "mean +/- error" in text
