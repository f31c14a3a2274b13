"""Rounds that average or clear the momentum and other moments of the workers' optimizers."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Muon, Optimizer, RMSprop

import grawa
from grawa.rounds.plan import RoundPlan
from grawa.workers.optimizer_state import MOMENTS
from tests.helpers import Data, Fleet, batches, flat, mlp, poison, sgd
from tests.world import on_ranks

Options = dict[str, Any]
Make = Callable[[nn.Module], Optimizer]

WORKERS, STEPS = 4, 12
DATA = batches(STEPS, WORKERS, scales=[1.0, 0.5, 2.0, 1.5])


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.02, amsgrad=True)


def rmsprop(model: nn.Module) -> Optimizer:
    return RMSprop(model.parameters(), lr=0.01, momentum=0.5, centered=True)


OPTIMIZERS: Mapping[str, Make] = {"sgd": sgd, "adamw": adamw}


def trained(
    make: Make, data: Data = DATA, strategy: grawa.Strategy | None = None, **options: Any
) -> tuple[Fleet, grawa.Averager]:
    """This process's workers after all steps, with an averager that stays attached."""
    processes, process = (
        (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    )
    hosted = WORKERS // processes
    fleet = Fleet(hosted, mlp, make)
    given: Options = {"sync_every": 3, "optimizer_state": "average", "guard": None, **options}
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy or grawa.LocalSGD(), **given)
    averager.attach()
    fleet.train(data.workers(range(process * hosted, (process + 1) * hosted)), averager)
    return fleet, averager


def state_of(fleet: Fleet, key: str, k: int = 0) -> Tensor:
    """An entry of a worker's optimizer, of all parameters in one row."""
    state = fleet.optimizers[k].state
    return torch.cat([state[p][key].flatten() for p in fleet.models[k].parameters()])


def in_plain_torch(
    make: Make, every: int, weights: Sequence[float] = (0.25,) * 4, pull: float = 1.0
) -> Tensor:
    """The same training without grawa: parameters are pulled, and moments averaged."""
    fleet = Fleet(WORKERS, mlp, make)
    for step, (inputs, targets) in enumerate(zip(DATA.inputs, DATA.targets, strict=True), 1):
        fleet.backward(inputs, targets)
        for optimizer in fleet.optimizers:
            optimizer.step()
        if step % 3:
            continue
        tensors = [list(model.parameters()) for model in fleet.models]
        for rows in zip(*(tensors), strict=True):
            mean = sum(w * row.detach() for w, row in zip(weights, rows, strict=True))
            for row in rows:
                row.data.lerp_(mean, pull)
        if step % (3 * every):
            continue
        for params in zip(*tensors, strict=True):
            states = [o.state[p] for o, p in zip(fleet.optimizers, params, strict=True)]
            for key in set(states[0]) - {"step"}:
                mean = sum(state[key] for state in states) / WORKERS
                for state in states:
                    state[key] = mean.clone()
    return fleet.parameters()


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("make", [sgd, adamw, rmsprop])
def test_moments_are_averaged_in_every_so_many_rounds(make: Make, every: int) -> None:
    fleet, _ = trained(make, optimizer_state_every=every)
    expected = in_plain_torch(make, every)
    torch.testing.assert_close(fleet.parameters(), expected, rtol=0.0, atol=1e-12)


class Unequal(grawa.MGRAWA):
    """Workers with fixed weights."""

    def weights(self, scores: Tensor | None, active: Tensor, round: int) -> Tensor:
        return torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64)


def test_moments_have_equal_weights_whatever_those_of_the_parameters() -> None:
    fleet, _ = trained(adamw, strategy=Unequal(pull=0.5, prox=0.0))
    expected = in_plain_torch(adamw, 1, (0.4, 0.3, 0.2, 0.1), pull=0.5)
    torch.testing.assert_close(fleet.parameters(), expected, rtol=0.0, atol=1e-12)


def between_processes(optimizer: str, options: Options) -> tuple[Tensor, int]:
    fleet, averager = trained(OPTIMIZERS[optimizer], strategy=grawa.LGRAWA(), **options)
    return fleet.parameters(), averager.bytes_sent


@pytest.mark.world
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options", [{}, {"optimizer_state_every": 2, "fragments": 2}, {"optimizer_state": "reset"}]
)
def test_processes_and_hosted_workers_agree(optimizer: str, options: Options) -> None:
    alone, _ = between_processes(optimizer, options)
    found = on_ranks(2, between_processes, optimizer, options)
    together = torch.cat([params for params, _ in found])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-12)


@pytest.mark.world
def test_two_levels_agree() -> None:
    alone, _ = between_processes("adamw", {})
    found = on_ranks(4, between_processes, "adamw", {"hosts": [[0, 1], [2, 3]]})
    together = torch.cat([params for params, _ in found])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-12)


def test_with_a_round_at_each_step_momentum_is_that_of_synchronous_training() -> None:
    fleet, _ = trained(sgd, sync_every=1)
    model = mlp()
    optimizer = sgd(model)
    for inputs, targets in zip(DATA.inputs, DATA.targets, strict=True):
        optimizer.zero_grad()
        for x, y in zip(inputs, targets, strict=True):
            (nn.functional.mse_loss(model(x), y) / WORKERS).backward()
        optimizer.step()
    expected = flat(model).expand(WORKERS, -1)
    torch.testing.assert_close(fleet.parameters(), expected, rtol=0.0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:all 4 workers have exactly equal parameters")
@pytest.mark.parametrize("make", [sgd, adamw, rmsprop])
def test_equal_moments_stay_as_they_are(make: Make) -> None:
    """Workers with the same batches have the same state, which averages to itself, bit for bit."""
    same = DATA.workers([0] * WORKERS)
    averaged, _ = trained(make, same)
    local, _ = trained(make, same, optimizer_state="local")
    assert torch.equal(averaged.parameters(), local.parameters())


def test_what_is_sent_for_the_state() -> None:
    """A message like that with the parameters, and a small one that says who has which state."""
    sent = {
        every: trained(sgd, optimizer_state_every=every)[1].bytes_sent for every in (1, 2, 4, 8)
    }
    of_parameters = 2 * (WORKERS - 1) * flat(mlp()).nbytes / WORKERS
    of_marks = (WORKERS - 1) * 4 * (len(MOMENTS) + 1) * 8
    for every, rounds in ((1, 4), (2, 2), (4, 1)):
        assert sent[every] - sent[8] == rounds * (of_parameters + of_marks)


def test_a_reset_clears_moments_and_counts() -> None:
    fleet, _ = trained(adamw, optimizer_state="reset", optimizer_state_every=4)  # at the last step
    assert not any(optimizer.state for optimizer in fleet.optimizers)
    fleet, _ = trained(adamw, optimizer_state="reset", optimizer_state_every=3)
    assert {float(s["step"]) for o in fleet.optimizers for s in o.state.values()} == {3.0}


def test_a_reset_of_a_fragment_clears_its_own_state() -> None:
    fleet, _ = trained(adamw, DATA.steps(0, 5), optimizer_state="reset", sync_every=4, fragments=2)
    steps = [fleet.optimizers[0].state[p]["step"].item() for p in fleet.models[0].parameters()]
    assert set(steps) == {1.0, 3.0}  # since the rounds of the two fragments, at steps 2 and 4


def test_a_reset_may_overlap_with_local_steps() -> None:
    fleet, _ = trained(
        adamw, DATA.steps(0, 6), optimizer_state="reset", sync_every=4, overlap_steps=2
    )
    assert not any(optimizer.state for optimizer in fleet.optimizers)


def test_a_worker_that_is_reset_gives_nothing_and_starts_with_an_empty_state() -> None:
    fleet = Fleet(WORKERS, mlp, adamw)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=3, optimizer_state="average"
    )
    averager.attach()
    fleet.train(DATA.steps(0, 2), averager)
    poison(fleet.models[1])
    for state in fleet.optimizers[1].state.values():
        state["exp_avg_sq"].fill_(torch.nan)
    fleet.train(DATA.steps(2, 3), averager)
    assert not fleet.optimizers[1].state
    assert torch.equal(state_of(fleet, "exp_avg", 0), state_of(fleet, "exp_avg", 3))
    assert state_of(fleet, "exp_avg_sq").isfinite().all()


def test_a_worker_that_is_left_out_for_its_loss_gives_nothing_and_gets_the_others_state() -> None:
    data = batches(3, WORKERS, scales=[1.0, 1.0, 1.0, 100.0])
    fleet, _ = trained(sgd, data, guard=grawa.Guard(size_ratio=math.inf))
    local, _ = trained(sgd, data, optimizer_state="local")
    own = [state_of(local, "momentum_buffer", k) for k in range(WORKERS)]
    expected = torch.stack(own[:3]).mean(dim=0)
    for k in range(WORKERS):
        torch.testing.assert_close(state_of(fleet, "momentum_buffer", k), expected)
    assert own[3].norm() > 100.0 * expected.norm()


def test_a_state_that_is_not_finite_is_replaced_by_the_others() -> None:
    """An infinite second moment leaves parameters finite, so the guard does not see it."""
    fleet = Fleet(WORKERS, mlp, adamw)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=3, optimizer_state="average"
    )
    averager.attach()
    fleet.train(DATA.steps(0, 2), averager)
    for state in fleet.optimizers[2].state.values():
        state["exp_avg_sq"].fill_(torch.inf)
    fleet.train(DATA.steps(2, 3), averager)
    for k in range(WORKERS):
        assert state_of(fleet, "exp_avg_sq", k).isfinite().all()
        assert (state_of(fleet, "exp_avg_sq", k) >= 0.0).all()


def test_workers_with_fewer_steps_get_the_estimates_of_the_others() -> None:
    """AdamW divides by 1 - beta^steps, and each worker's count stays its own."""
    fleet = Fleet(WORKERS, mlp, adamw)
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=6, optimizer_state="average"
    )
    averager.attach()
    fleet.train(DATA.steps(0, 3), averager)
    fleet.optimizers[1].state.clear()
    fleet.train(DATA.steps(3, 6), averager)
    counts = [next(iter(o.state.values()))["step"].item() for o in fleet.optimizers]
    assert counts == [6.0, 3.0, 6.0, 6.0]
    for key, beta in (("exp_avg", 0.9), ("exp_avg_sq", 0.999)):
        estimates = [state_of(fleet, key, k) / (1.0 - beta**made) for k, made in enumerate(counts)]
        torch.testing.assert_close(estimates[1], estimates[0])


class Routed(nn.Module):
    """Two layers, of which a worker uses one or both."""

    def __init__(self, used: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(mlp(seed=seed) for seed in (0, 1))
        self.used = used

    def forward(self, inputs: Tensor) -> Tensor:
        return sum((self.layers[i](inputs) for i in self.used), torch.zeros(()))


def routed(optimizer: str) -> tuple[Tensor, list[int]]:
    """Trains two workers that use different layers, and one that uses both."""
    processes, process = (
        (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    )
    used = [(0,), (1,), (0, 1)][process::processes] if processes > 1 else [(0,), (1,), (0, 1)]
    models = iter([Routed(layers) for layers in used])
    fleet = Fleet(len(used), lambda: next(models), OPTIMIZERS[optimizer])
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, optimizer_state="average"
    )
    averager.attach()
    workers = range(process, process + 1) if processes > 1 else range(3)
    fleet.train(DATA.steps(0, 6).workers(workers), averager)
    return fleet.parameters(), [len(optimizer.state) for optimizer in fleet.optimizers]


@pytest.mark.world
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_workers_that_have_not_trained_a_tensor_have_no_part_in_its_state(optimizer: str) -> None:
    alone, held = routed(optimizer)
    assert held == [4, 4, 8]
    found = on_ranks(3, routed, optimizer)
    together = torch.cat([params for params, _ in found])
    torch.testing.assert_close(together, alone, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"optimizer_state_every": 2, "fragments": 2}], ids=str)
@pytest.mark.parametrize("make", [sgd, adamw])
def test_training_goes_on_bit_for_bit(make: Make, options: Options) -> None:
    whole, _ = trained(make, sync_every=2, **options)
    first, averager = trained(make, DATA.steps(0, 5), sync_every=2, **options)
    saved = averager.state_dict()
    states = deepcopy([optimizer.state_dict() for optimizer in first.optimizers])
    again = Fleet(WORKERS, mlp, make)
    for model, other in zip(again.models, first.models, strict=True):
        model.load_state_dict(other.state_dict())
    for optimizer, state in zip(again.optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    given = {"sync_every": 2, "optimizer_state": "average", "guard": None, **options}
    resumed = grawa.Averager(again.models, again.optimizers, grawa.LocalSGD(), **given)
    resumed.load_state_dict(saved)
    resumed.attach()
    again.train(DATA.steps(5, STEPS), resumed)
    assert torch.equal(again.parameters(), whole.parameters())


def test_a_saved_state_tells_what_was_averaged() -> None:
    _, averager = trained(sgd)
    _, local = trained(sgd, optimizer_state="local")
    with pytest.raises(grawa.UserError, match="optimizer_state: average saved, none here"):
        local.load_state_dict(averager.state_dict())
    local.load_state_dict(averager.state_dict(), strict=False)


def test_muon_beside_adamw() -> None:
    fleet = Fleet(2, mlp)
    several = [
        [
            Muon([p for p in model.parameters() if p.dim() == 2], lr=0.01),
            AdamW([p for p in model.parameters() if p.dim() == 1], lr=0.01),
        ]
        for model in fleet.models
    ]
    averager = grawa.Averager(
        fleet.models, several, grawa.LocalSGD(), sync_every=2, optimizer_state="average"
    )
    with averager:
        for inputs, targets in zip(DATA.inputs[:4], DATA.targets[:4], strict=True):
            fleet.backward(inputs[:2], targets[:2])
            for optimizer in (o for own in several for o in own):
                optimizer.step()
    for one, other in zip(*several, strict=True):
        for a, b in zip(one.state.values(), other.state.values(), strict=True):
            assert all(torch.equal(torch.as_tensor(a[key]), torch.as_tensor(b[key])) for key in a)


class Sketchy(SGD):
    """Keeps something in its state that can't be known."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["basis"] = torch.eye(2)
        return loss


def test_a_state_that_is_not_known_is_refused() -> None:
    with pytest.raises(grawa.UserError, match=r"Sketchy keeps 'basis' for parameter '0.weight'"):
        trained(lambda model: Sketchy(model.parameters(), lr=0.1), optimizer_state_every=4)
    for kind in ("local", "reset"):
        trained(lambda model: Sketchy(model.parameters(), lr=0.1), optimizer_state=kind)


def test_states_of_different_dtypes_are_refused() -> None:
    fleet, averager = trained(sgd, DATA.steps(0, 2))
    for state in fleet.optimizers[2].state.values():
        state["momentum_buffer"] = state["momentum_buffer"].float()
    with pytest.raises(grawa.UserError, match=r"'0.weight' is torch.float64 on some .*float32 on"):
        averager.synchronize()


class ScheduleFreeSGD(Optimizer):
    """Holds y in the parameters and z in the state, as the package `schedulefree` does."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1, "beta": 0.9})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.clone())
                z.sub_(p.grad, alpha=group["lr"])
                p.lerp_(z, 1.0 - group["beta"])


@pytest.mark.parametrize("kind", ["local", "average", "reset"])
def test_schedule_free_optimizers_are_refused(kind: str) -> None:
    with pytest.raises(grawa.UserError, match="use the optimizer without schedule-free"):
        trained(lambda model: ScheduleFreeSGD(model.parameters()), optimizer_state=kind)


@pytest.mark.parametrize("how", ["guard", "reset"])
def test_adagrad_goes_on_after_its_state_is_cleared(how: str) -> None:
    """It makes its state when it is constructed, and expects to find it."""
    fleet = Fleet(WORKERS, mlp, lambda model: Adagrad(model.parameters(), lr=0.05))
    averager = grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=2,
        optimizer_state="reset" if how == "reset" else "local",
    )  # fmt: skip
    averager.attach()
    fleet.train(DATA.steps(0, 3), averager)
    if how == "guard":
        poison(fleet.models[1])
    fleet.train(DATA.steps(3, 6), averager)
    assert fleet.parameters().isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer_state": "mean"}, 'must be "local", "average" or "reset", got \'mean\''),
        ({"optimizer_state": "reset", "optimizer_state_every": 0}, "must be at least 1, got 0"),
        ({"optimizer_state_every": 2}, "has no effect on a state that stays local"),
        ({"optimizer_state": "average", "overlap_steps": 1}, "would bring back the state of 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: Options, message: str) -> None:
    with pytest.raises(grawa.UserError, match=message):
        RoundPlan(strategy=grawa.LocalSGD(), **options)
