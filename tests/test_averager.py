"""The driver, as a training loop meets it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import grawa
from grawa.lab.simulate.clock import VirtualClock
from tests.helpers import (
    INPUTS,
    OUTPUTS,
    Fleet,
    Simulated,
    alone,
    averaged,
    batches,
    flat,
    flat_state,
    mlp,
    pair,
    plain_sgd,
    sgd,
    step,
    with_batchnorm,
)

DATA = batches(steps=8, workers=3)


def test_rounds_follow_every_so_many_steps_and_the_last_ones() -> None:
    model, optimizer = pair(mlp())
    rounds: list[tuple[int, int]] = []
    with grawa.Averager(
        model,
        optimizer,
        grawa.LGRAWA(),
        sync_every=3,
        on_round=[lambda report: rounds.append((report.round, report.step))],
    ) as averager:
        for index in range(8):
            step(model, optimizer, DATA, index)
    assert rounds == [(1, 3), (2, 6), (3, 8)]
    assert (averager.step, averager.round, averager.num_workers) == (8, 3, 1)


def test_the_averager_lets_go_at_the_end_and_can_take_hold_again() -> None:
    model, optimizer = pair(mlp())
    averager = grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2)
    step(model, optimizer, DATA, 0)
    assert averager.step == 0
    with averager:
        step(model, optimizer, DATA, 0)
    step(model, optimizer, DATA, 0)
    assert averager.step == 1
    averager.attach()
    step(model, optimizer, DATA, 0)
    averager.detach()
    step(model, optimizer, DATA, 0)
    assert (averager.step, averager.round) == (2, 2)


def test_an_exception_in_the_loop_passes_through_and_lets_go() -> None:
    model, optimizer = pair(mlp())
    averager = grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2)
    with pytest.raises(KeyError, match="mine"), averager:
        raise KeyError("mine")
    step(model, optimizer, DATA, 0)
    assert averager.step == 0


def test_attaching_twice_is_refused() -> None:
    averager = grawa.Averager(*pair(mlp()), grawa.LocalSGD())
    with averager, pytest.raises(grawa.UserError, match="attached already"):
        averager.attach()


def test_a_loop_without_a_step_is_no_error() -> None:
    with grawa.Averager(*pair(mlp()), grawa.LGRAWA()) as averager:
        pass
    assert averager.round == 0


def test_one_worker_without_a_process_group_is_harmless() -> None:
    data = DATA.workers([0])
    workers, consensus = averaged(grawa.LGRAWA(), data, guard=grawa.Guard())
    assert bool(torch.isfinite(workers).all())
    # Only the proximal pull acts, to the worker's own last position: 1% of the way over a round.
    torch.testing.assert_close(workers, alone(data), rtol=0.0, atol=5e-3)
    assert torch.equal(consensus, workers[0])


def test_gradient_accumulation_counts_optimizer_steps() -> None:
    model, optimizer = pair(mlp())
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
        for index in range(8):
            loss = mse_loss(model(DATA.inputs[index, 0]), DATA.targets[index, 0]) / 2
            loss.backward()
            if index % 2:
                optimizer.step()
                optimizer.zero_grad()
    assert (averager.step, averager.round) == (4, 2)


def test_a_closure_trains_as_without_one() -> None:
    def run(with_closure: bool) -> Tensor:
        model, optimizer = pair(mlp())
        with grawa.Averager(model, optimizer, grawa.MGRAWA(), sync_every=2) as averager:
            for index in range(4):

                def closure(index: int = index) -> float:
                    optimizer.zero_grad()
                    loss = mse_loss(model(DATA.inputs[index, 0]), DATA.targets[index, 0])
                    loss.backward()
                    return float(loss.detach())

                if with_closure:
                    optimizer.step(closure)
                else:
                    step(model, optimizer, DATA, index)
        assert averager.round == 2
        return flat(model)

    assert torch.equal(run(with_closure=True), run(with_closure=False))


@pytest.mark.parametrize("explicitly", [False, True])
def test_gradients_are_shared_when_a_closure_has_computed_them(explicitly: bool) -> None:
    fleet = Fleet(2, optimizer=plain_sgd)
    models, optimizers = fleet.models, fleet.optimizers
    with grawa.Averager(models, optimizers, grawa.DataParallel(), sync_every=100) as averager:
        for index in range(3):

            def closure(index: int = index) -> float:
                for i, model in enumerate(models):
                    model.zero_grad()
                    mse_loss(model(DATA.inputs[index, i]), DATA.targets[index, i]).backward()
                if explicitly:
                    averager.share_gradients()
                return 0.0

            optimizers[0].step(closure)
            optimizers[1].step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_closure_that_is_called_twice_is_refused_where_gradients_are_shared() -> None:
    model, _ = pair(mlp())
    optimizer = grawa.SAM(model, plain_sgd(model), rho=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = mse_loss(model(DATA.inputs[0, 0]), DATA.targets[0, 0])
        loss.backward()
        return loss

    with (
        pytest.raises(grawa.UserError, match=r"step\(\) without a closure"),
        grawa.Averager(model, optimizer, grawa.DataParallel()),
    ):
        optimizer.step(closure)


def test_the_scheduler_stays_the_users_own() -> None:
    model, optimizer = pair(mlp())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
        for index in range(3):
            step(model, optimizer, DATA, index)
            scheduler.step()
    assert averager.step == 3
    assert scheduler.get_last_lr() == [0.05 / 8]


def test_a_round_can_be_forced() -> None:
    fleet = Fleet(3, optimizer=plain_sgd)
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=100, guard=None
    ) as averager:
        fleet.train(DATA.steps(0, 2), averager)
        before = fleet.parameters()
        averager.synchronize()
        assert averager.round == 1
    torch.testing.assert_close(fleet.parameters(), before.mean(dim=0).expand_as(before))


def test_a_round_can_be_forced_right_after_another() -> None:
    fleet = Fleet(3)
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2) as averager:
        fleet.train(DATA.steps(0, 2), averager)
        averager.synchronize()
    assert averager.round == 2
    assert bool(torch.isfinite(fleet.parameters()).all())


def test_misspelt_options_are_refused() -> None:
    with pytest.raises(TypeError, match="sync_evry"):
        grawa.Averager(*pair(mlp()), grawa.LGRAWA(), sync_evry=4)  # type: ignore[call-arg]


@pytest.mark.parametrize("sync_every", [0, -1])
def test_a_round_needs_a_step(sync_every: int) -> None:
    with pytest.raises(
        grawa.UserError, match=f"sync_every must be .* at least 1, got {sync_every}"
    ):
        grawa.Averager(*pair(mlp()), grawa.LGRAWA(), sync_every=sync_every)


def test_buffers_are_averaged_or_local() -> None:
    with pytest.raises(grawa.UserError, match="got 'mean'"):
        grawa.Averager(*pair(mlp()), grawa.LGRAWA(), buffers="mean")  # type: ignore[arg-type]


def test_lsgd_needs_to_know_the_losses() -> None:
    fleet = Fleet(2)
    with (
        pytest.raises(grawa.UserError, match=r"LSGD ranks .* averager\.record_loss\(loss\)"),
        grawa.Averager(fleet.models, fleet.optimizers, grawa.LSGD(), sync_every=2) as averager,
    ):
        fleet.train(DATA.workers([0, 1]), averager, tell_loss=False)


def test_autocast_to_bfloat16_trains_and_keeps_float32_parameters() -> None:
    fleet = Fleet(2, lambda: mlp(torch.float32))
    data = batches(8, 2, torch.float32)
    reports: list[grawa.RoundReport] = []
    with (
        grawa.Averager(
            fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
        ) as averager,
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            fleet.backward(inputs, targets.bfloat16())
            for optimizer in fleet.optimizers:
                optimizer.step()
    assert averager.round == 4
    assert fleet.parameters().dtype == torch.float32
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert all(report.left_out == {} for report in reports)


def scaled(data_scale: float) -> tuple[Tensor, Tensor | None]:
    """Two workers trained through a `GradScaler` of this scale; their parameters and scores."""
    data = batches(4, 2, torch.float32)
    fleet = Fleet(2, lambda: mlp(torch.float32))
    scaler = torch.amp.GradScaler("cpu", init_scale=data_scale)
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ):
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            for model, optimizer, x, y in zip(
                fleet.models, fleet.optimizers, inputs, targets, strict=True
            ):
                optimizer.zero_grad()
                scaler.scale(mse_loss(model(x), y)).backward()
            for optimizer in fleet.optimizers:
                scaler.step(optimizer)
            scaler.update()
    return fleet.parameters(), reports[-1].scores


def test_a_loss_scale_changes_neither_norms_nor_parameters() -> None:
    parameters, scores = scaled(1.0)
    scaled_parameters, scaled_scores = scaled(1024.0)  # a power of two, so that no bit changes
    assert torch.equal(parameters, scaled_parameters)
    assert scores is not None
    assert scaled_scores is not None
    assert torch.equal(scores, scaled_scores)


def test_a_step_that_the_scaler_skips_is_no_step() -> None:
    model, optimizer = pair(mlp(torch.float32))
    scaler = torch.amp.GradScaler("cpu")
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
        for gradient in (1.0, math.inf, 1.0):
            optimizer.zero_grad()
            loss = torch.stack([(p * gradient).sum() for p in model.parameters()]).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert (averager.step, averager.round) == (2, 1)
    assert bool(torch.isfinite(flat(model)).all())


def test_the_consensus_loads_into_a_fresh_model() -> None:
    fleet = Fleet(2, with_batchnorm)
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2) as averager:
        fleet.train(DATA.workers([0, 1]), averager)
        consensus = averager.consensus()
    fresh = with_batchnorm()
    fresh.load_state_dict(consensus)
    fresh.eval()
    inputs = DATA.inputs[0, 0]
    assert torch.equal(fresh(inputs), fleet.models[0].eval()(inputs))


def test_the_consensus_is_a_copy() -> None:
    model, optimizer = pair(mlp())
    averager = grawa.Averager(model, optimizer, grawa.LGRAWA())
    consensus = averager.consensus()
    for value in consensus.values():
        value.fill_(math.nan)
    assert bool(torch.isfinite(flat(model)).all())
    assert bool(torch.isfinite(flat_state(model, averager.consensus())).all())


def test_the_consensus_can_be_applied_for_an_evaluation() -> None:
    fleet = Fleet(3)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2)
    averager.attach()
    fleet.train(DATA.steps(0, 5), averager)
    own, addresses = fleet.parameters(), [p.data_ptr() for p in fleet.models[0].parameters()]
    consensus = flat_state(fleet.models[0], averager.consensus())
    assert not torch.equal(own[0], consensus)
    with pytest.raises(KeyError), averager.consensus_applied() as model:
        assert model is fleet.models[0]
        assert torch.equal(flat(model), consensus)
        raise KeyError
    assert torch.equal(fleet.parameters(), own)
    assert [p.data_ptr() for p in fleet.models[0].parameters()] == addresses


class WithExtraState(nn.Linear):
    """A layer that saves more than tensors."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"version": 3}


def test_the_consensus_keeps_extra_state() -> None:
    model = WithExtraState(INPUTS, OUTPUTS)
    averager = grawa.Averager(model, sgd(model), grawa.LGRAWA())
    WithExtraState(INPUTS, OUTPUTS).load_state_dict(averager.consensus())
    with averager.consensus_applied():
        pass


def test_asking_for_the_consensus_does_not_change_the_training() -> None:
    def run(asks: bool) -> Tensor:
        fleet = Fleet(2)
        inputs = torch.linspace(-1.0, 1.0, 8 * INPUTS, dtype=torch.float64).view(8, INPUTS)
        score = grawa.ProbeNorms(
            batch=lambda index: inputs[index:], loss=lambda model, x: model(x).square().mean()
        )
        strategy = grawa.LGRAWA(score=score)
        averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=2)
        averager.attach()
        fleet.train(DATA.workers([0, 1]).steps(0, 3), averager)
        if asks:
            averager.consensus()
        fleet.train(DATA.workers([0, 1]).steps(3, 8), averager)
        return fleet.parameters()

    assert torch.equal(run(asks=True), run(asks=False))


@pytest.mark.parametrize(("steps", "probes"), [(6, 3), (7, 4)])
def test_leaving_runs_a_probe_only_if_steps_were_made_since_the_last_round(
    steps: int, probes: int
) -> None:
    asked: list[int] = []

    def batch(index: int) -> Tensor:
        asked.append(index)
        return torch.ones(2, INPUTS, dtype=torch.float64)

    fleet, clock = Fleet(2), VirtualClock(1.0, score_time=0.25)
    score = grawa.ProbeNorms(batch=batch, loss=lambda model, x: model(x).sum())
    strategy = grawa.MGRAWA(score=score)
    simulated = Simulated(fleet, strategy, clock, sync_every=2)
    simulated.train(DATA.workers([0, 1]).steps(0, steps))
    simulated.engine.leave()
    assert asked == list(range(probes))
    assert clock.now() == pytest.approx(steps + 0.25 * probes)


@pytest.mark.parametrize("state", [{}, {"round": 3, "steps": [7]}])
def test_a_state_of_something_else_is_refused(state: dict[str, Any]) -> None:
    model = mlp()
    averager = grawa.Averager(model, sgd(model), grawa.LGRAWA())
    with pytest.raises(grawa.UserError, match="another version of grawa"):
        averager.load_state_dict(state)
