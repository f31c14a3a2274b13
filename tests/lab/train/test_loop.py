"""A run as a stream of events."""

from typing import Any

import pytest
import torch

import grawa
from grawa.errors import UserError
from grawa.lab.tasks import Digits, Logistic, Quadratic, Task
from grawa.lab.train.events import Evaluated, Finished, Started, Trained
from grawa.lab.train.faults import Fault
from tests.helpers import shown
from tests.lab.train.runs import always, end, events, settings

LGRAWA = always(grawa.LGRAWA())


def test_a_run_starts_makes_rounds_and_finishes() -> None:
    found = events(LGRAWA, settings())
    assert [type(event) for event in found] == [
        Started,
        *[grawa.RoundReport] * 6,
        Trained,
        Finished,
    ]
    started, finished = found[0], end(found)
    assert isinstance(started, Started)
    assert (started.step, started.workers, started.processes) == (0, 4, 1)
    assert (started.parameters, started.device) == (64 * 64 + 64 + 64 * 10 + 10, "cpu")
    rounds = [event for event in found if isinstance(event, grawa.RoundReport)]
    assert [(event.round, event.step) for event in rounds] == [(i, 4 * i) for i in range(1, 7)]
    assert all(event.losses.shape == (4,) for event in rounds)
    assert (finished.step, finished.round) == (24, 6)
    assert finished.consensus.keys() == Digits().model(0).state_dict().keys()


@pytest.mark.parametrize(
    ("steps", "sync_every", "expected"),
    [(10, 4, [4, 8, 10]), (8, 4, [4, 8]), (3, 5, [3]), (1, 1, [1])],
)
def test_the_last_step_is_followed_by_a_round(
    steps: int, sync_every: int, expected: list[int]
) -> None:
    found = events(
        always(grawa.LocalSGD()), settings(steps=steps, schedule=grawa.Every(sync_every))
    )
    assert [event.step for event in found if isinstance(event, grawa.RoundReport)] == expected
    assert end(found).round == len(expected)


def model(finished: Finished) -> torch.Tensor:
    return torch.cat([value.flatten() for value in finished.consensus.values()])


@pytest.mark.parametrize(
    "task", [Digits(train_size=200), Quadratic(), Logistic()], ids=["digits", "quad", "logistic"]
)
def test_the_same_seed_gives_the_same_bits(task: Task) -> None:
    first, same, other = (end(events(LGRAWA, settings(seed=seed), task=task)) for seed in (5, 5, 6))
    assert torch.equal(model(first), model(same))
    assert first.error == same.error
    assert not torch.equal(model(first), model(other))


def test_the_global_generator_has_no_say() -> None:
    torch.manual_seed(1)
    first = end(events(LGRAWA, settings()))
    torch.manual_seed(2)
    assert torch.equal(model(end(events(LGRAWA, settings()))), model(first))


def test_training_learns() -> None:
    task = Digits(train_size=1200)
    data, fresh = task.data(0), task.model(0)
    before = task.measure(fresh, data)
    finished = end(
        events(LGRAWA, settings(steps=200, schedule=grawa.Every(8), batch_size=16), task=task)
    )
    assert finished.error < 0.15 < 0.7 < before


def test_the_error_is_that_of_the_consensus() -> None:
    task = Digits(train_size=200)
    finished = end(events(LGRAWA, settings(), task=task))
    fresh = task.model(99)
    fresh.load_state_dict(finished.consensus)
    assert finished.error == task.measure(fresh.eval(), task.data(0))


def test_a_run_on_the_quadratic_falls_to_its_minimum() -> None:
    finished = end(
        events(
            always(grawa.LocalSGD()),
            settings(steps=400, batch_size=64, dtype="float64"),
            task=Quadratic(dimensions=4, noise=0.1),
        )
    )
    assert 0.0 <= finished.error < 1e-3
    assert finished.consensus["position"].dtype == torch.float64


def test_a_faulty_worker_is_left_out_with_a_guard_and_ruins_all_without() -> None:
    faults = (Fault.parse("nan:1@6"),)
    guarded = events(LGRAWA, settings(faults=faults))
    left_out = [event.left_out for event in guarded if isinstance(event, grawa.RoundReport)]
    assert left_out[1][1] == "parameters are not finite"
    assert bool(torch.isfinite(model(end(guarded))).all())
    ruined = end(events(always(grawa.LocalSGD()), settings(faults=faults, guard=None)))
    assert bool(torch.isnan(model(ruined)).any())


def test_a_fault_strikes_one_worker_only() -> None:
    clean = events(LGRAWA, settings())
    faulty = events(LGRAWA, settings(faults=(Fault.parse("wrong-labels:2"),)))
    rounds = [
        [event.losses for event in found if isinstance(event, grawa.RoundReport)]
        for found in (clean, faulty)
    ]
    # Before the first round the workers have not met.
    others = [0, 1, 3]
    assert rounds[0][0][others].tolist() == rounds[1][0][others].tolist()
    assert rounds[1][-1][2] > rounds[0][-1][2] + 0.2


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"workers": 0}, "workers must be at least 1, got 0"),
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"batch_size": -1}, "batch_size must be at least 1, got -1"),
    ({"lr": 0.0}, r"lr must be positive, got 0\.0"),
    ({"lr": float("nan")}, "lr must be positive, got nan"),
    ({"lr": float("inf")}, "lr must be positive, got inf"),
    ({"faults": (Fault.parse("nan:4@1"),)}, "names worker 4, but the workers are 0 to 3"),
    ({"workers": 201}, "worker 0 would have 1 training samples, fewer than a batch of 8"),
    ({"batch_size": 51}, "worker 0 would have 50 training samples, fewer than a batch of 51"),
    (
        {"shards": "dirichlet:0.001", "batch_size": 50},
        "fewer than a batch of 50; use fewer workers",
    ),
    ({"shards": "even"}, "shards must be"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[str(c) for c, _ in REFUSED])
def test_what_can_not_be_trained_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        events(LGRAWA, settings(**changes))


def test_wrong_labels_need_labels() -> None:
    faults = (Fault.parse("wrong-labels:0"),)
    with pytest.raises(UserError, match="wrong-labels:0 needs a task with labels"):
        events(LGRAWA, settings(faults=faults), task=Quadratic())


@pytest.mark.parametrize(
    "strategy", [grawa.LocalSGD(), grawa.LGRAWA(), grawa.DataParallel()], ids=shown
)
def test_measuring_the_consensus_costs_a_round_no_bytes(strategy: grawa.Strategy) -> None:
    plain, watched = (events(always(strategy), settings(evaluate_every=every)) for every in (0, 2))
    sent = [
        [event.bytes_sent for event in found if isinstance(event, grawa.RoundReport)]
        for found in (plain, watched)
    ]
    assert sent[0] == sent[1]
    assert sum(isinstance(event, Evaluated) for event in watched) == 3
