"""What is refused, or said, where a model or a loop is not what the Averager takes it for."""

import os
import warnings
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Optimizer

import grawa
from tests.helpers import Fleet, batches
from tests.world import on_ranks, outcomes

TIMEOUT = timedelta(seconds=20)


def step(model: nn.Module, optimizer: Optimizer, inputs: Tensor | None = None) -> None:
    optimizer.zero_grad()
    given = torch.randn(8, 8) if inputs is None else inputs
    model(given).float().square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"},
        {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        {"PMI_RANK": "1", "PMI_SIZE": "2"},
    ],
)
def test_one_of_several_launched_processes_needs_a_process_group(
    variables: dict[str, str],
) -> None:
    model = nn.Linear(8, 4)
    with (
        mock.patch.dict(os.environ, variables),
        pytest.raises(grawa.UserError, match="each would train alone: open one before"),
    ):
        grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "0", "WORLD_SIZE": "2"},
        {"REPLICA_GROUP_ID": "0", "NUM_REPLICA_GROUPS": "3", "RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_one_of_several_elastic_workers_must_be_elastic(variables: dict[str, str]) -> None:
    model = nn.Linear(8, 4)
    lighthouse = {"TORCHFT_LIGHTHOUSE": "127.0.0.1:1"}
    with (
        mock.patch.dict(os.environ, variables | lighthouse),
        pytest.raises(grawa.UserError, match=r"without elastic=.* would train alone: pass it, or"),
    ):
        grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


def test_one_launched_process_needs_none() -> None:
    model = nn.Linear(8, 4)
    with mock.patch.dict(os.environ, {"RANK": "0", "WORLD_SIZE": "1"}):
        assert grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA()).round == 0


def opened_after() -> None:
    model = nn.Linear(8, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    with mock.patch("torch.distributed.is_initialized", return_value=False):
        averager = grawa.Averager(model, optimizer, grawa.LGRAWA())
    averager.attach()


@pytest.mark.world
def test_a_process_group_that_is_opened_after_the_averager_is_refused() -> None:
    for error in outcomes(2, opened_after):
        assert isinstance(error, grawa.UserError)
        assert "opened after the Averager was made" in str(error)


class Lookahead(Optimizer):
    """Such as is found in the wild: it was never initialised as an optimizer."""

    def __init__(self, base: Optimizer) -> None:
        self._optimizer_step_pre_hooks: OrderedDict[int, Any] = OrderedDict()
        self._optimizer_step_post_hooks: OrderedDict[int, Any] = OrderedDict()
        self.base, self.param_groups, self.state = base, base.param_groups, base.state
        self.defaults = base.defaults

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)


def test_an_optimizer_whose_steps_run_no_hooks_is_refused() -> None:
    model = nn.Linear(8, 4)
    averager = grawa.Averager(model, Lookahead(SGD(model.parameters(), 0.1)), grawa.LGRAWA())
    with pytest.raises(
        grawa.UserError, match=r"runs no step hooks.*give the Averager optimizer\.base"
    ):
        averager.attach()


class TwoCallSam(Optimizer):
    """SAM as it is often written: its own `step` is never called."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def second_step(self) -> None:
        self.base.step()

    def step(self, closure: Any = None) -> Any:
        raise AssertionError("call first_step and second_step")


def made_anew(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    first, second = SGD(model.parameters(), lr=0.1), SGD(model.parameters(), lr=0.01)
    return first, second.step


def two_call_sam(model: nn.Module) -> tuple[Optimizer, Callable[[], None]]:
    sam = TwoCallSam(SGD(model.parameters(), lr=0.1))
    return sam, sam.second_step


@pytest.mark.parametrize("make", [made_anew, two_call_sam])
def test_training_without_a_counted_step_is_said_at_the_end(
    make: Callable[[nn.Module], tuple[Optimizer, Callable[[], None]]],
) -> None:
    model = nn.Linear(8, 4)
    optimizer, move = make(model)
    averager = grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=4)
    averager.attach()
    for _ in range(4):
        model(torch.randn(8, 8)).square().mean().backward()
        move()
    with pytest.raises(grawa.UserError, match="no optimizer step was counted"):
        averager.detach()


def never_counted_on_rank_1() -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=8, timeout=TIMEOUT):
        if dist.get_rank() == 1:
            optimizer = SGD(model.parameters(), lr=0.1)
        for _ in range(4):
            step(model, optimizer)


@pytest.mark.world
def test_a_rank_that_never_counted_a_step_stops_them_all() -> None:
    mine, its = outcomes(2, never_counted_on_rank_1)
    assert isinstance(mine, grawa.UserError) and "worker 1 can't go on" in str(mine)
    assert isinstance(its, grawa.UserError) and "no optimizer step was counted" in str(its)


class Masters(Optimizer):
    """Float32 weights in the optimizer's state, which it writes over the 16-bit parameters."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for p in self.param_groups[0]["params"]:
            master = self.state[p].setdefault("master", p.detach().float().clone())
            master.add_(p.grad.float(), alpha=-self.param_groups[0]["lr"])
            p.copy_(master)


def test_an_optimizer_that_keeps_weights_of_its_own_is_refused() -> None:
    models = [nn.Linear(8, 4).bfloat16() for _ in range(2)]
    optimizers = [Masters(model.parameters(), {"lr": 0.1}) for model in models]
    with (
        pytest.raises(
            grawa.UserError, match=r"keeps weights in its state \('master' of 'weight'\)"
        ),
        grawa.Averager(models, optimizers, grawa.LocalSGD(), sync_every=4),
    ):
        for _ in range(4):
            for model in models:
                model(torch.randn(8, 8).bfloat16()).float().square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: SGD(p, lr=0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, amsgrad=True),
        lambda p: torch.optim.Adagrad(p),
        lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
        lambda p: torch.optim.Adafactor(p),
    ],
)
def test_usual_optimizers_keep_none(make: Callable[[Any], Optimizer]) -> None:
    models = [nn.Linear(8, 4) for _ in range(2)]
    optimizers = [make(model.parameters()) for model in models]
    with grawa.Averager(models, optimizers, grawa.LocalSGD(), sync_every=2) as averager:
        for _ in range(2):
            for model in models:
                model(torch.randn(8, 8)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    assert averager.round == 1


def unfreezing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    model[0].requires_grad_(False)
    optimizer = SGD(model[1].parameters(), lr=0.1)
    with grawa.Averager(model, optimizer, grawa.LocalSGD(), sync_every=2, timeout=TIMEOUT):
        model[0].requires_grad_(True)
        optimizer.add_param_group({"params": list(model[0].parameters())})
        for _ in range(8):
            step(model, optimizer)


@pytest.mark.world
def test_a_layer_that_is_given_to_the_optimizer_later_is_refused_by_name() -> None:
    for error in outcomes(2, unfreezing):
        assert isinstance(error, grawa.UserError)
        assert "'0.weight' was given to the optimizer after the Averager was made" in str(error)


def test_a_layer_that_the_optimizer_held_from_the_start_is_averaged_once_it_trains() -> None:
    models = [nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)) for _ in range(2)]
    for model in models:
        model[0].requires_grad_(False)
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    with grawa.Averager(models, optimizers, grawa.LocalSGD(), sync_every=2):
        for number in range(4):
            for model in models:
                model[0].requires_grad_(number >= 2)
                model(torch.randn(8, 8)).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
    first, second = (model.get_parameter("0.weight") for model in models)
    assert torch.equal(first, second)


def other_parameters_held() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[dist.get_rank()].requires_grad_(False)
    grawa.Averager(model, SGD(model[1 - dist.get_rank()].parameters(), lr=0.1), grawa.LGRAWA())


@pytest.mark.world
def test_ranks_whose_optimizers_hold_other_parameters_are_refused() -> None:
    for error in outcomes(2, other_parameters_held):
        assert isinstance(error, grawa.UserError)
        assert "or its optimizer holds different parameters" in str(error)


def with_ddp(hidden: bool) -> None:
    torch.manual_seed(0)
    model: nn.Module = DistributedDataParallel(nn.Linear(8, 4))
    if hidden:
        model = nn.Sequential(model)
    grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA(), timeout=TIMEOUT)


@pytest.mark.world
@pytest.mark.parametrize("hidden", [False, True])
def test_ddp_over_the_processes_that_average_is_refused(hidden: bool) -> None:
    for error in outcomes(2, with_ddp, hidden):
        assert isinstance(error, grawa.UserError)
        assert "model.module" in str(error) and "worker_group" in str(error)


def test_a_lazy_model_is_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(grawa.UserError, match=r"'0\.weight' is lazy"):
        grawa.Averager(model, SGD(nn.Linear(1, 1).parameters(), lr=0.1), grawa.LGRAWA())


def test_a_model_without_values_is_refused() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 1)
    with pytest.raises(grawa.UserError, match="on the meta device"):
        grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


def test_float8_parameters_are_refused_by_name() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2).to(torch.float8_e4m3fn), requires_grad=False)
    model.bias = nn.Parameter(torch.zeros(2))
    with pytest.raises(grawa.UserError, match=r"'weight' is torch\.float8_e4m3fn"):
        grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


def test_weights_tied_by_data_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight.data = model[0].weight.data
    with pytest.raises(grawa.UserError, match=r"'0\.weight' and '1\.weight' share memory"):
        grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())


def test_a_model_moved_to_another_device_is_said_before_the_consensus() -> None:
    fleet = Fleet(2)
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2) as averager:
        fleet.train(batches(steps=2, workers=2), averager)
    fleet.models[0].to("meta")
    with pytest.raises(grawa.UserError, match=r"'0\.weight' was moved or replaced"):
        averager.consensus()


def equal_batches(strategy: grawa.Strategy) -> list[str]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)  # the same on every rank
    with (
        warnings.catch_warnings(record=True, action="always") as said,
        grawa.Averager(model, optimizer, strategy, sync_every=2, timeout=TIMEOUT),
    ):
        for _ in range(8):
            step(model, optimizer, torch.randn(8, 8, generator=generator))
    return [str(warning.message) for warning in said]


@pytest.mark.world
def test_workers_that_stay_exactly_equal_are_said_once() -> None:
    (said,), nothing = on_ranks(2, equal_batches, grawa.LGRAWA())
    assert "exactly equal parameters after local steps" in said
    assert "DistributedSampler" in said
    assert nothing == []


def nearly_equal_workers(dtype: torch.dtype) -> int:
    """Steps that differ between ranks, but change the norm of the parameters by less than a bit."""
    model = nn.Linear(64, 64, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    optimizer = SGD(model.parameters(), lr=1.0)
    with grawa.Averager(model, optimizer, grawa.LocalSGD(), sync_every=1) as averager:
        for _ in range(6):
            model.weight.grad = torch.zeros_like(model.weight)
            model.weight.grad[0, dist.get_rank()] = 1e-3
            model.weight.grad[1, dist.get_rank()] = -1e-3
            optimizer.step()
    return averager.round


@pytest.mark.world
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_workers_whose_norms_alone_are_equal_are_not_called_equal(dtype: torch.dtype) -> None:
    assert on_ranks(2, nearly_equal_workers, dtype) == [6, 6]


@pytest.mark.world
def test_workers_that_share_gradients_are_equal_without_a_word() -> None:
    assert on_ranks(2, equal_batches, grawa.DataParallel()) == [[], []]
