"""What every strategy owes its users, whichever it is."""

import dataclasses
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import grawa
from grawa.comm import InProcessCommunicator, Participants
from grawa.math.leaves import Leaves
from grawa.strategies import InverseLoss, RandomWeights
from grawa.strategies.protocol import first_state
from grawa.workers.stack import stack_of
from tests.helpers import (
    STRATEGIES,
    Data,
    Fleet,
    averaged,
    batches,
    everyone,
    flat_state,
    mlp,
    plain_sgd,
    sgd,
    shown,
)

WORKERS = 4

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])


def scores_of(strategy: grawa.Strategy, names: list[str], values: list[float]) -> Tensor | None:
    """What a driver hands to `sync`: a row of equal scores for each worker, (N, G)."""
    if strategy.score is None:
        return None
    num_groups = max(strategy.groups(names)) + 1
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1).expand(-1, num_groups).clone()


def rounds_of(
    strategy: grawa.Strategy, models: list[nn.Module], move: Callable[[Leaves | Tensor], None]
) -> None:
    """Two rounds with a drift in between, the models moved before each."""
    names = [name for name, _ in models[0].named_parameters()]
    params = stack_of([dict(m.named_parameters()) for m in models], names)
    state, comm = first_state(strategy, params, len(models)), everyone(len(models))
    scores = scores_of(strategy, names, [1.0 + k for k in range(len(models))])
    with torch.no_grad():
        for number in range(2):
            for rows in params.values():
                move(rows)
            strategy.sync(params, scores, state, comm, number)
            strategy.drift(params, state, 0.5)


DRAWN = "local sgd with drawn pulls"
"""By its number a worker knows when it is pulled."""


@pytest.mark.filterwarnings("ignore:all . workers have exactly equal")
@pytest.mark.parametrize(
    "strategy", [strategy for name, strategy in STRATEGIES.items() if name != DRAWN], ids=shown
)
def test_equal_workers_stay_equal_bit_for_bit(strategy: grawa.Strategy) -> None:
    data = batches(steps=6, workers=1).workers([0] * WORKERS)
    workers, _ = averaged(strategy, data, guard=grawa.Guard())
    assert all(torch.equal(row, workers[0]) for row in workers)


@every_strategy
@every_dtype
def test_workers_on_the_center_stay_on_it_bit_for_bit(
    strategy: grawa.Strategy, dtype: torch.dtype
) -> None:
    models = [mlp(dtype) for _ in range(WORKERS)]
    rounds_of(strategy, models, move=lambda rows: None)
    expected = mlp(dtype).state_dict()
    for model in models:
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name])


BLIND = {n: s for n, s in STRATEGIES.items() if n not in ("random", "krum", DRAWN)}
"""Those to which it is all the same which number a worker has; Krum takes the first of two workers
that are each other's nearest."""


@pytest.mark.parametrize(
    "strategy",
    [strategy for name, strategy in BLIND.items() if "teams" not in name],
    ids=[name for name in BLIND if "teams" not in name],
)
@pytest.mark.parametrize("guard", [None, grawa.Guard()], ids=["no guard", "guard"])
def test_relabelling_the_workers_relabels_the_result(
    strategy: grawa.Strategy, guard: grawa.Guard | None
) -> None:
    data = batches(steps=8, workers=WORKERS, scales=(1.0, 0.2, 1.5, 0.8))
    order = [2, 0, 3, 1]
    workers, consensus = averaged(strategy, data, guard=guard)
    relabelled, same_consensus = averaged(strategy, data.workers(order), guard=guard)
    torch.testing.assert_close(relabelled, workers[order], rtol=0.0, atol=1e-12)
    torch.testing.assert_close(same_consensus, consensus, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("strategy", BLIND.values(), ids=BLIND)
def test_relabelling_whole_teams_relabels_the_result(strategy: grawa.Strategy) -> None:
    data = batches(steps=8, workers=WORKERS)
    order = [3, 2, 0, 1]
    workers, consensus = averaged(strategy, data)
    relabelled, same_consensus = averaged(strategy, data.workers(order))
    torch.testing.assert_close(relabelled, workers[order], rtol=0.0, atol=1e-12)
    torch.testing.assert_close(same_consensus, consensus, rtol=0.0, atol=1e-12)


@every_dtype
@pytest.mark.parametrize(
    ("strategy", "workers"),
    [
        pytest.param(strategy, workers, id=f"{name}-{workers}")
        for name, strategy in STRATEGIES.items()
        for workers in (1, WORKERS)
        if workers > 1 or "teams" not in name
    ],
)
def test_parameters_keep_dtype_shape_strides_and_memory(
    strategy: grawa.Strategy, dtype: torch.dtype, workers: int
) -> None:
    models: list[nn.Module] = [
        nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 2)).to(  # type: ignore[call-overload]
            dtype=dtype, memory_format=torch.channels_last
        )
        for _ in range(workers)
    ]
    forms = [[form(p)[:3] for model in models for p in model.parameters()]]

    def note(_: object) -> None:
        forms.append([form(p) for model in models for p in model.parameters()])

    rounds_of(strategy, models, move=note)
    note(None)
    # Being hosted moves parameters once; no round does.
    assert [entry[:3] for entry in forms[1]] == forms[0]
    assert all(later == forms[1] for later in forms[1:])


def form(p: Tensor) -> tuple[Any, ...]:
    return p.dtype, p.shape, p.stride(), p.data_ptr()


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.01)


class Run:
    """Workers in training, with everything that must be saved."""

    def __init__(
        self, strategy: grawa.Strategy, optimizer: Callable[[nn.Module], Optimizer]
    ) -> None:
        self.fleet = Fleet(WORKERS, optimizer=optimizer)
        self.averager = grawa.Averager(
            self.fleet.models, self.fleet.optimizers, strategy, sync_every=3
        )
        self.averager.attach()

    def train(self, data: Data) -> None:
        self.fleet.train(data, self.averager)

    def state(self) -> dict[str, Any]:
        return {
            "models": [model.state_dict() for model in self.fleet.models],
            "optimizers": [optimizer.state_dict() for optimizer in self.fleet.optimizers],
            "averager": self.averager.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        for model, saved in zip(self.fleet.models, state["models"], strict=True):
            model.load_state_dict(saved)
        for optimizer, saved in zip(self.fleet.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.averager.load_state_dict(state["averager"])


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """What a state is after it was written and read, without running code from the file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@every_strategy
@pytest.mark.parametrize(
    ("optimizer", "stop"),
    [(sgd, 4), (sgd, 6), (adam, 8)],
    ids=["after a round", "at a round", "before a round"],
)
def test_training_that_was_stopped_goes_on_bit_for_bit(
    strategy: grawa.Strategy, optimizer: Callable[[nn.Module], Optimizer], stop: int
) -> None:
    data = batches(steps=14, workers=WORKERS)
    whole = Run(strategy, optimizer)
    whole.train(data)
    first = Run(strategy, optimizer)
    first.train(data.steps(0, stop))
    second = Run(strategy, optimizer)
    second.load(through_a_file(first.state()))
    second.train(data.steps(stop, 14))
    assert torch.equal(second.fleet.parameters(), whole.fleet.parameters())
    assert (second.averager.step, second.averager.round) == (14, 4)
    model = whole.fleet.models[0]
    assert torch.equal(
        flat_state(model, second.averager.consensus()),
        flat_state(model, whole.averager.consensus()),
    )


def test_a_state_of_another_strategy_is_refused() -> None:
    saved = Run(grawa.DiLoCo(), sgd).averager.state_dict()
    with pytest.raises(grawa.UserError, match="load it into the strategy it was saved from"):
        Run(grawa.LocalSGD(), sgd).averager.load_state_dict(saved)


@every_strategy
@pytest.mark.parametrize("left_out", [0, 2])
def test_a_worker_that_is_left_out_does_not_touch_the_others(
    strategy: grawa.Strategy, left_out: int
) -> None:
    params = {"x": torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)}
    state = first_state(strategy, params, WORKERS)
    params["x"][left_out] = math.nan
    active = torch.ones(WORKERS, dtype=torch.bool)
    active[left_out] = False
    others = Participants(InProcessCommunicator(WORKERS), active)
    values = [3.0, 1.0, 2.0, 4.0]
    values[left_out] = 0.0
    weights = strategy.sync(params, scores_of(strategy, ["x"], values), state, others, 0)
    strategy.drift(params, state, 0.5)
    consensus = strategy.consensus(params, state, others)
    assert bool(torch.isfinite(params["x"][active]).all())
    assert bool(torch.isfinite(consensus["x"]).all())
    if weights is not None:
        assert weights[left_out].tolist() == [0.0]


@every_strategy
def test_weights_are_convex_combinations_of_the_workers(strategy: grawa.Strategy) -> None:
    reports: list[grawa.RoundReport] = []
    data = batches(steps=6, workers=WORKERS)
    averaged(strategy, data, guard=grawa.Guard(), on_round=[reports.append])
    assert [report.round for report in reports] == [1, 2, 3]
    for weights in (report.weights for report in reports):
        if weights is not None:
            assert weights.shape[0] == WORKERS
            assert bool((weights >= 0).all())
            torch.testing.assert_close(weights.sum(dim=0), torch.ones_like(weights[0]))


@every_strategy
def test_the_consensus_has_the_models_form_and_is_finite(strategy: grawa.Strategy) -> None:
    models: list[nn.Module] = [mlp(torch.float32, seed) for seed in range(WORKERS)]
    averager = grawa.Averager(models, [plain_sgd(model) for model in models], strategy)
    consensus = averager.consensus()
    expected = models[0].state_dict()
    assert {n: (v.shape, v.dtype) for n, v in consensus.items()} == {
        n: (v.shape, v.dtype) for n, v in expected.items()
    }
    # Before the first step all workers are worker 0, and so is the consensus.
    assert all(
        torch.equal(consensus[name], mlp(torch.float32).state_dict()[name]) for name in expected
    )


@every_strategy
def test_a_strategy_is_a_frozen_value(strategy: grawa.Strategy) -> None:
    for field in dataclasses.fields(strategy):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(strategy, field.name, getattr(strategy, field.name))
    assert dataclasses.replace(strategy) == strategy


@every_strategy
def test_a_strategy_shows_what_it_is_configured_with(strategy: grawa.Strategy) -> None:
    shown = repr(strategy)
    assert shown.startswith(f"{type(strategy).__name__}(")
    for field in dataclasses.fields(strategy):
        if field.init:
            assert f"{field.name}={getattr(strategy, field.name)!r}" in shown


@pytest.mark.parametrize(
    "kind",
    [
        grawa.MGRAWA,
        grawa.LGRAWA,
        grawa.EASGD,
        grawa.LSGD,
        grawa.LocalSGD,
        grawa.DiLoCo,
        grawa.SlowMo,
        grawa.DPPF,
        grawa.OuterSteps,
        grawa.EDiT,
        grawa.RDA,
        RandomWeights,
        InverseLoss,
    ],
)
def test_options_have_names(kind: Callable[[object], grawa.Strategy]) -> None:
    with pytest.raises(TypeError, match="positional"):
        kind(0.5)


REFUSED: list[tuple[Callable[[], object], str, str]] = [
    (lambda: grawa.MGRAWA(pull=1.5), "pull", "1.5"),
    (lambda: grawa.MGRAWA(pull=-0.1), "pull", "-0.1"),
    (lambda: grawa.MGRAWA(pull=math.nan), "pull", "nan"),
    (lambda: grawa.LGRAWA(prox=2.0), "prox", "2.0"),
    (lambda: grawa.LGRAWA(power=-1.0), "power", "-1.0"),
    (lambda: grawa.EASGD(elasticity=1.1), "elasticity", "1.1"),
    (lambda: grawa.EASGD(prox=-1.0), "prox", "-1.0"),
    (lambda: grawa.LSGD(pull=7.0), "pull", "7.0"),
    (lambda: grawa.LSGD(prox=-0.5), "prox", "-0.5"),
    (lambda: grawa.LSGD(team_pull=1.01), "team_pull", "1.01"),
    (lambda: grawa.LSGD(team_size=1), "team_size", "1"),
    (lambda: grawa.LSGD(team_size=2, leader_every=0), "leader_every", "0"),
    (lambda: grawa.LSGD(leader_every=2), "leader_every", "2"),
    (lambda: grawa.LocalSGD(pull=-1.0), "pull", "-1.0"),
    (lambda: grawa.LocalSGD(prox=1.5), "prox", "1.5"),
    (lambda: grawa.LocalSGD(prox_probability=0.0), "prox_probability", "0.0"),
    (lambda: grawa.LGRAWA(prox_probability=1.5), "prox_probability", "1.5"),
    (lambda: grawa.LocalSGD(warmup_steps=-3), "warmup_steps", "-3"),
    (lambda: grawa.SlowMo(slow_lr=-0.1), "slow_lr", "-0.1"),
    (lambda: grawa.SlowMo(momentum=1.0), "momentum", "1.0"),
    (lambda: grawa.SlowMo(momentum=math.nan), "momentum", "nan"),
    (lambda: grawa.DPPF(pull=1.1), "pull", "1.1"),
    (lambda: grawa.DPPF(push=-0.1), "push", "-0.1"),
    (lambda: grawa.DPPF(push_warmup=-1), "push_warmup", "-1"),
    (lambda: RandomWeights(pull=1.1), "pull", "1.1"),
    (lambda: RandomWeights(concentration=0.0), "concentration", "0.0"),
    (lambda: RandomWeights(concentration=math.inf), "concentration", "inf"),
    (lambda: InverseLoss(prox=-1.0), "prox", "-1.0"),
    (lambda: InverseLoss(power=-1.0), "power", "-1.0"),
    (lambda: grawa.EDiT(temperature=0.0), "temperature", "0.0"),
    (lambda: grawa.EDiT(threshold=-1.0), "threshold", "-1.0"),
    (lambda: grawa.EDiT(clip=math.nan), "clip", "nan"),
    (lambda: grawa.EDiT(warmup_rounds=1), "warmup_rounds", "1"),
    (lambda: grawa.EDiT(share=1.5), "share", "1.5"),
    (lambda: grawa.OuterNesterov(lr=-0.1), "lr", "-0.1"),
    (lambda: grawa.OuterNesterov(momentum=1.0), "momentum", "1.0"),
    (lambda: grawa.OuterNesterov(momentum=-0.1), "momentum", "-0.1"),
]


@pytest.mark.parametrize(
    ("make", "name", "value"), REFUSED, ids=[f"{n}={v}" for _, n, v in REFUSED]
)
def test_options_out_of_range_are_refused_with_name_and_value(
    make: Callable[[], object], name: str, value: str
) -> None:
    with pytest.raises(grawa.UserError, match=rf"\b{name}\b.*, got {value}$"):
        make()


@pytest.mark.parametrize("groups", [(0, 2, 2, 0), (0, 0), (1, 1, 1, 1)])
def test_groups_with_gaps_or_for_other_parameters_are_refused(groups: tuple[int, ...]) -> None:
    model = mlp()
    strategy = grawa.GRAWA(group_by=lambda names: groups)
    with pytest.raises(grawa.UserError, match="group_by must give each of the 4 parameters"):
        grawa.Averager(model, sgd(model), strategy)


def test_teams_that_leave_workers_over_are_refused() -> None:
    fleet = Fleet(3)
    with pytest.raises(grawa.UserError, match="3 workers can't be split into teams of 2"):
        grawa.Averager(fleet.models, fleet.optimizers, grawa.LSGD(team_size=2))
