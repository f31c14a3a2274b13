"""What a round does beside the strategy: buffers, and workers that go wrong."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import grawa
from tests.helpers import (
    Fleet,
    alone,
    averaged,
    batches,
    flat,
    flat_state,
    poison,
    shown,
    with_batchnorm,
)

DATA = batches(steps=8, workers=3)


def trained_batchnorms(buffers: Any, pull: float = 0.0) -> tuple[Fleet, list[dict[str, Tensor]]]:
    """Two workers after two steps and a round, and the buffers they would have on their own."""
    data = DATA.workers([0, 1]).steps(0, 2)
    fleet, own = Fleet(2, with_batchnorm), Fleet(2, with_batchnorm)
    for each in (fleet, own):
        each.models[1](DATA.inputs[5, 1])  # one batch more, which construction undoes
    own.models[1].load_state_dict(own.models[0].state_dict())
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(pull=pull), sync_every=2, buffers=buffers
    )
    for each in (fleet, own):
        each.models[1](DATA.inputs[6, 1])  # one batch more, which counts
    averager.attach()
    fleet.train(data, averager)
    own.train(data)
    return fleet, [dict(model.named_buffers()) for model in own.models]


def test_buffers_are_averaged_and_counts_take_the_maximum() -> None:
    fleet, own = trained_batchnorms("average")
    for model in fleet.models:
        found = dict(model.named_buffers())
        for name in ("1.running_mean", "1.running_var"):
            assert not torch.equal(own[0][name], own[1][name])
            torch.testing.assert_close(found[name], (own[0][name] + own[1][name]) / 2)
        assert int(found["1.num_batches_tracked"]) == 3
    assert [int(buffers["1.num_batches_tracked"]) for buffers in own] == [2, 3]


def test_local_buffers_are_left_to_each_worker() -> None:
    fleet, own = trained_batchnorms("local")
    for model, expected in zip(fleet.models, own, strict=True):
        for name, value in model.named_buffers():
            assert torch.equal(value, expected[name])


@pytest.mark.parametrize(
    "strategy",
    [
        grawa.MGRAWA(),
        grawa.LGRAWA(),
        grawa.EASGD(),
        grawa.LSGD(),
        grawa.LocalSGD(),
        grawa.DiLoCo(),
        grawa.LocalSGD(warmup_steps=3),
    ],
    ids=shown,
)
def test_a_worker_that_turned_nan_is_left_out_and_starts_again(strategy: grawa.Strategy) -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, strategy, sync_every=4, on_round=[reports.append]
    )
    averager.attach()
    fleet.train(DATA.steps(0, 3), averager)
    poison(fleet.models[1])
    fleet.train(DATA.steps(3, 4), averager)
    assert list(reports[0].left_out) == [1]
    assert "not finite" in reports[0].left_out[1]
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert fleet.optimizers[1].state == {}
    assert all(fleet.optimizers[k].state for k in (0, 2))
    consensus = flat_state(fleet.models[0], averager.consensus())
    if not isinstance(strategy, grawa.LSGD | grawa.LocalSGD):
        assert torch.equal(flat(fleet.models[1]), consensus)
    if reports[0].weights is not None:
        assert not bool(reports[0].weights[1].any())
    fleet.train(DATA.steps(4, 8), averager)
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert reports[1].left_out == {1: "on probation, fit for 4 of 64 local steps"}


@pytest.mark.parametrize("strategy", [grawa.LGRAWA(prox=0.0), grawa.LocalSGD()], ids=shown)
def test_the_others_train_as_if_the_nan_worker_were_not_there(strategy: grawa.Strategy) -> None:
    fleet = Fleet(3)
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=4)
    averager.attach()
    poison(fleet.models[2])
    data = DATA.steps(0, 4)
    fleet.train(data, averager)
    two, _ = averaged(strategy, data.workers([0, 1]), sync_every=4, guard=grawa.Guard())
    torch.testing.assert_close(fleet.parameters()[:2], two, rtol=0.0, atol=1e-14)


def test_without_a_guard_one_nan_ruins_everyone() -> None:
    fleet = Fleet(3)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2, guard=None
    )
    averager.attach()
    poison(fleet.models[1])
    fleet.train(DATA.steps(0, 2), averager)
    assert bool(torch.isnan(fleet.parameters()).all())
    with pytest.warns(UserWarning, match="the consensus is not finite: training has diverged"):
        averager.consensus()


def test_a_batch_with_a_nan_does_not_reach_the_others_through_shared_gradients() -> None:
    inputs = DATA.inputs.clone()
    inputs[2, 1, 0, 0] = math.nan
    spoilt = type(DATA)(inputs, DATA.targets)
    fleet = Fleet(3)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.DataParallel(), sync_every=4)
    averager.attach()
    fleet.train(spoilt, averager, tell_loss=False)
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert all(torch.equal(row, fleet.parameters()[0]) for row in fleet.parameters())


def test_when_all_workers_are_nan_training_has_diverged() -> None:
    fleet = Fleet(2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2)
    averager.attach()
    for model in fleet.models:
        poison(model)
    with pytest.raises(grawa.DivergedError, match="all 2 workers have diverged"):
        fleet.train(DATA.workers([0, 1]), averager)


def test_a_worker_whose_loss_is_far_above_is_left_out_but_pulled() -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LocalSGD(),
        sync_every=2,
        on_round=[reports.append],
    )
    averager.attach()
    for inputs, targets in zip(DATA.inputs[:2], DATA.targets[:2], strict=True):
        fleet.backward(inputs, targets)
        averager.record_loss(torch.tensor([1.0, 1.0, 9.0]))
        for optimizer in fleet.optimizers:
            optimizer.step()
    expected = alone(DATA.steps(0, 2))[:2].mean(dim=0)
    torch.testing.assert_close(fleet.parameters(), expected.expand(3, -1), rtol=0.0, atol=1e-14)
    assert list(reports[0].left_out) == [2]
    assert reports[0].losses.tolist() == [1.0, 1.0, 9.0]
    assert fleet.optimizers[2].state != {}


@pytest.mark.parametrize("fragments", [1, 2])
def test_a_buffer_that_turned_nan_spreads_to_nobody(fragments: int) -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(3, with_batchnorm)
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LGRAWA(),
        sync_every=2,
        fragments=fragments,
        on_round=[reports.append],
    )
    averager.attach()
    dict(fleet.models[1].named_buffers())["1.running_mean"].fill_(math.nan)
    fleet.train(DATA.steps(0, 4), averager)
    assert list(reports[0].left_out) == [1]
    assert not any("finite" in why for report in reports[1:] for why in report.left_out.values())
    for model in fleet.models:
        assert all(bool(torch.isfinite(buffer).all()) for buffer in model.buffers())
