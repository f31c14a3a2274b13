"""Loops and models as they are found in the wild: each trains as it should, the first time."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import SGD, AdamW, Optimizer

import grawa
from tests.helpers import STRATEGIES, Fleet, alone, batches, flat, mlp, sgd, shown
from tests.helpers import step as one_step
from tests.world import on_ranks, start_anew

TIMEOUT = timedelta(seconds=20)


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_worker_trains_exactly_as_without_an_averager(name: str) -> None:
    if STRATEGIES[name].team_sizes() or STRATEGIES[name].moves_one_worker:
        return  # a team needs several workers; the others move one worker, and are asked for
    data = batches(steps=12, workers=1)
    fleet = Fleet(1)
    with grawa.Averager(fleet.models, fleet.optimizers, STRATEGIES[name], sync_every=3) as averager:
        fleet.train(data, averager)
    assert torch.equal(fleet.parameters(), alone(data))
    consensus = averager.consensus()
    assert all(torch.equal(consensus[n], p) for n, p in fleet.models[0].named_parameters())


def test_an_outer_optimizer_on_one_worker_is_asked_for_by_name() -> None:
    data = batches(steps=12, workers=1)
    fleet = Fleet(1)
    outer = grawa.OuterSteps(outer=grawa.OuterNesterov(lr=0.5, momentum=0.0))
    with grawa.Averager(fleet.models, fleet.optimizers, outer, sync_every=12) as averager:
        start = fleet.parameters()
        fleet.train(data, averager)
    moved, whole = fleet.parameters() - start, alone(data) - start
    torch.testing.assert_close(moved, 0.5 * whole)


def two_optimizers(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if p.dim() != 2]
    return [torch.optim.Muon(matrices, lr=0.05), AdamW(rest, lr=0.01)]


def muon_and_adamw(hosted: int, strategy: grawa.Strategy) -> tuple[int, int, Tensor]:
    models = [mlp(torch.float32) for _ in range(hosted)]
    optimizers = [two_optimizers(model) for model in models]
    given: Any = models if hosted > 1 else models[0]
    steppers: Any = optimizers if hosted > 1 else optimizers[0]
    data = batches(steps=6, workers=2, dtype=torch.float32)
    first = dist.get_rank() * hosted if dist.is_initialized() else 0
    with grawa.Averager(given, steppers, strategy, sync_every=3) as averager:
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            for k, model in enumerate(models):
                model.zero_grad()
                (model(inputs[first + k]) - targets[first + k]).square().mean().backward()
            for its in optimizers:
                for optimizer in its:
                    optimizer.step()
    return averager.step, averager.round, flat(models[0])


@pytest.mark.world
@pytest.mark.parametrize("strategy", [grawa.LocalSGD(), grawa.DiLoCo()], ids=shown)
def test_several_optimizers_of_one_model_make_one_step(strategy: grawa.Strategy) -> None:
    (step, rounds, ours), (_, _, theirs) = on_ranks(2, muon_and_adamw, 1, strategy)
    assert (step, rounds) == (6, 2)
    assert torch.equal(ours, theirs)
    hosted = muon_and_adamw(2, strategy)
    assert hosted[:2] == (6, 2)
    torch.testing.assert_close(hosted[2], ours)


def test_outer_steps_of_one_worker_are_made_around_muon() -> None:
    lr, momentum = 0.7, 0.5
    outer = grawa.OuterSteps(outer=grawa.OuterNesterov(lr=lr, momentum=momentum))
    _, _, found = muon_and_adamw(1, outer)
    model, data = mlp(torch.float32), batches(steps=6, workers=2, dtype=torch.float32)
    optimizers = two_optimizers(model)
    center, velocity = flat(model), torch.zeros_like(flat(model))
    for step in range(6):
        model.zero_grad()
        (model(data.inputs[step, 0]) - data.targets[step, 0]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        if step % 3 == 2:
            moved = center - flat(model)
            velocity = momentum * velocity + moved
            center = center - lr * (moved + momentum * velocity)
            torch.nn.utils.vector_to_parameters(center.clone(), model.parameters())
    torch.testing.assert_close(found, center)


def gan() -> list[tuple[int, int, bool]]:
    torch.manual_seed(0)
    generator, critic = nn.Linear(2, 2), nn.Linear(2, 1)
    first, second = SGD(generator.parameters(), lr=0.1), SGD(critic.parameters(), lr=0.1)
    torch.manual_seed(dist.get_rank())
    found: list[tuple[int, int, bool]] = []
    with (
        grawa.Averager(generator, first, grawa.LocalSGD(), sync_every=2, timeout=TIMEOUT) as one,
        grawa.Averager(critic, second, grawa.LGRAWA(pull=1.0), sync_every=4) as other,
    ):
        for _ in range(8):
            for optimizer in (second, first):
                optimizer.zero_grad()
                critic(generator(torch.randn(4, 2))).square().mean().backward()
                optimizer.step()
    for averager, model in ((one, generator), (other, critic)):
        sums: list[Any] = [None, None]
        dist.all_gather_object(sums, flat(model))
        found.append((averager.step, averager.round, torch.equal(*sums)))
    return found


@pytest.mark.world
def test_a_gan_has_an_averager_for_each_of_its_models() -> None:
    assert on_ranks(2, gan) == [[(8, 4, True), (8, 2, True)]] * 2


def clipped(
    strategy: grawa.Strategy, clip: Callable[[list[nn.Sequential], grawa.Averager], Any]
) -> list[float]:
    """Mean weights of four workers, of which the last has batches of 2, the others of 64."""
    torch.manual_seed(0)
    seen: list[Tensor] = []
    models = [nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 3)) for _ in range(4)]
    optimizers = [SGD(model.parameters(), lr=0.05) for model in models]
    truth = torch.randn(20, 3)

    def note(report: grawa.RoundReport) -> None:
        assert report.weights is not None
        seen.append(report.weights)

    with grawa.Averager(models, optimizers, strategy, sync_every=8, on_round=[note]) as averager:
        for _ in range(32):
            for size, model, optimizer in zip((64, 64, 64, 2), models, optimizers, strict=True):
                optimizer.zero_grad()
                inputs = torch.randn(size, 20)
                nn.functional.cross_entropy(model(inputs), (inputs @ truth).argmax(1)).backward()
            clip(models, averager)
            for optimizer in optimizers:
                optimizer.step()
    return torch.stack(seen).mean(0).mean(1).tolist()


@pytest.mark.parametrize("strategy", [grawa.MGRAWA(), grawa.LGRAWA()])
def test_clipping_by_the_averager_leaves_the_weights_as_they_were(
    strategy: grawa.Strategy,
) -> None:
    free = clipped(strategy, lambda models, averager: None)
    bound = clipped(strategy, lambda models, averager: averager.clip_grad_norm_(0.1))
    assert free[3] < 0.15
    assert abs(bound[3] - free[3]) < 0.04


def test_clipping_by_torch_is_noticed_and_said_once() -> None:
    def by_torch(models: list[nn.Sequential], averager: grawa.Averager) -> None:
        for model in models:
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)

    with pytest.warns(UserWarning, match="call averager.clip_grad_norm_") as said:
        clipped(grawa.MGRAWA(), by_torch)
    assert [warning.filename for warning in said] == [__file__]


def test_clipping_is_what_torch_does() -> None:
    ours, theirs = Fleet(2), Fleet(2)
    averager = grawa.Averager(ours.models, ours.optimizers, grawa.LGRAWA())
    data = batches(steps=1, workers=2)
    for fleet in (ours, theirs):
        fleet.backward(data.inputs[0], data.targets[0])
    norms = [nn.utils.clip_grad_norm_(model.parameters(), 0.3) for model in theirs.models]
    torch.testing.assert_close(averager.clip_grad_norm_(0.3), torch.stack(norms))
    for mine, its in zip(ours.models, theirs.models, strict=True):
        for p, q in zip(mine.parameters(), its.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def with_hooked_state_dict(kind: str) -> nn.Module:
    model = mlp()
    if kind == "copies":
        model._register_state_dict_hook(
            lambda module, state, prefix, meta: {k: v.detach().clone() for k, v in state.items()}
        )
    if kind == "casts":
        model._register_state_dict_hook(
            lambda module, state, prefix, meta: {k: v.float() for k, v in state.items()}
        )
    if kind == "partial":
        model._register_state_dict_hook(
            lambda module, state, prefix, meta: {"0.weight": state["0.weight"]}
        )
    return model


@pytest.mark.parametrize("kind", ["plain", "copies", "casts", "partial"])
def test_state_dict_hooks_see_the_consensus(kind: str) -> None:
    fleet = Fleet(2, lambda: with_hooked_state_dict(kind))
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=3) as averager:
        fleet.train(batches(steps=4, workers=2), averager)
        own = fleet.parameters()
        state = averager.consensus()
        assert torch.equal(fleet.parameters(), own)
        with averager.consensus_applied() as model:
            expected = model.get_parameter("0.weight").detach().clone()
    assert torch.equal(state["0.weight"], expected.to(state["0.weight"]))
    assert not torch.equal(expected, fleet.models[0].get_parameter("0.weight"))


def test_evaluating_the_consensus_leaves_modes_alone() -> None:
    fleet = Fleet(2, lambda: nn.Sequential(mlp(), nn.Dropout()))
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA())
    fleet.models[0].eval()
    with averager.consensus_applied() as model:
        assert not model.training
    assert not fleet.models[0].training


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_is_counted_and_averaged() -> None:
    fleet = Fleet(2)
    compiled = [torch.compile(optimizer.step, backend="eager") for optimizer in fleet.optimizers]
    data = batches(steps=4, workers=2)
    with grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2) as averager:
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            fleet.backward(inputs, targets)
            for move in compiled:
                move()
    assert (averager.step, averager.round) == (4, 2)


@pytest.mark.parametrize("schedule", [grawa.Every(4), grawa.SharedCount(4)], ids=repr)
@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_is_not_counted(fused: bool, schedule: grawa.Every) -> None:
    model = nn.Linear(4, 4)
    optimizer = SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    rounds: list[grawa.RoundReport] = []
    with grawa.Averager(
        model, optimizer, grawa.LGRAWA(), schedule=schedule, on_round=[rounds.append]
    ) as averager:
        for number in range(9):
            optimizer.zero_grad()
            inputs = torch.full((2, 4), torch.inf if number in (2, 5) else 1.0)
            scaler.scale(model(inputs).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
    assert averager.step == 7
    assert [report.step for report in rounds] == [4, 7]


class Recurrent(nn.Module):
    """A module that moves its weights to other memory in each pass, as cuDNN's do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2).double()

    def forward(self, inputs: Tensor) -> Tensor:
        for parameter in self.inner.parameters():
            parameter.data = parameter.data.clone()
        out: Tensor = self.inner(inputs)
        return out


def moving_weights(hosted: int, strategy: grawa.Strategy) -> list[Tensor]:
    torch.manual_seed(0)
    models = [Recurrent() for _ in range(hosted)]
    optimizers = [sgd(model) for model in models]
    data = batches(steps=6, workers=2)
    first = dist.get_rank() * hosted if dist.is_initialized() else 0
    averager = grawa.Averager(models, optimizers, strategy, sync_every=2)
    averager.attach()
    for inputs, targets in zip(data.inputs, data.targets, strict=True):
        for k, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            (model(inputs[first + k]) - targets[first + k]).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    return [flat(model) for model in models]


@pytest.mark.world
@pytest.mark.parametrize("strategy", [grawa.LocalSGD(), grawa.LGRAWA(prox=0.1)])
def test_weights_that_move_in_memory_are_averaged_where_they_are(
    strategy: grawa.Strategy,
) -> None:
    hosted = moving_weights(2, strategy)
    ranks = on_ranks(2, moving_weights, 1, strategy)
    if isinstance(strategy, grawa.LocalSGD):
        assert torch.equal(hosted[0], hosted[1])
    for mine, (its,) in zip(hosted, ranks, strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-12)


def test_parameters_stay_where_the_user_put_them() -> None:
    model = mlp()
    addresses = [p.data_ptr() for p in model.parameters()]
    grawa.Averager(model, sgd(model), grawa.LGRAWA())
    assert [p.data_ptr() for p in model.parameters()] == addresses


def forked() -> bool:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    averager = grawa.Averager(model, SGD(model.parameters(), lr=0.1), grawa.LGRAWA())
    before = flat(model)
    if (child := os.fork()) == 0:
        with torch.no_grad():
            model.weight.zero_()
        os._exit(0)
    os.waitpid(child, 0)
    return averager.num_workers == 2 and torch.equal(flat(model), before)


@pytest.mark.world
def test_a_forked_child_does_not_write_into_its_parents_model() -> None:
    assert on_ranks(2, forked) == [True, True]


class WithEmpty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that there is nothing to initialise
            self.empty, self.layer = nn.Linear(0, 3), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.layer(inputs) + self.empty(inputs[:, :0])
        return out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fragments": 2},
        {"comm_dtype": "int8"},
        {"comm_dtype": "bf16"},
        {"comm_dtype": grawa.TopK()},
        {"overlap_steps": 1},
        {"measure_distance": True},
    ],
    ids=str,
)
def test_empty_parameters_are_no_obstacle(options: dict[str, Any]) -> None:
    fleet = Fleet(2, WithEmpty, lambda model: SGD(model.parameters(), lr=0.1))
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2, **options
    )
    averager.attach()
    for _ in range(4):
        for model in fleet.models:
            model(torch.randn(4, 3)).square().mean().backward()
        for optimizer in fleet.optimizers:
            optimizer.step()
    averager.detach()
    for p, q in zip(fleet.models[0].parameters(), fleet.models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def complex_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 2, dtype=torch.complex128)


@pytest.mark.parametrize("strategy", [grawa.LocalSGD(), grawa.LGRAWA(), grawa.DataParallel()])
def test_complex_parameters_are_averaged(strategy: grawa.Strategy) -> None:
    models = [complex_model() for _ in range(2)]
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    averager = grawa.Averager(models, optimizers, strategy, sync_every=2, guard=None)
    averager.attach()
    for _ in range(2):
        for model in models:
            model.zero_grad()
            inputs = torch.randn(8, 4, dtype=torch.complex128)
            model(inputs).abs().square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
    first, second = (model.get_parameter("weight").detach() for model in models)
    assert first.imag.abs().min() > 0.0
    if not isinstance(strategy, grawa.LGRAWA):
        assert torch.equal(first, second)


def averagers_one_after_another() -> list[tuple[int, int]]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    seen: list[tuple[int, int]] = []
    for _ in range(5):
        with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1, timeout=TIMEOUT):
            model(torch.randn(2, 8)).sum().backward()
            optimizer.step()
        gc.collect()
        seen.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
    return seen


@pytest.mark.world
def test_an_averager_for_each_epoch_leaks_nothing() -> None:
    start_anew()
    for seen in on_ranks(2, averagers_one_after_another):
        assert all(later <= earlier for earlier, later in pairwise(seen[1:])), seen


@pytest.fixture
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("default_device")
def test_a_default_device_changes_nothing() -> None:
    with torch.device("cpu"):
        fleet, data = Fleet(2), batches(steps=4, workers=2)
        losses = torch.ones(2)
        for model in fleet.models:
            model.register_buffer("count", torch.zeros(2))
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, fragments=2, overlap_steps=0
    ) as averager:
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            with torch.device("cpu"):
                fleet.backward(inputs, targets)
            averager.record_loss(losses)
            averager.clip_grad_norm_(1.0)
            for optimizer in fleet.optimizers:
                with torch.device("cpu"):
                    optimizer.step()
        averager.load_state_dict(averager.state_dict())
        assert averager.consensus()["0.weight"].device.type == "cpu"
        assert averager.round == 4


def test_a_state_dict_is_a_snapshot() -> None:
    fleet = Fleet(2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=3)
    averager.attach()
    data = batches(steps=8, workers=2)
    fleet.train(data.steps(0, 4), averager)
    saved = averager.state_dict()
    before = str(saved)
    fleet.train(data.steps(4, 8), averager)
    assert str(saved) == before


def test_bfloat16_is_pulled_by_less_than_it_can_hold_over_several_steps() -> None:
    """A proximal pull moves each step by less than half a unit in the last place."""
    torch.manual_seed(0)
    models = [nn.Linear(64, 64, bias=False).bfloat16() for _ in range(2)]
    optimizers = [SGD(model.parameters(), lr=0.0) for model in models]
    averager = grawa.Averager(
        models, optimizers, grawa.LGRAWA(pull=0.0, prox=0.5), sync_every=64, guard=None
    )
    averager.attach()
    center = models[0].weight.detach().clone().float()
    with torch.no_grad():
        for model in models:
            model.weight.mul_(1.5)
    exact = models[0].weight.detach().float()
    for _ in range(60):
        for model in models:
            model(torch.randn(2, 64).bfloat16()).float().square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
        exact = exact.lerp(center, 0.5 / 64)
    error = (models[0].weight.detach().float() - exact).abs() / exact.abs()
    assert float(error.max()) < 2**-8


def test_a_lone_step_of_one_model_in_the_wild() -> None:
    model = mlp()
    optimizer = sgd(model)
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1) as averager:
        one_step(model, optimizer, batches(steps=1, workers=1), 0)
    assert averager.step == 1


def test_evaluating_in_inference_mode_leaves_training_as_it_was() -> None:
    def run(evaluates: bool) -> Tensor:
        fleet, data = Fleet(2), batches(steps=9, workers=2)
        averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2)
        averager.attach()
        for index in range(9):
            fleet.train(data.steps(index, index + 1), averager)
            if evaluates:
                with torch.inference_mode(), averager.consensus_applied() as model:
                    model(data.inputs[0, 0])
        return fleet.parameters()

    assert torch.equal(run(True), run(False))


def test_sparse_gradients_are_clipped_too() -> None:
    models = [nn.EmbeddingBag(5, 3, sparse=True) for _ in range(2)]
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    with grawa.Averager(models, optimizers, grawa.LGRAWA(), sync_every=1) as averager:
        for model in models:
            model(torch.tensor([[0, 1], [1, 1]])).sum().backward()
        norms = averager.clip_grad_norm_(0.5)
        assert norms.shape == (2,)
        for model in models:
            grad = model.weight.grad
            assert grad is not None
            torch.testing.assert_close(grad.to_dense().norm(), torch.tensor(0.5), rtol=1e-4, atol=0)
        for optimizer in optimizers:
            optimizer.step()


def meshed() -> list[int]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("across", "within"))
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(grawa.UserError, match="pass the one along which workers lie"):
        grawa.Averager(model, optimizer, grawa.LGRAWA(), process_group=mesh)
    averager = grawa.Averager(model, optimizer, grawa.LGRAWA(), process_group=mesh["across"])
    return [averager.num_workers]


@pytest.mark.world
def test_a_device_mesh_says_who_averages() -> None:
    assert on_ranks(4, meshed) == [[2]] * 4
