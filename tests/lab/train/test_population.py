"""Conditions that set every worker apart."""

from pathlib import Path
from typing import Any

import pytest

import grawa
from grawa.comm import InProcessCommunicator
from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Quadratic
from grawa.lab.train.faults import Fault
from grawa.lab.train.population import faults_of
from grawa.lab.train.settings import Settings
from tests.lab.train.runs import always, end, events, same_model, settings, started

LGRAWA = always(grawa.LGRAWA())


def of_kind(faults: tuple[Fault, ...], kind: str) -> dict[int, float]:
    """Worker -> amount."""
    return {fault.worker: fault.amount for fault in faults if fault.kind == kind}


def configured(**options: Any) -> Settings:
    return TrainConfig(task="digits", **options).settings()


def test_a_single_fault_is_itself() -> None:
    assert faults_of("lr-x6:3", 4, timed=False) == (Fault.parse("lr-x6:3"),)


def test_graded_labels_rise_evenly_from_none_to_six_tenths() -> None:
    faults = faults_of("graded-labels", 4, timed=True)
    assert [str(fault) for fault in faults] == [
        "noisy-labels=0:0",
        "noisy-labels=0.2:1",
        "noisy-labels=0.4:2",
        "noisy-labels=0.6:3",
    ]


def test_graded_batches_rise_evenly_from_4_to_32() -> None:
    faults = faults_of("graded-batch", 8, timed=False)
    assert of_kind(faults, "batch") == {i: 4.0 + 4.0 * i for i in range(8)}
    assert len(faults) == 8


@pytest.mark.parametrize("text", ["graded-labels", "graded-batch", "mixed:0"])
def test_one_worker_is_a_population_too(text: str) -> None:
    assert {fault.worker for fault in faults_of(text, 1, timed=True)} == {0}


def test_a_mixed_population_has_each_property_within_its_range() -> None:
    faults = faults_of("mixed:7", 400, timed=True)
    batches, labels = of_kind(faults, "batch"), of_kind(faults, "noisy-labels")
    gradients, inputs = of_kind(faults, "gradient-noise"), of_kind(faults, "input-noise")
    speeds = of_kind(faults, "speed")
    assert len(batches) == len(labels) == len(speeds) == len(gradients) + len(inputs) == 400
    assert not gradients.keys() & inputs.keys()
    assert 150 < len(gradients) < 250
    ranges = [(batches, 4, 32), (labels, 0, 0.6), (gradients, 0, 1), (inputs, 0, 0.6)]
    for found, least, most in [*ranges, (speeds, 0.25, 1)]:
        width = most - least
        assert least <= min(found.values()) < least + 0.05 * width + 0.5 * (least == 4)
        assert most - 0.05 * width - 0.5 * (most == 32) < max(found.values()) <= most
    # Evenly over the logarithm: half below the geometric mean.
    assert 150 < sum(value < (4 * 32) ** 0.5 for value in batches.values()) < 250


def test_a_mixed_population_follows_from_its_seed_alone() -> None:
    population = faults_of("mixed:7", 4, timed=True)
    assert faults_of("mixed:7", 4, timed=True) == population
    assert faults_of("mixed:8", 4, timed=True) != population
    assert faults_of("mixed:7", 6, timed=True)[: len(population)] == population
    untimed = faults_of("mixed:7", 4, timed=False)
    assert untimed == tuple(fault for fault in population if fault.kind != "speed")


def test_what_was_drawn_can_be_written_and_read_back() -> None:
    for fault in faults_of("mixed:7", 50, timed=True):
        assert Fault.parse(str(fault)) == fault
        assert len(str(fault)) < 30


@pytest.mark.parametrize(
    "text", ["mixed", "mixed:", "mixed:x", "mixed:-1", "mixed:1.5", "mixed:1:2", "mixed:\u0662"]
)
def test_a_mixed_population_needs_a_seed(text: str) -> None:
    with pytest.raises(UserError, match="mixed:SEED"):
        faults_of(text, 4, timed=False)


@pytest.mark.parametrize("text", ["graded", "graded-labels:1", "graded-noise", ""])
def test_what_is_no_population_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"there is no fault .* graded-batch"):
        faults_of(text, 4, timed=False)


def test_speeds_are_drawn_where_time_is_modelled_and_none_are_given() -> None:
    def speeds(**options: Any) -> dict[int, float]:
        return of_kind(configured(fault=("mixed:7",), **options).faults, "speed")

    assert speeds() == {}
    assert speeds(clock="virtual", speeds="1,1,1,1") == {}
    assert set(speeds(clock="virtual")) == {0, 1, 2, 3}


def test_the_clock_runs_at_the_speeds_of_the_population() -> None:
    chosen = configured(fault=("speed=0.5:1",), clock="virtual", step_time="1s")
    assert chosen.modelled is not None
    clock = chosen.modelled()
    clock.meter(InProcessCommunicator(4))
    clock.stepped(slice(None))
    assert clock.times == [1.0, 2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fault": ("speed=0.5:1",)}, "fault speed=0.5:1 needs --clock virtual"),
        (
            {"fault": ("speed=0.5:1",), "clock": "virtual", "speeds": "1,1,1,1"},
            "fault speed=0.5:1 and --speeds both set a speed: give one",
        ),
        ({"fault": ("batch=4:9",)}, "fault batch=4:9 names worker 9, but the workers are 0 to 3"),
        (
            {"fault": ("graded-batch", "batch=4:1")},
            "worker 1 has the fault batch twice, .* as batch=4:1",
        ),
        ({"fault": ("mixed:1", "mixed:2")}, "worker 0 has the fault batch twice"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        configured(**options)


@pytest.mark.parametrize("text", ["mixed:3", "graded-labels"])
def test_labels_can_not_be_wrong_where_there_are_none(text: str) -> None:
    faults = faults_of(text, 4, timed=False)
    with pytest.raises(UserError, match=r"noisy-labels=.* needs a task with labels"):
        events(LGRAWA, settings(faults=faults), task=Quadratic())


def test_a_large_batch_needs_as_many_samples() -> None:
    faults = (Fault.parse("batch=60:2"),)
    with pytest.raises(UserError, match=r"worker 2 would have 50 .* fewer than a batch of 60"):
        events(LGRAWA, settings(faults=faults))


def test_the_population_is_in_the_runs_first_event() -> None:
    faults = faults_of("mixed:3", 4, timed=False)
    found = events(LGRAWA, settings(faults=faults))
    assert started(found).faults == tuple(map(str, faults))
    again = tuple(Fault.parse(text) for text in started(found).faults)
    assert same_model(end(found), end(events(LGRAWA, settings(faults=again))))


@pytest.mark.parametrize(
    "text", ["noisy-labels=0.5:2", "input-noise=0.5:2", "gradient-noise=0.5:2", "batch=3:2"]
)
def test_each_sets_one_worker_apart(text: str) -> None:
    clean = events(LGRAWA, settings())
    faulty = events(LGRAWA, settings(faults=(Fault.parse(text),)))
    before = [
        next(event.losses for event in found if isinstance(event, grawa.RoundReport))
        for found in (clean, faulty)
    ]
    others = [0, 1, 3]
    assert before[0][others].tolist() == before[1][others].tolist()
    assert before[0][2] != before[1][2]


@pytest.mark.parametrize("optimizer", ["sgd", "sam"])
def test_a_resumed_run_of_a_population_ends_with_the_same_bits(
    optimizer: str, tmp_path: Path
) -> None:
    faults = faults_of("mixed:3", 4, timed=False)
    assert {"gradient-noise", "input-noise"} <= {fault.kind for fault in faults}
    chosen = settings(faults=faults, optimizer=optimizer)
    whole = end(events(LGRAWA, settings(faults=faults, optimizer=optimizer)))
    events(LGRAWA, chosen, checkpoints=tmp_path, until=4)
    assert same_model(end(events(LGRAWA, chosen, checkpoints=tmp_path)), whole)
