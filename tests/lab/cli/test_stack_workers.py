"""`grawa train --stack-workers`, with and without a value, and what is left of the choice."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from grawa.lab.cli.study_config import StudyConfig
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.tasks import Data, Task
from grawa.lab.train import run
from grawa.lab.train.settings import Settings
from grawa.lab.train.stacking import Stacking, choose_stacking
from tests.lab.cli.processes import Ended
from tests.lab.train.test_stacking import clock_of

SMALL = ("--workers", "4", "--processes", "1", "--steps", "8", "--sync-every", "4")


@pytest.fixture
def stacking_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are long, and their stacked steps twice as fast."""

    def choose(
        task: Task,
        data: Data,
        settings: Settings,
        samples: list[tuple[int, Tensor]],
        _: int,
        before: bool | None,
    ) -> Stacking:
        clock = clock_of(0.03, 0.015)
        return choose_stacking(task, data, settings, samples, 250, before, clock=clock)

    monkeypatch.setattr(run, "choose_stacking", choose)


def option(run: str) -> str:
    return RunFolder(Path(run)).config().stack_workers


def said(done: Ended) -> list[str]:
    """What a command printed about local steps."""
    assert (done.code, done.err) == (0, "")
    return [line for line in done.out.splitlines() if line.startswith("local steps:")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--stack-workers", "quadratic"), "on"),
        (("quadratic", "--stack-workers"), "on"),
        (("quadratic", "--stack_workers"), "on"),
        (("quadratic", "--stack-workers", "on"), "on"),
        (("quadratic", "--stack-workers=off"), "off"),
        (("--no-stack-workers", "quadratic"), "off"),
    ],
)
@pytest.mark.usefixtures("stacking_is_faster")
def test_without_a_value_it_means_on(command: Any, words: tuple[str, ...], expected: str) -> None:
    assert said(command("train", *words, *SMALL, "--out", "run")) == []
    assert option("run") == expected


@pytest.mark.usefixtures("stacking_is_faster")
def test_the_choice_is_said_and_kept_and_repeated_untimed(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = command("train", "quadratic", *SMALL, "--out", "one", "--checkpoint-every", "1")
    line = "stacked (2.00 times as fast as one by one)"
    assert said(done) == [f"local steps: {line}"]
    first = RunFolder(Path("one")).events()[0]
    assert (first["stacked"], first["stacking"]) == (True, line)
    # By the real clock such a short run would be one by one.
    monkeypatch.setattr(run, "choose_stacking", choose_stacking)
    assert said(command("train", "--config", "one/config.toml", "--out", "two")) == []
    models = [Path(run, "model.safetensors") for run in ("one", "two")]
    whole, again = (path.read_bytes() for path in models)
    assert whole == again
    (Path("one") / "checkpoints" / "save-000002-round-00000002").rename("later")
    lines = Path("one/events.jsonl").read_text().splitlines(keepends=True)
    Path("one/events.jsonl").write_text("".join(lines[:-1]))  # without "finished"
    assert said(command("resume", "one")) == []
    assert models[0].read_bytes() == whole


def test_a_short_run_is_one_by_one(command: Any) -> None:
    done = command("train", "quadratic", *SMALL, "--out", "run")
    assert said(done) == ["local steps: one by one (the run is too short for a timed trial to pay)"]
    assert option("run") == "off"


def test_nothing_is_said_where_there_is_nothing_to_choose(command: Any) -> None:
    assert said(command("train", "quadratic", *SMALL, "--workers", "1", "--out", "run")) == []


@pytest.mark.parametrize(("old", "new"), [("true", "on"), ("false", "off")])
def test_files_of_earlier_versions_have_a_flag(command: Any, old: str, new: str) -> None:
    Path("old.toml").write_text(f'task = "quadratic"\nstack_workers = {old}\n')
    command("train", "--config", "old.toml", *SMALL, "--out", "run")
    assert option("run") == new


def test_the_runs_of_a_study_choose_nothing() -> None:
    assert StudyConfig(task="digits").base().stack_workers == "off"
    with_it = StudyConfig(task="digits", options=("stack_workers=true",)).base()
    assert with_it.stack_workers == "on"


def test_help_says_what_it_takes(command: Any) -> None:
    done = command("train", "--help")
    assert done.code == 0
    assert "--stack-workers auto|on|off" in done.out
    assert TrainConfig(task="digits").stack_workers == "auto"
