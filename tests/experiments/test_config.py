"""A run's configuration, written and read back."""

import dataclasses
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
import tomli_w

import grawa
from grawa.errors import UserError
from grawa.experiments.config import TrainConfig
from grawa.train.faults import Fault

PATH = Path("config.toml")

OTHER = TrainConfig(
    task="logistic:ridge=0.1",
    strategy="lsgd:team_size=2",
    workers=6,
    processes=3,
    steps=7,
    sync_every=2,
    batch_size=5,
    lr=1e-3,
    lr_schedule="constant",
    optimizer="adamw",
    norms="probe",
    probe_size=9,
    guard=False,
    buffers="local",
    shards="dirichlet:0.3",
    fault=("nan:0@100", "lr-x6:3"),
    dtype="float64",
    device="cpu",
    seed=2**40,
    timeout=3.5,
    checkpoint_every=4,
    tensorboard=True,
)
"""Nothing in it is as by default."""


def test_every_option_is_other_than_by_default() -> None:
    usual = dataclasses.asdict(TrainConfig(task="digits"))
    assert not [name for name, value in dataclasses.asdict(OTHER).items() if value == usual[name]]


@pytest.mark.parametrize("config", [TrainConfig(task="digits"), OTHER], ids=["defaults", "other"])
def test_a_configuration_comes_back_from_its_file(config: TrainConfig) -> None:
    text = tomli_w.dumps(config.as_toml())
    assert TrainConfig.from_toml(tomllib.loads(text), PATH) == config


def test_an_unknown_entry_is_named() -> None:
    table = {**OTHER.as_toml(), "momentum": 0.9}
    with pytest.raises(UserError, match=r"config\.toml has an unknown entry 'momentum'"):
        TrainConfig.from_toml(table, PATH)


def test_a_configuration_needs_a_task() -> None:
    with pytest.raises(UserError, match=r"config\.toml names no task"):
        TrainConfig.from_toml({"workers": 4}, PATH)


def test_settings_say_the_same() -> None:
    settings = OTHER.settings()
    for field in dataclasses.fields(settings):
        if field.name not in {"guard", "faults", "timeout"}:
            assert getattr(settings, field.name) == getattr(OTHER, field.name)
    assert settings.guard is None
    assert settings.faults == (Fault.parse("nan:0@100"), Fault.parse("lr-x6:3"))
    assert settings.timeout == timedelta(seconds=3.5)
    assert TrainConfig(task="digits").settings().guard == grawa.Guard()


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
