"""Which norms `mgrawa` and `lgrawa` have where no score is named: now, and in older files."""

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import tomli_w

from grawa.lab.cli.config_file import config_from
from grawa.lab.cli.plan_scores import planned, with_probes
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.identity import identity
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.score import ScoreChoice
from grawa.lab.experiments.usual_score import BY_PROBE, usual_score
from grawa.lab.planning.costs import given
from grawa.lab.planning.predict import Variant, predict
from grawa.lab.simulate.network import Link, Network
from grawa.lab.tasks import Digits, Quadratic, Task, Wells
from grawa.scores import GradientNorms, ProbeNorms, TrainingLoss
from grawa.strategies import LSGD, MGRAWA
from tests.lab.cli.processes import grawa

RUN = (
    *("train", "digits:train_size=200", "--strategy", "mgrawa", "--processes", "1"),
    *("--workers", "2", "--steps", "12", "--sync-every", "4", "--checkpoint-every", "1"),
    *("--stack-workers", "off"),
)


def trained(out: Path, *options: str) -> RunFolder:
    done = grawa(*RUN, *options, "--out", out)
    assert done.code == 0, done.err
    return RunFolder.open(out)


def same(one: RunFolder, other: RunFolder) -> bool:
    ours, theirs = one.load_model(), other.load_model()
    return all(bool((ours[name] == theirs[name]).all()) for name in ours)


def used(task: Task, **options: Any) -> object:
    config = TrainConfig(task="digits", **options)
    return strategy_for(config, task, task.data(0)).score


@pytest.mark.parametrize(
    "task", [Digits(), Quadratic(), Wells()], ids=lambda task: type(task).__name__
)
@pytest.mark.parametrize("name", BY_PROBE)
def test_a_strategy_by_norms_has_those_of_a_probe_on_every_task(name: str, task: Task) -> None:
    score = used(task, strategy=f"{name}:pull=1")
    assert isinstance(score, ProbeNorms)
    batch = score.batch(3)
    assert len(batch[0]) == 64
    assert all(bool((a == b).all()) for a, b in zip(batch, score.batch(3), strict=True))
    assert used(task, strategy=name, score="training") == GradientNorms()


def test_other_strategies_keep_their_own_score(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from grawa import MGRAWA\n")
    assert used(Digits(), strategy=f"{tmp_path}/mine.py:MGRAWA") == GradientNorms()
    assert used(Digits(), strategy="lsgd") == TrainingLoss()
    assert (MGRAWA().score, LSGD().score) == (GradientNorms(), TrainingLoss())


def test_options_of_the_score_are_those_of_the_probe() -> None:
    score = used(Digits(), strategy="MGRAWA:score.decay=0.25")
    assert isinstance(score, ProbeNorms)
    assert score.decay == pytest.approx(0.25)


def test_training_uses_the_probe_and_its_folder_names_it(tmp_path: Path) -> None:
    usual = trained(tmp_path / "usual")
    assert tomllib.loads((usual.path / "config.toml").read_text())["score"] == "probe"
    assert same(usual, trained(tmp_path / "probe", "--score", "probe"))
    assert not same(usual, trained(tmp_path / "training", "--score", "training"))


def without_score(config: TrainConfig) -> Mapping[str, object]:
    return {name: value for name, value in identity(config).items() if name != "score"}


def test_an_older_run_without_a_score_goes_on_with_training_norms(tmp_path: Path) -> None:
    with patch("grawa.lab.cli.process.identity", without_score):
        whole = trained(tmp_path / "whole", "--score", "training")
    older = tmp_path / "older"
    shutil.copytree(whole.path, older)
    config = (older / "config.toml").read_text()
    (older / "config.toml").write_text(config.replace('score = "training"\n', ""))
    (older / "model.safetensors").unlink()
    first, *later = sorted((older / "checkpoints").iterdir())
    for path in later:
        shutil.rmtree(path)
    lines = (older / "events.jsonl").read_text().splitlines(keepends=True)
    (older / "events.jsonl").write_text("".join(lines[:-1]))
    done = grawa("resume", older)
    assert done.code == 0, done.err
    assert RunFolder.open(older).config().score == "training"
    assert first.is_dir()
    assert same(RunFolder.open(older), whole)
    done = grawa(*RUN[:1], "--config", older / "config.toml", "--out", tmp_path / "again")
    assert done.code == 0, done.err
    assert same(RunFolder.open(tmp_path / "again"), whole)


def test_a_file_that_was_written_by_hand_has_the_usual_score(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(tomli_w.dumps({"task": "digits", "strategy": "mgrawa", "lr": 0.1}))
    config = config_from(["train", "--config", str(file)])
    assert config is not None
    assert config.used_score() == "probe"


NETWORK = Network(link=Link.parse("1gbit:1ms"), topology="mesh", num_workers=4)


@pytest.mark.parametrize(
    ("method", "steps"),
    [("lgrawa", 4.0), ("lgrawa:score=training", 0.0), ("mgrawa:score=probe:score.size=32", 2.0)],
)
def test_a_plan_counts_the_probe_also_where_rounds_overlap(method: str, steps: float) -> None:
    bare = given(10**6, 4.0, 0.5, {method: planned(method)}, NETWORK, 16)
    full = with_probes(bare)
    for variant in (Variant(), Variant(overlap=True)):
        without, found = (predict(m, m.methods[0], variant, 32) for m in (bare, full))
        assert found.round_seconds - without.round_seconds == pytest.approx(0.5 * steps)
        assert (found.lost > without.lost) == (steps > 0.0)


def test_a_plan_without_a_batch_size_says_what_it_left_out() -> None:
    known = ("plan", "--parameters", "1M", "--step-time", "1s", "--link", "1gbit:1ms")
    assert "a probe batch" in " ".join(grawa(*known).out.split())
    assert "a probe batch" not in " ".join(grawa(*known, "--batch-size", "16").out.split())
    done = grawa(*known, "--strategies", "lgrawa:score=rms:optimizer=sam")
    assert done.code == 2
    assert "a plan does not know the option 'optimizer'" in done.err


def test_every_usual_score_is_one_that_the_strategy_can_use() -> None:
    for name in BY_PROBE:
        score = usual_score(name)
        assert score is not None
        ScoreChoice.parse(score).check(planned(name), name)
