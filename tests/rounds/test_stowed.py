"""The state of a strategy that is kept on the CPU between rounds changes no number."""

from typing import Any, Literal
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import grawa
from grawa.math.leaves import Leaves
from grawa.rounds import fragment
from grawa.rounds.stowed import Stowed
from tests.helpers import Fleet, batches, flat_state, shown

DATA = batches(12, 3)

STRATEGIES: list[grawa.Strategy] = [
    grawa.DiLoCo(),
    grawa.SlowMo(),
    grawa.EDiT(temperature=0.1, warmup_rounds=2),
    grawa.MGRAWA(prox=0.0, score=grawa.DisplacementNorms()),
    grawa.EASGD(prox=0.0),
    grawa.MGRAWA(prox=0.0),
    grawa.LGRAWA(prox=0.0, outer=grawa.OuterNesterov(lr=0.7, momentum=0.5)),
    grawa.LocalSGD(),
]


def trained(strategy: grawa.Strategy, *, away: bool, **options: Any) -> tuple[Tensor, Any, Any]:
    """Parameters, consensus and state; with `away` as if the parameters were not on the CPU."""
    fleet = Fleet(3)
    center: Literal["cpu"] | None = "cpu" if away else None
    with patch.object(fragment, "is_elsewhere", lambda device: True):
        averager = grawa.Averager(
            fleet.models, fleet.optimizers, strategy, sync_every=3, center=center, **options
        )
    with averager:
        fleet.train(DATA, averager)
    consensus = flat_state(fleet.models[0], averager.consensus())
    return fleet.parameters(), consensus, averager.state_dict()["runner"]["fragments"]


@pytest.mark.parametrize("options", [{}, {"overlap_steps": 1}, {"fragments": 2}], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=shown)
def test_it_is_the_same_to_the_bit(strategy: grawa.Strategy, options: dict[str, Any]) -> None:
    here = trained(strategy, away=False, **options)
    there = trained(strategy, away=True, **options)
    assert torch.equal(here[0], there[0])
    assert torch.equal(here[1], there[1])
    for mine, its in zip(here[2], there[2], strict=True):
        for key, leaves in mine["state"].items():
            for name, leaf in leaves.items():
                assert torch.equal(leaf, its["state"][key][name])


def test_a_run_is_resumed_with_the_state_on_the_cpu() -> None:
    def make() -> tuple[Fleet, grawa.Averager]:
        fleet = Fleet(3)
        with patch.object(fragment, "is_elsewhere", lambda device: True):
            averager = grawa.Averager(
                fleet.models, fleet.optimizers, grawa.DiLoCo(), sync_every=3, center="cpu"
            )
        averager.attach()
        return fleet, averager

    whole, averager = make()
    whole.train(DATA, averager)
    first, saved = make()
    first.train(DATA.steps(0, 6), saved)
    second, resumed = make()
    resumed.load_state_dict(saved.state_dict())
    for own, other in zip(first.models, second.models, strict=True):
        other.load_state_dict(own.state_dict())
    for mine, its in zip(first.optimizers, second.optimizers, strict=True):
        its.load_state_dict(mine.state_dict())
    second.train(DATA.steps(6, 12), resumed)
    assert torch.equal(whole.parameters(), second.parameters())


def test_what_is_fetched_is_a_copy_until_it_is_put() -> None:
    stowed = Stowed({"center": Leaves.copy_of({"x": torch.zeros(1, 2)})})
    state = stowed.fetch()
    state["center"]["x"].fill_(1.0)
    assert stowed.kept()["center"]["x"].tolist() == [0.0, 0.0]
    stowed.put(state)
    state["center"]["x"].fill_(2.0)
    assert stowed.kept()["center"]["x"].tolist() == [1.0, 1.0]


def test_on_the_cpu_nothing_is_copied() -> None:
    fleet = Fleet(3)
    with patch.object(Stowed, "__init__", side_effect=AssertionError):
        grawa.Averager(fleet.models, fleet.optimizers, grawa.DiLoCo(), center="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"center": "gpu"}, 'center must be None or "cpu"'),
        ({"center": "cpu", "strategy": grawa.LGRAWA()}, "use prox=0"),
    ],
    ids=["another place", "with prox"],
)
def test_what_can_not_be_is_refused(options: dict[str, Any], message: str) -> None:
    fleet = Fleet(1)
    with pytest.raises(grawa.UserError, match=message):
        grawa.Averager(
            fleet.models[0], fleet.optimizers[0], **{"strategy": grawa.DiLoCo(), **options}
        )
