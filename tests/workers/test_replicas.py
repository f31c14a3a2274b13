"""Which models and optimizers fit, and how each kind of model is averaged."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

import grawa
from tests.helpers import (
    INPUTS,
    OUTPUTS,
    Fleet,
    averaged,
    batches,
    flat,
    mlp,
    pair,
    plain_sgd,
    sgd,
    step,
)

DATA = batches(steps=8, workers=3)


def test_an_optimizer_without_one_of_the_models_parameters_is_refused() -> None:
    model = mlp()
    optimizer = SGD(list(model.parameters())[:-1], lr=0.1)
    with pytest.raises(grawa.UserError, match=r"does not hold the model's parameter '2\.bias'"):
        grawa.Averager(model, optimizer, grawa.LGRAWA())


def test_an_optimizer_with_foreign_parameters_is_refused() -> None:
    model = mlp()
    optimizer = SGD([*model.parameters(), *mlp().parameters()], lr=0.1)
    with pytest.raises(grawa.UserError, match="holds parameters that are not the model's"):
        grawa.Averager(model, optimizer, grawa.LGRAWA())


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(grawa.UserError, match="has no parameters"):
        grawa.Averager(nn.Tanh(), sgd(mlp()), grawa.LGRAWA())


@pytest.mark.parametrize("optimizers", [0, 1, 3])
def test_each_model_needs_an_optimizer(optimizers: int) -> None:
    fleet, more = Fleet(2), Fleet(optimizers)
    with pytest.raises(grawa.UserError, match=f"got 2 models and {optimizers} optimizers"):
        grawa.Averager(fleet.models, more.optimizers, grawa.LGRAWA())


def test_hosted_models_of_different_form_are_refused() -> None:
    models = [mlp(torch.float32), mlp(torch.float64)]
    with pytest.raises(grawa.UserError, match="hosted models differ"):
        grawa.Averager(models, [sgd(model) for model in models], grawa.LGRAWA())


def replace_weight(model: nn.Module) -> None:
    layer = model.get_submodule("0")
    layer.register_parameter("weight", nn.Parameter(torch.zeros(8, INPUTS, dtype=torch.float64)))


def drop_bias(model: nn.Module) -> None:
    model.get_submodule("0").register_parameter("bias", None)


def to_float32(model: nn.Module) -> None:
    model.float()


CHANGES: list[tuple[Callable[[nn.Module], None], str]] = [
    (replace_weight, "0.weight"),
    (drop_bias, "0.bias"),
    (to_float32, "0.weight"),
]


@pytest.mark.parametrize(("change", "name"), CHANGES)
@pytest.mark.parametrize("strategy", [grawa.LocalSGD(), grawa.LGRAWA()], ids=["local", "lgrawa"])
def test_a_model_that_was_changed_meanwhile_is_noticed_at_the_round(
    strategy: grawa.Strategy, change: Callable[[nn.Module], None], name: str
) -> None:
    model, optimizer = pair(mlp())
    with (
        pytest.raises(grawa.UserError, match=f"parameter '{name}' was moved or replaced"),
        grawa.Averager(model, optimizer, strategy, sync_every=2),
    ):
        change(model)
        for index in range(2):
            step(model, optimizer, DATA, index)


def test_a_model_that_was_converted_after_a_round_is_noticed_too() -> None:
    model, optimizer = pair(mlp(torch.float32))
    with (
        pytest.raises(grawa.UserError, match="was moved or replaced"),
        grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2),
    ):
        for index in range(2):
            step(model, optimizer, DATA, index)
        model.double()
        for index in range(2):
            step(model, optimizer, DATA, index)


def test_every_worker_starts_as_worker_zero() -> None:
    models = [mlp(seed=seed) for seed in range(3)]
    grawa.Averager(models, [sgd(model) for model in models], grawa.LGRAWA())
    for model in models:
        assert torch.equal(flat(model), flat(mlp(seed=0)))


@pytest.mark.filterwarnings("ignore:all . workers have exactly equal")
def test_frozen_parameters_outside_the_optimizer_start_equal_and_stay() -> None:
    models = [mlp(seed=seed) for seed in range(2)]
    for model in models:
        model.get_submodule("0").requires_grad_(False)
    optimizers = [SGD([p for p in m.parameters() if p.requires_grad], lr=0.1) for m in models]
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        models, optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ) as averager:
        for index in range(4):
            for model, optimizer in zip(models, optimizers, strict=True):
                step(model, optimizer, DATA, index)
    frozen = mlp(seed=0).get_submodule("0").state_dict()
    for model in models:
        for name, value in model.get_submodule("0").state_dict().items():
            assert torch.equal(value, frozen[name])
    assert reports[0].weights is not None
    assert reports[0].weights.shape == (2, 2)  # two trained tensors
    assert torch.equal(averager.consensus()["0.weight"], frozen["weight"])


class WithSpare(nn.Module):
    """A network with a layer that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(INPUTS, OUTPUTS)
        self.spare = nn.Linear(2, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.used(inputs)
        return result


@pytest.mark.parametrize("frozen", [False, True], ids=["unused", "frozen"])
@pytest.mark.parametrize("guard", [None, grawa.Guard()], ids=["no guard", "guard"])
def test_a_tensor_without_gradient_is_averaged_with_equal_weights(
    frozen: bool, guard: grawa.Guard | None
) -> None:
    def make() -> nn.Module:
        model = WithSpare().double()
        model.spare.requires_grad_(not frozen)
        return model

    reports: list[grawa.RoundReport] = []
    fleet = Fleet(2, make, plain_sgd)
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.LGRAWA(),
        sync_every=2,
        guard=guard,
        on_round=[reports.append],
    ) as averager:
        fleet.train(DATA.workers([0, 1]), averager, tell_loss=False)
    weights = reports[-1].weights
    assert weights is not None
    assert weights[:, 2:].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert not torch.equal(weights[:, :2], weights[:, 2:])


class Tied(nn.Module):
    """Two layers that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, INPUTS, bias=False)
        self.second = nn.Linear(INPUTS, INPUTS, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(INPUTS, OUTPUTS, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(self.second(torch.tanh(self.first(inputs))))
        return result


@pytest.mark.parametrize("workers", [1, 3])
def test_a_shared_parameter_counts_once_and_stays_shared(workers: int) -> None:
    reports: list[grawa.RoundReport] = []
    fleet = Fleet(workers, lambda: Tied().double(), plain_sgd)
    with grawa.Averager(
        fleet.models,
        fleet.optimizers,
        grawa.MGRAWA(score=grawa.GradientNorms(decay=0.0)),
        sync_every=2,
        on_round=[reports.append],
    ) as averager:
        fleet.train(DATA.workers(range(workers)).steps(0, 2), averager)
    for model in fleet.models:
        assert model.get_parameter("first.weight") is model.get_parameter("second.weight")
    # With no decay the score is the last step's: the sum of the two tensors' norms.
    norms = [
        sum(float(p.grad.norm()) for p in m.parameters() if p.grad is not None)
        for m in fleet.models
    ]
    if workers > 1:  # one worker is asked for none
        assert reports[0].scores is not None
        assert reports[0].scores.flatten().tolist() == pytest.approx(norms, rel=1e-14)
    consensus = averager.consensus()
    assert torch.equal(consensus["first.weight"], consensus["second.weight"])
    Tied().double().load_state_dict(consensus)


def test_several_parameter_groups_in_any_order_are_one_model() -> None:
    def grouped(model: nn.Module) -> Optimizer:
        groups = [{"params": [p]} for p in reversed(list(model.parameters()))]
        return SGD(groups, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)

    assert torch.equal(
        averaged(grawa.LGRAWA(), DATA, optimizer=grouped)[0],
        averaged(grawa.LGRAWA(), DATA, optimizer=sgd)[0],
    )


class TwoDtypes(nn.Module):
    """A float32 layer before a float64 one."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(INPUTS, 4)
        self.wide = nn.Linear(4, OUTPUTS).double()

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.wide(self.narrow(inputs.float()).double())
        return result


@pytest.mark.parametrize("workers", [1, 3])
def test_dtypes_may_be_mixed(workers: int) -> None:
    fleet = Fleet(workers, TwoDtypes, plain_sgd)
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(pull=1.0, prox=0.0), sync_every=2
    ) as averager:
        fleet.train(DATA.workers(range(workers)).steps(0, 4), averager)
    consensus = averager.consensus()
    for model in fleet.models:
        for name, p in model.named_parameters():
            assert p.dtype == (torch.float64 if "wide" in name else torch.float32)
            assert torch.equal(p, consensus[name])


def test_bfloat16_models_train() -> None:
    workers, consensus = averaged(grawa.LGRAWA(), batches(8, 3, torch.bfloat16))
    assert workers.dtype == consensus.dtype == torch.bfloat16
    assert bool(torch.isfinite(workers).all())
