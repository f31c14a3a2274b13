"""SAM against its formula, and as an optimizer among others."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.nn.utils import vector_to_parameters
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR

import grawa
from tests.helpers import Fleet, batches, flat, mlp, sgd, with_batchnorm

DATA = batches(8, 4)
RHO = 0.1


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.02)


every_base = pytest.mark.parametrize("base", [sgd, adamw])


def backward(model: nn.Module, index: int, worker: int = 0, share: slice = slice(None)) -> Tensor:
    inputs, targets = DATA.inputs[index, worker, share], DATA.targets[index, worker, share]
    loss = mse_loss(model(inputs), targets)
    loss.backward()
    return loss.detach()


def in_parts(model: nn.Module, sam: grawa.SAM, index: int, worker: int = 0) -> None:
    sam.zero_grad()
    backward(model, index, worker)
    with sam.perturbed():
        sam.zero_grad()
        backward(model, index, worker)


def by_closure(model: nn.Module, optimizer: Optimizer, index: int) -> float:
    def closure() -> float:
        optimizer.zero_grad()
        return float(backward(model, index))

    return float(optimizer.step(closure))


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def second_gradient(model: nn.Module, index: int, worker: int, rho: float) -> Tensor:
    """By the formula, on a copy of the model; (P,)."""
    copied = copy.deepcopy(model)
    copied.zero_grad()
    backward(copied, index, worker)
    eps = rho * gradient(copied) / gradient(copied).norm()
    vector_to_parameters(flat(copied) + eps, copied.parameters())
    copied.zero_grad()
    backward(copied, index, worker)
    return gradient(copied)


def test_a_step_is_what_the_formula_says() -> None:
    model = mlp()
    sam = grawa.SAM(model, SGD(model.parameters(), lr=0.05), rho=RHO)
    for index in range(4):
        expected = flat(model) - 0.05 * second_gradient(model, index, 0, RHO)
        in_parts(model, sam, index)
        sam.step()
        torch.testing.assert_close(flat(model), expected, rtol=0.0, atol=1e-14)


def test_the_perturbation_has_length_rho_and_is_undone_to_the_bit() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    backward(model, 0)
    before = flat(model)
    with sam.perturbed():
        moved = flat(model) - before
    torch.testing.assert_close(moved, RHO * gradient(model) / gradient(model).norm())
    assert torch.equal(flat(model), before)


def test_a_second_pass_that_fails_leaves_the_parameters_where_they_were() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model))
    backward(model, 0)
    before = flat(model)
    with pytest.raises(KeyError), sam.perturbed():
        raise KeyError
    assert torch.equal(flat(model), before)
    with pytest.raises(grawa.UserError, match="SAM needs a second gradient"):
        sam.step()


@every_base
@pytest.mark.parametrize("way", ["closure", "parts", "plain steps"])
def test_with_rho_zero_it_is_its_base_optimizer(
    base: Callable[[nn.Module], Optimizer], way: str
) -> None:
    plain, model = mlp(), mlp()
    optimizer = base(plain)
    sam = grawa.SAM(model, base(model), rho=0.0)
    for index in range(6):
        by_closure(plain, optimizer, index)
        if way == "closure":
            by_closure(model, sam, index)
            continue
        sam.zero_grad()
        backward(model, index)
        if way == "parts":
            in_parts(model, sam, index)
        sam.step()
    assert torch.equal(flat(model), flat(plain))


@every_base
def test_a_closure_and_the_parts_are_the_same_step(base: Callable[[nn.Module], Optimizer]) -> None:
    one, other = mlp(), mlp()
    first, second = grawa.SAM(one, base(one), rho=RHO), grawa.SAM(other, base(other), rho=RHO)
    for index in range(6):
        with torch.no_grad():
            expected = float(mse_loss(one(DATA.inputs[index, 0]), DATA.targets[index, 0]))
        assert by_closure(one, first, index) == expected
        in_parts(other, second, index)
        second.step()
    assert torch.equal(flat(one), flat(other))
    assert not torch.allclose(flat(one), flat(mlp()))


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    def run(parts: list[slice]) -> Tensor:
        model = mlp()
        sam = grawa.SAM(model, sgd(model), rho=RHO)

        def accumulate() -> None:
            sam.zero_grad()
            for part in parts:
                loss = mse_loss(model(DATA.inputs[0, 0, part]), DATA.targets[0, 0, part])
                (loss / len(parts)).backward()

        accumulate()
        with sam.perturbed():
            accumulate()
        sam.step()
        return flat(model)

    whole, halves = run([slice(None)]), run([slice(0, 3), slice(3, 6)])
    torch.testing.assert_close(whole, halves, rtol=0.0, atol=1e-15)


def test_batchnorm_notes_the_first_pass_only() -> None:
    model, twin = with_batchnorm(), with_batchnorm()
    sam = grawa.SAM(model, sgd(model), rho=0.5)
    for index in range(3):
        twin.load_state_dict(model.state_dict())
        twin(DATA.inputs[index, 0])
        in_parts(model, sam, index)
        for found, expected in zip(model.buffers(), twin.buffers(), strict=True):
            assert torch.equal(found, expected)
        sam.step()
    norm = model[1]  # type: ignore[index]
    assert norm.num_batches_tracked == 3
    assert norm.track_running_stats


def test_the_second_pass_normalises_by_its_batch() -> None:
    model = with_batchnorm()
    sam = grawa.SAM(model, SGD(model.parameters(), lr=0.05), rho=RHO)
    expected = second_gradient(model, 0, 0, RHO)
    in_parts(model, sam, 0)
    torch.testing.assert_close(gradient(model), expected, rtol=0.0, atol=1e-14)


def test_batchnorm_that_is_not_in_training_is_left_alone() -> None:
    model = with_batchnorm().eval()
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    expected = second_gradient(model, 0, 0, RHO)
    in_parts(model, sam, 0)
    torch.testing.assert_close(gradient(model), expected, rtol=0.0, atol=1e-14)


def scaled(scale: float, loss_factors: tuple[float, ...] = (1.0,) * 4) -> Tensor:
    """Trained through a `GradScaler` of this scale."""
    model = mlp(torch.float32)
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for index, factor in enumerate(loss_factors):
        inputs, targets = DATA.inputs[index, 0].float(), DATA.targets[index, 0].float()

        def clear_and_backward(x: Tensor = inputs, y: Tensor = targets, by: float = factor) -> None:
            sam.zero_grad()
            scaler.scale(by * mse_loss(model(x), y)).backward()

        clear_and_backward()
        with sam.perturbed():
            clear_and_backward()
        scaler.step(sam)
        scaler.update()
    return flat(model)


def test_a_loss_scale_changes_nothing() -> None:
    # A power of two, so that no bit changes.
    assert torch.equal(scaled(1.0), scaled(1024.0))


def test_a_step_that_the_scaler_skips_leaves_no_trace() -> None:
    skipped = scaled(1024.0, (1.0, 1.0, math.inf))
    assert torch.equal(skipped, scaled(1024.0, (1.0, 1.0)))


def test_mixed_precision_trains() -> None:
    model = mlp(torch.float32)
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    inputs, targets = DATA.inputs[0, 0].float(), DATA.targets[0, 0].float()
    losses: list[float] = []

    def clear_and_backward() -> None:
        sam.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = mse_loss(model(inputs), targets.bfloat16())
        loss.backward()
        losses.append(float(loss.detach()))

    for _ in range(20):
        clear_and_backward()
        with sam.perturbed():
            clear_and_backward()
        sam.step()
    assert losses[-2] < 0.5 * losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())


@every_base
def test_training_that_was_stopped_goes_on_bit_for_bit(
    base: Callable[[nn.Module], Optimizer],
) -> None:
    def train(model: nn.Module, sam: grawa.SAM, start: int, stop: int) -> None:
        for index in range(start, stop):
            in_parts(model, sam, index)
            sam.step()

    whole, first, second = mlp(), mlp(), mlp(seed=1)
    train(whole, grawa.SAM(whole, base(whole)), 0, 6)
    stopped, resumed = grawa.SAM(first, base(first)), grawa.SAM(second, base(second))
    train(first, stopped, 0, 3)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    train(second, resumed, 3, 6)
    assert torch.equal(flat(second), flat(whole))


def test_a_state_of_the_base_optimizer_is_its_own() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model))
    sam.load_state_dict(sgd(model).state_dict())
    assert sam.state_dict().keys() == sgd(model).state_dict().keys()


def test_a_scheduler_moves_the_base_optimizers_rate() -> None:
    model = mlp()
    base = sgd(model)
    sam = grawa.SAM(model, base)
    scheduler = StepLR(sam, step_size=1, gamma=0.5)
    in_parts(model, sam, 0)
    sam.step()
    scheduler.step()
    assert base.param_groups[0]["lr"] == pytest.approx(0.025)


def test_parameters_without_a_gradient_stay() -> None:
    model = mlp()
    first = next(model.parameters()).requires_grad_(False)
    before = first.clone()
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    in_parts(model, sam, 0)
    sam.step()
    assert torch.equal(first, before)


def test_a_gradient_of_zero_perturbs_nothing() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = flat(model)
    with sam.perturbed():
        assert torch.equal(flat(model), before)


@pytest.mark.parametrize("rho", [-0.1, math.nan, math.inf])
def test_a_radius_out_of_range_is_refused(rho: float) -> None:
    with pytest.raises(grawa.UserError, match=f"rho must be finite and not negative, got {rho}"):
        grawa.SAM(mlp(), sgd(mlp()), rho=rho)


def test_a_step_without_a_second_gradient_is_refused() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model))
    backward(model, 0)
    with pytest.raises(grawa.UserError, match=r"compute it within `with optimizer\.perturbed"):
        sam.step()


def test_a_perturbation_without_a_gradient_is_refused() -> None:
    model = mlp()
    with (
        pytest.raises(grawa.UserError, match="call backward"),
        grawa.SAM(model, sgd(model)).perturbed(),
    ):
        pass


def test_sparse_gradients_are_refused() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    sam = grawa.SAM(model, SGD(model.parameters(), lr=0.1))
    model(torch.tensor([1])).sum().backward()
    with pytest.raises(grawa.UserError, match="dense gradients"), sam.perturbed():
        pass


# With other workers


def fleet_of_sam(
    workers: int, base: Callable[[nn.Module], Optimizer] = sgd, rho: float = RHO
) -> Fleet:
    return Fleet(workers, optimizer=lambda model: grawa.SAM(model, base(model), rho=rho))


def train_together(fleet: Fleet, averager: grawa.Averager, steps: int) -> None:
    for index in range(steps):
        for worker, (model, sam) in enumerate(zip(fleet.models, fleet.optimizers, strict=True)):
            assert isinstance(sam, grawa.SAM)
            in_parts(model, sam, index, worker)
        averager.record_loss(torch.ones(len(fleet.models)))
        for optimizer in fleet.optimizers:
            optimizer.step()


def test_data_parallel_averages_the_second_gradients_of_workers_that_perturb_by_their_own() -> None:
    fleet = fleet_of_sam(4, lambda model: SGD(model.parameters(), lr=0.05))
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.DataParallel(), guard=None)
    averager.attach()
    model = mlp()
    for index in range(3):
        mean = torch.stack([second_gradient(model, index, i, RHO) for i in range(4)]).mean(dim=0)
        vector_to_parameters(flat(model) - 0.05 * mean, model.parameters())
    train_together(fleet, averager, 3)
    torch.testing.assert_close(fleet.parameters(), flat(model).expand(4, -1), rtol=0.0, atol=1e-13)


@pytest.mark.parametrize("strategy", [grawa.LGRAWA(), grawa.DataParallel(), grawa.LSGD()])
def test_one_step_of_sam_is_one_local_step(strategy: grawa.Strategy) -> None:
    fleet = fleet_of_sam(2)
    with grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=2) as averager:
        train_together(fleet, averager, 6)
    assert (averager.step, averager.round) == (6, 3)


def test_a_closure_is_one_local_step_too() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model), rho=RHO)
    with grawa.Averager(model, sam, grawa.LGRAWA(), sync_every=2) as averager:
        for index in range(4):
            by_closure(model, sam, index)
    assert (averager.step, averager.round) == (4, 2)


def test_the_norms_are_those_of_the_second_gradient() -> None:
    fleet = fleet_of_sam(2)
    reports: list[grawa.RoundReport] = []
    expected = [float(second_gradient(mlp(), 0, worker, RHO).norm()) for worker in range(2)]
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.MGRAWA(group_by=grawa.by_tensor),
        sync_every=1,
        guard=None,
        on_round=[reports.append],
    ) as averager:
        train_together(fleet, averager, 1)
    scores = reports[0].scores
    assert scores is not None
    assert scores.square().sum(dim=1).sqrt().tolist() == pytest.approx(expected)


def test_where_gradients_are_shared_a_closure_is_refused() -> None:
    model = mlp()
    sam = grawa.SAM(model, sgd(model))
    with (
        pytest.raises(grawa.UserError, match=r"without a closure .* optimizer\.perturbed"),
        grawa.Averager(model, sam, grawa.DataParallel()),
    ):
        by_closure(model, sam, 0)
