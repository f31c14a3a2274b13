"""A run's configuration, written and read back."""

import dataclasses
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import grawa
from grawa.comm import InProcessCommunicator
from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.train.faults import Fault

PATH = Path("config.toml")

OTHER = TrainConfig(
    task="logistic:ridge=0.1",
    data="photographs",
    strategy="lsgd:team_size=2",
    workers=6,
    processes=3,
    steps=7,
    sync_every=2,
    batch_size=5,
    lr=1e-3,
    lr_schedule="constant",
    optimizer="adamw",
    score="probe-loss:size=9",
    guard=False,
    buffers="local",
    shards="dirichlet:0.3",
    fault=("nan:0@100", "lr-x6:3"),
    dtype="float64",
    device="cpu",
    seed=2**40,
    timeout=3.5,
    keep_workers=True,
    keep_rounds=3,
    checkpoint_every=4,
    keep_checkpoints=7,
    stop_within=5.0,
    max_restarts=0,
    tensorboard=True,
    until_error="5%",
    evaluate_every=2,
    schedule="quadratic:0.5",
    overlap_steps=1,
    alpha=0.5,
    fragments=2,
    comm_dtype="int8",
    optimizer_state="reset",
    optimizer_state_every=4,
    weigh_by="samples",
    swa="25%",
    stack_workers="on",
    report_after=3,
    drop=True,
    displacement_ratio=3.0,
)

VIRTUAL = TrainConfig(
    task="digits",
    epochs=2.5,
    budget="2m",
    schedule="shared-count",
    comm_dtype="topk:fraction=0.125",
    clock="virtual",
    step_time="10ms",
    speeds="1,1,0.5,1",
    jitter=0.1,
    link="1gbit:1ms",
    topology="mesh",
    hosts="2x2",
    inner_link="10gbit:5us",
    strategy="lsgd",
)

ELASTIC = TrainConfig(task="digits", elastic=True, min_workers=3, grace="2s", address="10.0.0.1")
"""In one of the three nothing is as by default."""


def test_every_option_is_other_than_by_default() -> None:
    usual = dataclasses.asdict(TrainConfig(task="digits"))
    others = [dataclasses.asdict(config) for config in (OTHER, VIRTUAL, ELASTIC)]
    kept = [name for name in usual if all(other[name] == usual[name] for other in others)]
    assert not kept


@pytest.mark.parametrize(
    "config",
    [TrainConfig(task="digits"), OTHER, VIRTUAL, ELASTIC],
    ids=["defaults", "other", "virtual", "elastic"],
)
def test_a_configuration_comes_back_from_its_file(config: TrainConfig) -> None:
    text = tomli_w.dumps(config.as_toml())
    assert TrainConfig.from_toml(tomllib.loads(text), PATH) == config


def test_an_unknown_entry_is_named() -> None:
    table = {**OTHER.as_toml(), "momentum": 0.9}
    with pytest.raises(UserError, match=r"config\.toml has an unknown entry 'momentum'"):
        TrainConfig.from_toml(table, PATH)


def test_a_configuration_needs_a_task() -> None:
    with pytest.raises(UserError, match=r"config\.toml has no task"):
        TrainConfig.from_toml({"workers": 4}, PATH)


def test_settings_say_the_same() -> None:
    settings = OTHER.settings()
    for field in dataclasses.fields(settings):
        if field.name not in {
            "guard",
            "faults",
            "timeout",
            "until_error",
            "schedule",
            "modelled",
            "elastic",
            "swa",
        }:
            assert getattr(settings, field.name) == getattr(OTHER, field.name)
    assert settings.guard is None
    assert settings.faults == (Fault.parse("nan:0@100"), Fault.parse("lr-x6:3"))
    assert settings.timeout == timedelta(seconds=3.5)
    assert settings.until_error == pytest.approx(0.05)
    assert settings.swa == pytest.approx(0.25)
    assert settings.schedule == grawa.Quadratic(2, growth=0.5)
    assert settings.comm_dtype == "int8"
    assert settings.modelled is None
    assert TrainConfig(task="digits").settings().guard == grawa.Guard()


def test_settings_of_modelled_time_say_the_same() -> None:
    settings = VIRTUAL.settings()
    assert (settings.steps, settings.epochs, settings.budget) == (None, 2.5, 120.0)
    assert settings.schedule == grawa.SharedCount(32)
    assert settings.comm_dtype == grawa.TopK(fraction=0.125)
    assert settings.modelled is not None
    assert VIRTUAL.num_processes() == 1


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 4.0),
        ({"score": "training"}, 0.0),
        ({"strategy": "uniform"}, 0.0),
        ({"score": "rms"}, 0.0),
        ({"score": "probe"}, 4.0),
        ({"score": "probe-times-loss:size=32"}, 2.0),
        ({"strategy": "lsgd", "score": "probe-loss"}, 4.0 / 3.0),
        ({"score": "probe-times-probe-loss"}, 4.0 + 4.0 / 3.0),
    ],
)
def test_a_probe_takes_the_time_of_its_samples(options: dict[str, Any], steps: float) -> None:
    usual: dict[str, Any] = {"task": "digits", "clock": "virtual", "step_time": "2s"}
    made = TrainConfig(**usual | options).settings().modelled
    assert made is not None
    clock = made()
    clock.meter(InProcessCommunicator(4))
    clock.scored()
    assert clock.now() == pytest.approx(2.0 * steps)


def test_what_is_measured_follows_from_what_ends_the_run() -> None:
    assert TrainConfig(task="digits").settings().evaluate_every == 0
    assert TrainConfig(task="digits", until_error="5%").settings().evaluate_every == 1
    assert TrainConfig(task="digits").settings().steps == 960
    assert TrainConfig(task="digits", budget="9s").settings().steps is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"link": "5", "clock": "virtual"}, "write a link as bandwidth:latency"),
        ({"speeds": "1,1", "clock": "virtual"}, "4 workers need 4 speeds, got 2"),
        ({"speeds": "1,1,1,x", "clock": "virtual"}, "speeds must be numbers"),
        ({"speeds": "1,1,1,0", "clock": "virtual"}, "speeds must be positive"),
        ({"step_time": "50", "clock": "virtual"}, "step_time must be a time with a unit"),
        ({"step_time": "0ms", "clock": "virtual"}, "time of a step must be positive"),
        ({"jitter": -1.0, "clock": "virtual"}, "jitter must not be negative"),
        ({"link": "1gbit"}, "link needs --clock virtual"),
        ({"hosts": "2x2"}, "hosts needs --clock virtual"),
        ({"hosts": "2x2", "clock": "virtual"}, "give --link too"),
        ({"inner_link": "1gbit", "link": "1gbit", "clock": "virtual"}, "give --hosts too"),
        ({"budget": "0s"}, "budget must be positive"),
        ({"swa": "150%"}, "swa 150% is too large: write a percentage"),
        ({"swa": "0"}, "swa must be a positive number or percentage"),
        ({"budget": "soon"}, "budget must be a time with a unit"),
        ({"until_error": "-5%"}, "until_error must be a positive number or percentage"),
        ({"until_error": "5%", "evaluate_every": 0}, "until_error needs evaluate_every"),
        ({"steps": 5, "epochs": 1.0}, "steps or epochs, not both"),
        ({"epochs": 0.0}, "epochs must be positive"),
        ({"schedule": "often"}, "schedule must be every, shared-count"),
        ({"schedule": "warmup"}, "schedule must be every, shared-count"),
        ({"comm_dtype": "int4"}, r"there is no comm_dtype 'int4' \(did you mean int8\?\)"),
        ({"comm_dtype": "topk:bits=9"}, "bits must be a whole number from 1 to 8, got 9"),
        ({"comm_dtype": "int8:bits=4"}, "comm_dtype int8 has no option 'bits'; it has none"),
        ({"schedule": "quadratic:-1"}, "growth must be positive"),
        ({"sync_every": 0}, "sync_every must be a whole number, at least 1"),
    ],
    ids=str,
)
def test_what_is_out_of_range_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(task="digits", **options).settings()


@pytest.mark.parametrize(
    ("workers", "processes", "expected"), [(4, None, 4), (4, 2, 2), (4, 1, 1), (1, None, 1)]
)
def test_workers_are_spread_evenly_over_processes(
    workers: int, processes: int | None, expected: int
) -> None:
    config = TrainConfig(task="digits", workers=workers, processes=processes)
    assert config.num_processes() == expected


@pytest.mark.parametrize("processes", [0, -1, 3, 8])
def test_workers_that_can_not_be_spread_evenly_are_refused(processes: int) -> None:
    config = TrainConfig(task="digits", workers=4, processes=processes)
    with pytest.raises(UserError, match=f"must divide the 4 workers evenly, got {processes}"):
        config.num_processes()


def test_elastic_options_are_those_of_the_library() -> None:
    made = TrainConfig(task="digits", elastic=True, min_workers=3, grace="2s").settings().elastic
    assert made == grawa.Elastic(
        min_workers=3,
        num_workers=4,
        grace="2s",
        timeout=timedelta(seconds=30),
        wait=timedelta(minutes=5),
        start_after=timedelta(minutes=1),
    )
    quick = TrainConfig(task="digits", elastic=True, timeout=2.0).settings().elastic
    assert quick is not None
    times = quick.times
    assert (quick.min_workers, times.timeout.seconds, times.wait.seconds) == (2, 2, 20)
    assert TrainConfig(task="digits").settings().elastic is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"elastic": False, "min_workers": 2}, "min_workers needs --elastic"),
        ({"elastic": False, "grace": "2s"}, "grace needs --elastic"),
        ({"elastic": False, "address": "10.0.0.1"}, "address needs --elastic"),
        ({"workers": 1}, "elastic needs at least 2 workers, got 1"),
        ({"min_workers": 0}, "min_workers must be at least 1"),
        ({"min_workers": 5}, "num_workers must be at least 2 and min_workers"),
        ({"grace": "soon"}, "grace must be a time"),
        ({"clock": "virtual"}, "elastic can't be used with --clock virtual"),
        ({"stack_workers": "on"}, "elastic can't be used with stack_workers"),
        ({"processes": 2}, "processes can't be used with --elastic: every worker is"),
        ({"budget": "9s"}, "budget can't be used with --elastic: a worker that comes late"),
        ({"evaluate_every": 1}, "evaluate_every can't be used with --elastic"),
        ({"until_error": "5%", "evaluate_every": None}, "until_error can't be used with"),
        ({"swa": "25%"}, "swa can't be used with --elastic"),
        ({"tensorboard": True}, "tensorboard can't be used with --elastic"),
    ],
    ids=str,
)
def test_elastic_options_that_do_not_go_together_are_refused(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(grawa.UserError, match=re.escape(said)):
        TrainConfig(**{"task": "digits", "elastic": True, **options}).settings()
