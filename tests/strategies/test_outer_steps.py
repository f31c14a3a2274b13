"""An outer optimizer: on one worker, and where parameters have 16 bits."""

import pytest
import torch
from torch import Tensor

import grawa
from grawa.strategies.protocol import State
from tests.helpers import alone, averaged, batches, everyone, flat, mlp, plain_sgd

DATA = batches(steps=12, workers=1)
TAU = 3


def test_outer_steps_of_one_worker_are_the_papers_formula() -> None:
    lr, momentum = 0.7, 0.9
    outer = grawa.OuterNesterov(lr=lr, momentum=momentum)
    workers, consensus = averaged(
        grawa.OuterSteps(outer=outer), DATA, sync_every=TAU, optimizer=plain_sgd
    )
    model = mlp()
    center, velocity = flat(model), torch.zeros_like(flat(model))
    optimizer = plain_sgd(model)
    for step, (inputs, targets) in enumerate(zip(DATA.inputs, DATA.targets, strict=True), 1):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs[0]), targets[0]).backward()
        optimizer.step()
        if step % TAU == 0:
            moved = center - flat(model)
            velocity = momentum * velocity + moved
            center = center - lr * (moved + momentum * velocity)
            torch.nn.utils.vector_to_parameters(center.clone(), model.parameters())
    torch.testing.assert_close(workers[0], center, rtol=0.0, atol=1e-13)
    torch.testing.assert_close(consensus, center, rtol=0.0, atol=1e-13)
    assert not torch.allclose(center, alone(DATA, plain_sgd)[0], atol=1e-3)


def test_only_outer_steps_move_a_single_worker() -> None:
    assert grawa.OuterSteps.moves_one_worker
    assert not grawa.DiLoCo.moves_one_worker
    assert not grawa.LGRAWA().moves_one_worker


OUTER: dict[str, grawa.Strategy] = {
    "diloco": grawa.DiLoCo(outer=grawa.OuterNesterov(lr=0.1, momentum=0.0)),
    "outer steps": grawa.OuterSteps(outer=grawa.OuterNesterov(lr=0.1, momentum=0.0)),
    "lgrawa": grawa.LGRAWA(pull=1.0, outer=grawa.OuterNesterov(lr=0.1, momentum=0.0)),
    "slowmo": grawa.SlowMo(slow_lr=0.1, momentum=0.0),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OUTER)
def test_outer_steps_that_16_bits_do_not_resolve_are_not_lost(
    name: str, dtype: torch.dtype
) -> None:
    strategy, workers = OUTER[name], 2
    ulp = torch.finfo(dtype).eps
    params = {"x": torch.ones(workers, 5, dtype=dtype)}
    state, comm = strategy.init(params), everyone(workers)
    scores = torch.ones(workers, 1, dtype=torch.float64) if strategy.score else None
    for number in range(20):
        params["x"] += ulp  # a tenth of it is far below what the parameters can hold
        strategy.sync(params, scores, state, comm, number)
    moved = torch.full((5,), 1.0 + 2 * ulp)
    torch.testing.assert_close(strategy.consensus(params, state, comm)["x"], moved.to(dtype))
    torch.testing.assert_close(state["exact"]["x"], moved, rtol=0.0, atol=1e-6)
    assert torch.equal(params["x"], moved.to(dtype).expand_as(params["x"]))


def test_a_center_of_easgd_keeps_what_16_bits_do_not_resolve() -> None:
    strategy, comm = grawa.EASGD(elasticity=0.01), everyone(2)
    params = {"x": torch.ones(2, 5, dtype=torch.bfloat16)}
    state = strategy.init(params)
    for number in range(100):
        params["x"].fill_(1.0 + 2 * 0.0078125)
        strategy.sync(params, None, state, comm, number)
    assert float(center_of(state)[0]) == pytest.approx(1.0 + 0.015625 * (1 - 0.99**100), abs=1e-5)


def center_of(state: State) -> Tensor:
    return state["exact"]["x"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wider_parameters_need_no_second_center(dtype: torch.dtype) -> None:
    state = grawa.DiLoCo().init({"x": torch.ones(2, 5, dtype=dtype)})
    assert state.keys() == {"center", "mean", "momentum"}
    assert {leaves["x"].dtype for leaves in state.values()} == {dtype}
