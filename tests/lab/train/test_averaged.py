"""The average of a run's last consensuses."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import grawa
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Finished
from grawa.seeding import seeded
from tests.lab.train.runs import always, end, events, same_model, settings
from tests.world import on_ranks

LGRAWA = always(grawa.LGRAWA())


@dataclass(frozen=True, kw_only=True)
class Normalised(Digits):
    """Digits with BatchNorm."""

    def model(self, seed: int) -> nn.Module:
        with seeded(seed, "model"):
            return nn.Sequential(
                nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10)
            )


TASK = Normalised(train_size=600)


def consensuses(strategy: grawa.Strategy, **changes: object) -> list[dict[str, Tensor]]:
    """The consensus after each round, of a run that ends there."""
    steps = range(4, 25, 4)
    return [
        end(
            events(always(strategy), settings(lr_schedule="constant", steps=s, **changes))
        ).consensus
        for s in steps
    ]


@pytest.mark.parametrize(("fraction", "rounds"), [(1.0, 6), (0.5, 3), (0.34, 3), (0.01, 1)])
def test_it_is_the_mean_of_the_consensuses_of_the_last_rounds(fraction: float, rounds: int) -> None:
    chosen = settings(swa=fraction, lr_schedule="constant")
    finished = end(events(LGRAWA, chosen))
    expected = consensuses(grawa.LGRAWA())[-rounds:]
    assert finished.averaged_rounds == rounds
    for name, value in finished.consensus.items():
        mean = torch.stack([one[name] for one in expected]).mean(dim=0)
        torch.testing.assert_close(value, mean, rtol=0.0, atol=1e-6)


def test_without_it_the_last_consensus_is_saved() -> None:
    assert end(events(LGRAWA, settings())).averaged_rounds == 0


def test_averaging_changes_nothing_of_the_training() -> None:
    plain, averaged = (
        [
            event
            for event in events(LGRAWA, settings(swa=swa))
            if isinstance(event, grawa.RoundReport)
        ]
        for swa in (None, 0.7)
    )
    for one, other in zip(plain, averaged, strict=True):
        assert torch.equal(one.losses, other.losses)
        assert one.consensus_distance == other.consensus_distance


def test_batchnorm_statistics_are_those_of_the_average() -> None:
    finished = end(events(LGRAWA, settings(swa=0.5), task=TASK))
    data = TASK.data(0)
    model = TASK.model(0)
    model.load_state_dict(finished.consensus)
    assert finished.error == TASK.measure(model.eval(), data)
    hidden = model[0](data.train_inputs)  # type: ignore[index]
    mean, variance = finished.consensus["1.running_mean"], finished.consensus["1.running_var"]
    torch.testing.assert_close(mean, hidden.mean(dim=0), rtol=0.0, atol=1e-4)
    torch.testing.assert_close(variance, hidden.var(dim=0), rtol=0.02, atol=1e-4)


def test_a_run_that_ends_before_its_last_part_has_the_consensus() -> None:
    chosen = settings(steps=400, until_error=0.5, evaluate_every=2, batch_size=16, swa=0.05)
    finished = end(events(LGRAWA, chosen, task=TASK))
    assert finished.step < 380
    assert finished.averaged_rounds == 0


def test_with_a_budget_the_last_part_is_one_of_time() -> None:
    chosen = settings(
        steps=None, budget=2.4, modelled=partial(VirtualClock, 0.1), swa=0.5, lr_schedule="constant"
    )
    finished = end(events(LGRAWA, chosen))
    assert (finished.round, finished.averaged_rounds) == (6, 3)


@pytest.mark.parametrize("until", [3, 6])
def test_a_resumed_run_ends_with_the_same_bits(until: int, tmp_path: Path) -> None:
    whole = end(events(LGRAWA, settings(swa=0.7), task=TASK))
    chosen = settings(swa=0.7)
    events(LGRAWA, chosen, checkpoints=tmp_path, every=1, until=until, task=TASK)
    resumed = end(events(LGRAWA, chosen, checkpoints=tmp_path, every=1, task=TASK))
    assert same_model(resumed, whole)
    assert resumed.averaged_rounds == whole.averaged_rounds == 5


def lgrawa(task: object, data: object) -> grawa.Strategy:
    return grawa.LGRAWA()


def averaged() -> Finished:
    return end(events(lgrawa, settings(swa=0.5, dtype="float64"), task=TASK))


@pytest.mark.world
def test_every_process_has_the_same_average() -> None:
    alone = averaged()
    for found in on_ranks(2, averaged):
        for name, value in alone.consensus.items():
            torch.testing.assert_close(found.consensus[name], value, rtol=0.0, atol=1e-10)
