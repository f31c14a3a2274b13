"""Strategies and tasks as they are written on the command line."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

import grawa
from grawa.lab import written
from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import (
    Cifar10,
    Digits,
    Glyphs,
    ImageNet,
    Logistic,
    Quadratic,
    Task,
    Text,
    Wells,
)
from grawa.scores import Delayed, NormTimesLoss, RmsGradientNorms
from grawa.scores.protocol import Score
from grawa.strategies import InverseLoss, RandomWeights

WRITTEN: dict[str, grawa.Strategy] = {
    "mgrawa": grawa.MGRAWA(),
    "lgrawa": grawa.LGRAWA(),
    "LGRAWA": grawa.LGRAWA(),
    "LocalSGD": grawa.LocalSGD(),
    "ddp": grawa.DataParallel(),
    "lgrawa:pull=0.3": grawa.LGRAWA(pull=0.3),
    "lgrawa:pull=30%": grawa.LGRAWA(pull=0.3),
    "lgrawa:pull=0.3:prox=0": grawa.LGRAWA(pull=0.3, prox=0.0),
    "lgrawa:pull=.3:pull=1": grawa.LGRAWA(pull=1.0),
    "lgrawa:power=2e0": grawa.LGRAWA(power=2.0),
    "lgrawa:score.decay=0.95": grawa.LGRAWA(score=grawa.GradientNorms(decay=0.95)),
    "lgrawa:outer.lr=1": grawa.LGRAWA(outer=grawa.OuterNesterov(lr=1.0)),
    "mgrawa:outer.lr=1:outer.momentum=0": grawa.MGRAWA(
        outer=grawa.OuterNesterov(lr=1.0, momentum=0.0)
    ),
    "lgrawa_nesterov": grawa.LGRAWA(outer=grawa.OuterNesterov()),
    "lgrawa_nesterov:outer.momentum=0.5": grawa.LGRAWA(outer=grawa.OuterNesterov(momentum=0.5)),
    "easgd:elasticity=0.5": grawa.EASGD(elasticity=0.5),
    "lsgd": grawa.LSGD(),
    "lsgd:team_size=2:leader_every=4": grawa.LSGD(team_size=2, leader_every=4),
    "lsgd:score.window=8": grawa.LSGD(score=grawa.TrainingLoss(window=8)),
    "local_sgd": grawa.LocalSGD(),
    "local_sgd:warmup_steps=100": grawa.LocalSGD(warmup_steps=100),
    "uniform": grawa.LocalSGD(pull=0.5, prox=0.01),
    "diloco:outer.lr=0.5": grawa.DiLoCo(outer=grawa.OuterNesterov(lr=0.5)),
    "diloco:outer=nesterov:outer.restart_every=3": grawa.DiLoCo(
        outer=grawa.OuterNesterov(restart_every=3)
    ),
    "diloco:outer=adamw:outer.lr=0.1": grawa.DiLoCo(outer=partial(AdamW, lr=0.1)),
    "lgrawa:outer.nesterov=true:outer.momentum=50%:outer=sgd:pull=1": grawa.LGRAWA(
        pull=1.0, outer=partial(SGD, momentum=0.5, nesterov=True)
    ),
    "outer_steps:outer=adam:outer.restart_every=2:outer.weight_decay=1": grawa.OuterSteps(
        outer=grawa.OuterOptimizer(partial(Adam, weight_decay=1.0), restart_every=2)
    ),
    "local_sgd:prox=0.1:prox_probability=0.2:prox_seed=3": grawa.LocalSGD(
        prox=0.1, prox_probability=0.2, prox_seed=3
    ),
    "edit:temperature=0.5:clip=2:outer.lr=1": grawa.EDiT(
        temperature=0.5, clip=2.0, outer=grawa.OuterNesterov(lr=1.0, momentum=0.85)
    ),
    "rda:outer.momentum=0.5": grawa.RDA(outer=grawa.OuterNesterov(momentum=0.5)),
    "outer_steps:outer.momentum=0": grawa.OuterSteps(outer=grawa.OuterNesterov(momentum=0.0)),
    "slowmo:momentum=0.5": grawa.SlowMo(momentum=0.5),
    "dppf:push=0.5:push_warmup=10": grawa.DPPF(push=0.5, push_warmup=10),
    "random:seed=7:concentration=2": RandomWeights(seed=7, concentration=2.0),
    "inverse_loss:power=2:score.window=8": InverseLoss(
        power=2.0, score=grawa.TrainingLoss(window=8)
    ),
    "data_parallel": grawa.DataParallel(),
}


@pytest.mark.parametrize("text", WRITTEN)
def test_a_strategy_is_read_as_it_is_written(text: str) -> None:
    assert names.strategy(text) == WRITTEN[text]


TASKS: dict[str, Task] = {
    "digits": Digits(),
    "digits:train_size=400": Digits(train_size=400),
    "digits:model=cnn:label_noise=0.2": Digits(architecture="cnn", label_noise=0.2),
    "glyphs:model=cnn:length=64": Glyphs(architecture="cnn", length=64),
    "text:model=transformer_small:context=64": Text(architecture="transformer_small", context=64),
    "cifar10:data=/some where/c=10:model=vgg16:augment=false": Cifar10(
        folder=Path("/some where/c=10"), architecture="vgg16", augment_images=False
    ),
    "imagenet:data=pictures:size=96": ImageNet(folder=Path("pictures"), size=96),
    "wells:noise=2": Wells(noise=2.0),
    "quadratic:dimensions=3:noise=0": Quadratic(dimensions=3, noise=0.0),
    "logistic:ridge=0.1": Logistic(ridge=0.1),
}


@pytest.mark.parametrize("text", TASKS)
def test_a_task_is_read_as_it_is_written(text: str) -> None:
    assert names.task(text) == TASKS[text]


def test_the_data_of_a_task_may_lie_where_a_colon_is() -> None:
    assert names.task("cifar10:augment=false", "c:/data") == Cifar10(
        folder=Path("c:/data"), augment_images=False
    )
    assert names.task("cifar10:data=here", "there") == Cifar10(folder=Path("there"))


REFUSED = {
    "": "there is no strategy ''; there are mgrawa, lgrawa, easgd",
    "lgrwa": r"there is no strategy 'lgrwa' \(did you mean lgrawa\?\)",
    "sgd": "there is no strategy 'sgd'",
    "lgrawa:": "write options of a strategy as lgrawa:option=value, got ''",
    "lgrawa:pull": "write options of a strategy as lgrawa:option=value, got 'pull'",
    "lgrawa:pul=0.3": r"has no option 'pul' \(did you mean pull\?\); it has score, prox",
    "lgrawa:=1": "has no option ''",
    "lgrawa:pull=": "pull of strategy lgrawa must be a float, got ''",
    "lgrawa:pull=half": "pull of strategy lgrawa must be a float, got 'half'",
    "lgrawa:pull=2": r"pull must lie in \[0, 1\], got 2.0",
    "lgrawa:pull=nan": r"pull must lie in \[0, 1\], got nan",
    "lgrawa:group_by=x": "has no option 'group_by'",
    "lgrawa:outer=1": "outer of strategy lgrawa must be one of nesterov, sgd, .*, got '1'",
    "lgrawa:outer=adamv": r"must be one of .*, got 'adamv' \(did you mean adam",
    "local_sgd:outer=adamw": "strategy local_sgd has no option 'outer'; it has prox",
    "lgrawa:outer=adamw:outer.rl=1": "outer optimizer adamw has no option 'rl'.*; it has lr, eps",
    "lgrawa:outer=adamw:outer.lr": "write options of an outer optimizer as outer.lr=value",
    "lgrawa:outer=adamw:outer.lr=x": "lr of outer optimizer adamw must be a float, got 'x'",
    "lgrawa:outer=adamw:outer.lr=-1": "AdamW can't be the outer optimizer: Invalid learning rate",
    "lgrawa:outer=nesterov:outer.rl=1": "outer optimizer nesterov has no option 'rl'",
    "lgrawa:outer=sgd:outer.restart_every=0": "restart_every must be a whole number, at least 1",
    "lgrawa:outer.x=1": "has no option 'x'; it has lr, momentum",
    "lgrawa:outer.lr=-1": r"lr .*, got -1\.0",
    "lgrawa:score.decay=1": r"decay must lie in \[0, 1\), got 1\.0",
    "rda:score.joint=true": "has no option 'score'",
    "edit:warmup_rounds=1": "warmup_rounds must be at least 2, which make a deviation, got 1",
    "lsgd:team_size=2.5": "team_size of strategy lsgd must be a int, got '2.5'",
    "lsgd:team_size=1": "team_size must be at least 2, got 1",
    "lsgd:leader_every=2": "leader_every must be at least 1, and 1 without a team_size, got 2",
    "data_parallel:pull=1": "strategy data_parallel has no option 'pull'; it has none",
    "local_sgd:pull.x=1": "pull",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_strategy_is_refused(text: str) -> None:
    with pytest.raises(grawa.UserError, match=REFUSED[text]):
        names.strategy(text)


REFUSED_TASKS = {
    "mnist": "there is no task 'mnist'; there are digits, glyphs, text, cifar10",
    "digits:size=3": "task digits has no option 'size'; it has train_size, model, label_noise",
    "digits:train_size=1e3": "train_size of task digits must be a int, got '1e3'",
    "digits:model=": "model of task digits must be a str, got ''",
    "digits:model=resnet20": "model must be one of mlp, cnn, got 'resnet20'",
    "digits:architecture=cnn": "task digits has no option 'architecture'",
    "cifar10:model=resnet": "model must be one of cnn, resnet20, .*, densenet121, got 'resnet'",
    "cifar10:data=": "data of task cifar10 must be a Path, got ''",
    "cifar10:data=c:/data": "write options of a task as cifar10:option=value, got '/data'",
    "cifar10:augment=no": "augment of task cifar10 must be a bool, got 'no'",
    "quadratic:": "write options of a task as quadratic:option=value, got ''",
}


@pytest.mark.parametrize("text", REFUSED_TASKS)
def test_what_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(grawa.UserError, match=REFUSED_TASKS[text]):
        names.task(text)


def test_data_are_for_tasks_that_read_them() -> None:
    with pytest.raises(grawa.UserError, match="task digits has no option 'data'"):
        names.task("digits", "here")


@pytest.mark.parametrize("name", names.TASKS)
def test_what_the_list_of_tasks_shows_can_be_written(name: str) -> None:
    made = names.TASKS[name]()
    what, options, _ = written.describe(made)
    assert what[-1] in ".?"
    shown = [option for option in options.split(", ") if "None" not in option]
    assert names.task(":".join([name, *shown])) == made
    assert len(options.split(", ")) == len(dataclasses.fields(made))


@pytest.mark.parametrize("name", names.STRATEGIES)
def test_what_a_list_shows_can_be_written(name: str) -> None:
    made = names.STRATEGIES[name]()
    _, options, _ = written.describe(made)
    shown = [option for option in options.split(", ") if option and "None" not in option]
    assert names.strategy(":".join([name, *shown])) == made


@pytest.mark.parametrize("name", names.STRATEGIES)
def test_every_option_that_has_a_default_is_shown(name: str) -> None:
    made = names.STRATEGIES[name]()
    what, options, source = written.describe(made)
    assert what.endswith(".")
    assert source.startswith("Source") or any(c.isdigit() for c in source)
    for field in dataclasses.fields(made):
        if field.init and field.name != "group_by":
            assert field.name in options


def test_random_weights_follow_the_runs_seed_unless_they_have_their_own() -> None:
    def made(text: str) -> grawa.Strategy:
        config = TrainConfig(task="digits", strategy=text, seed=5)
        return strategy_for(config, Digits(), Digits().data(0))

    assert made("random") == RandomWeights(seed=5)
    assert made("random:seed=0") == RandomWeights(seed=0)


def score_of(**options: Any) -> Any:
    """The score that a run's strategy has."""
    config = TrainConfig(task="digits", **options)
    return strategy_for(config, Digits(), Digits().data(0)).score


SCORES: dict[str, Score] = {
    "training": grawa.GradientNorms(),
    "training:decay=0.5": grawa.GradientNorms(decay=0.5),
    "rms:decay=0.9": RmsGradientNorms(decay=0.9),
    "displacement": grawa.DisplacementNorms(),
    "displacement:from=4": Delayed(score=grawa.DisplacementNorms(), rounds=3),
    "displacement-times-loss": NormTimesLoss(norms=grawa.DisplacementNorms()),
    "rms:from=4": Delayed(score=RmsGradientNorms(), rounds=3),
    "rms:from=1": RmsGradientNorms(),
    "norm-times-loss": NormTimesLoss(),
    "rms-times-loss": NormTimesLoss(norms=RmsGradientNorms()),
    "norm-times-loss:norms.decay=0.5:loss.window=2": NormTimesLoss(
        norms=grawa.GradientNorms(decay=0.5), loss=grawa.TrainingLoss(window=2)
    ),
}


@pytest.mark.parametrize("text", SCORES)
def test_a_score_is_read_as_it_is_written(text: str) -> None:
    assert score_of(strategy="mgrawa", score=text) == SCORES[text]


@pytest.mark.parametrize("strategy", ["edit", "rda"])
def test_a_method_with_a_score_of_its_own_takes_no_other(strategy: str) -> None:
    with pytest.raises(grawa.UserError, match="has a score of its own, the workers' displacements"):
        score_of(strategy=strategy, score="loss")


def test_a_score_replaces_that_of_the_strategy_and_nothing_else() -> None:
    config = TrainConfig(task="digits", strategy="lsgd:pull=0.3", score="loss:window=8")
    expected = grawa.LSGD(pull=0.3, score=grawa.TrainingLoss(window=8))
    assert strategy_for(config, Digits(), Digits().data(0)) == expected


PROBED: dict[str, tuple[str, tuple[type, ...]]] = {
    "probe": ("mgrawa", (grawa.ProbeNorms,)),
    "probe:from=3": ("mgrawa", (Delayed, grawa.ProbeNorms)),
    "probe-times-loss": ("mgrawa", (NormTimesLoss, grawa.ProbeNorms, grawa.TrainingLoss)),
    "norm-times-probe-loss": ("lgrawa", (NormTimesLoss, grawa.GradientNorms, grawa.ProbeLoss)),
    "probe-times-probe-loss": ("mgrawa", (NormTimesLoss, grawa.ProbeNorms, grawa.ProbeLoss)),
    "probe-loss": ("lsgd", (grawa.ProbeLoss,)),
    "probe-loss:from=2:decay=0.5": ("inverse_loss", (Delayed, grawa.ProbeLoss)),
}


def parts_of(score: Any) -> list[Any]:
    if isinstance(score, Delayed):
        return [score, *parts_of(score.score)]
    if isinstance(score, NormTimesLoss):
        return [score, *parts_of(score.norms), *parts_of(score.loss)]
    return [score]


@pytest.mark.parametrize("text", PROBED)
def test_scores_are_made_of_what_they_are_said_to_be(text: str) -> None:
    strategy, kinds = PROBED[text]
    parts = parts_of(score_of(strategy=strategy, score=text))
    assert [type(part) for part in parts] == list(kinds)


def test_probe_batches_are_as_large_as_asked_and_follow_from_the_seed() -> None:
    def batch(index: int, **options: Any) -> Tensor:
        inputs: Tensor = score_of(score="probe:size=9", **options).batch(index)[0]
        return inputs

    assert len(batch(0)) == 9
    assert torch.equal(batch(3), batch(3))
    assert not torch.equal(batch(3), batch(4))
    assert not torch.equal(batch(3), batch(3, seed=1))


def test_a_probed_score_is_shown_without_the_data() -> None:
    shown = repr(score_of(score="probe"))
    assert "ProbeBatches(size=64, seed=0)" in shown
    assert "tensor" not in shown
