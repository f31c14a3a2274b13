"""A saved state knows what it belongs to, and comes back whole, in whatever order it is loaded."""

import copy
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import grawa
from tests.helpers import INPUTS, STRATEGIES, Data, Fleet, batches, mlp
from tests.world import on_ranks

TIMEOUT = timedelta(seconds=20)
STOP, STEPS = 5, 9
SCHEDULES: dict[str, grawa.Every | grawa.Warmup | grawa.Quadratic] = {
    "every": grawa.Every(3),
    "shared count": grawa.SharedCount(3),
    "warm-up": grawa.Warmup(3, steps=2),
    "quadratic": grawa.Quadratic(2, growth=0.1),
}
ORDERS = (
    ("model", "averager", "state"),
    ("averager", "state", "model"),
    ("averager", "model", "state"),
)

Options = dict[str, Any]


def with_statistics(seed: int) -> Callable[[], nn.Module]:
    """Models that all start from other values."""
    seeds = iter(range(seed, seed + 100))

    def make() -> nn.Module:
        model = nn.Sequential(mlp(seed=next(seeds)), nn.BatchNorm1d(2).double())
        model.register_buffer("scale", torch.tensor(float(next(seeds))))
        return model

    return make


class Job:
    """A training script's models, optimizers and averager."""

    def __init__(self, strategy: grawa.Strategy, hosted: int, seed: int, options: Options) -> None:
        self._strategy, self._options = strategy, options
        self.fleet = Fleet(hosted, with_statistics(seed))

    def construct(self) -> None:
        self.averager = grawa.Averager(
            self.fleet.models, self.fleet.optimizers, self._strategy, timeout=TIMEOUT,
            **self._options,
        )  # fmt: skip

    def train(self, data: Data) -> None:
        self.averager.attach()
        self.go_on(data)

    def go_on(self, data: Data) -> None:
        self.fleet.train(data, self.averager)

    def state(self) -> dict[str, Any]:
        averager = self.averager.state_dict()
        models = [model.state_dict() for model in self.fleet.models]
        optimizers = [optimizer.state_dict() for optimizer in self.fleet.optimizers]
        return copy.deepcopy({"averager": averager, "models": models, "optimizers": optimizers})

    def load(self, state: dict[str, Any], order: Sequence[str]) -> None:
        state = copy.deepcopy(state)  # optimizers keep the tensors that they load
        for what in order:
            if what == "averager":
                self.construct()
            elif what == "state":
                self.averager.load_state_dict(state["averager"])
            else:
                for model, saved in zip(self.fleet.models, state["models"], strict=True):
                    model.load_state_dict(saved)
                for own, saved in zip(self.fleet.optimizers, state["optimizers"], strict=True):
                    own.load_state_dict(saved)

    def everything(self) -> Tensor:
        found = [[*m.parameters(), *m.buffers()] for m in self.fleet.models]
        return torch.cat([x.detach().double().flatten() for own in found for x in own])


def resumed(
    strategy: grawa.Strategy, hosted: int, options: Options, orders: Sequence[Sequence[str]]
) -> list[bool]:
    """Whether training that was saved and restored ends like the undisturbed one, by order."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    size = dist.get_world_size() if dist.is_initialized() else 1
    data = batches(steps=STEPS, workers=size * hosted)
    own = data.workers(range(rank * hosted, (rank + 1) * hosted))
    whole = Job(strategy, hosted, 50 * rank, options)
    whole.construct()
    whole.train(own.steps(0, STOP))
    state = whole.state()
    whole.go_on(own.steps(STOP, STEPS))
    whole.averager.detach()
    equal = []
    for order in orders:
        other = Job(strategy, hosted, 7 + 50 * rank, options)
        other.load(state, order)
        other.train(own.steps(STOP, STEPS))
        other.averager.detach()
        equal.append(torch.equal(whole.everything(), other.everything()))
    return equal


@pytest.mark.parametrize("name", STRATEGIES)
def test_hosted_workers_go_on_bit_for_bit_in_any_order(name: str) -> None:
    assert all(resumed(STRATEGIES[name], 2, {"sync_every": 3}, ORDERS))


@pytest.mark.parametrize(
    "options",
    [
        *({"schedule": schedule} for schedule in SCHEDULES.values()),
        {"sync_every": 4, "fragments": 2, "overlap_steps": 1},
        {"sync_every": 2, "comm_dtype": "int8"},
        {"sync_every": 2, "comm_dtype": grawa.TopK()},
        {"sync_every": 3, "buffers": "local", "guard": None},
    ],
    ids=str,
)
def test_every_schedule_and_option_goes_on_bit_for_bit(options: Options) -> None:
    for workers in (1, 2):
        assert all(resumed(grawa.LGRAWA(), workers, options, ORDERS))


def all_between_processes() -> list[str]:
    """Which cases don't go on as if nothing had happened."""
    cases: list[tuple[str, Options]] = [(name, {"sync_every": 3}) for name in STRATEGIES]
    cases += [("lgrawa", {"schedule": SCHEDULES[name]}) for name in ("warm-up", "quadratic")]
    cases += [("lgrawa", {"sync_every": 3, "comm_dtype": "int8", "shared_memory": False})]
    equal = [(case, resumed(STRATEGIES[case[0]], 1, case[1], ORDERS)) for case in cases]
    return [str(case) for case, found in equal if not all(found)]


@pytest.mark.world
def test_processes_go_on_bit_for_bit_in_any_order() -> None:
    assert on_ranks(2, all_between_processes) == [[], []]


def trained(
    strategy: grawa.Strategy | None = None,
    *,
    hosted: int = 2,
    steps: int = STOP,
    model: Callable[[], nn.Module] = mlp,
    **options: Any,
) -> grawa.Averager:
    """Hosted workers after some steps."""
    fleet = Fleet(hosted, model)
    given: Options = {"sync_every": 2, "timeout": TIMEOUT, **options}
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy or grawa.LGRAWA(), **given)
    averager.attach()
    rank = dist.get_rank() if dist.is_initialized() else 0
    data = batches(steps=steps, workers=4)
    fleet.train(data.workers(range(rank * hosted, (rank + 1) * hosted)), averager)
    return averager


@pytest.mark.parametrize(
    "state",
    [None, [], "x", 3, {}, {"format": 1}, {"format": True}, {"format": None}, mlp().state_dict(),
     {"round": 3, "steps": [7]}, {"format": 1, "origin": {"fixed": 3}}, {1: 2}],
    ids=lambda state: str(state)[:30],
)  # fmt: skip
def test_what_is_no_state_is_refused(state: Any) -> None:
    averager = trained()
    before = str(averager.state_dict()["runner"])
    with pytest.raises(grawa.UserError, match=r"state_dict|damaged"):
        averager.load_state_dict(state)
    assert str(averager.state_dict()["runner"]) == before


def test_a_state_of_another_format_is_refused() -> None:
    averager = trained()
    with pytest.raises(grawa.UserError, match=r"saved by grawa '9\.0' in format 7"):
        averager.load_state_dict(averager.state_dict() | {"format": 7, "grawa": "9.0"})


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def with_buffer() -> nn.Module:
    model = mlp()
    model.register_buffer("mask", torch.zeros(3))
    return model


FOREIGN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("strategy.*score", {"strategy": grawa.LGRAWA()}, {"strategy": grawa.LocalSGD()}),
    ("weight groups", {"strategy": grawa.LGRAWA()}, {"strategy": grawa.MGRAWA()}),
    ("strategy: DiLoCo", {"strategy": grawa.DiLoCo()}, {"strategy": grawa.SlowMo()}),
    ("strategy: LocalSGD", {"strategy": grawa.LocalSGD()}, {"strategy": grawa.EASGD()}),
    ("schedule: Every", {}, {"schedule": grawa.SharedCount(2)}),
    ("fragments: 1", {}, {"fragments": 2}),
    ("comm_dtype: None", {}, {"comm_dtype": "int8"}),
    ("workers: 2", {}, {"hosted": 3}),
    ("parameters and buffers: 0.weight", {}, {"model": narrow}),
    ("none saved, buffer mask here", {}, {"model": with_buffer}),
]


@pytest.mark.parametrize(("told", "saved", "here"), FOREIGN)
def test_a_state_of_something_else_is_refused_by_name(
    told: str, saved: dict[str, Any], here: dict[str, Any]
) -> None:
    state, averager = trained(**saved).state_dict(), trained(**here)
    before = str(averager.state_dict()["runner"])
    for strict in (True, False):
        with pytest.raises(grawa.UserError, match=told):
            averager.load_state_dict(state, strict=strict)
    assert str(averager.state_dict()["runner"]) == before


@pytest.mark.parametrize(
    ("told", "here"),
    [
        ("strategy.pull: 0.5 saved, 0.3 here", {"strategy": grawa.LGRAWA(pull=0.3)}),
        ("strategy.prox", {"strategy": grawa.LGRAWA(prox=0.0)}),
        ("schedule.sync_every: 2 saved, 3 here", {"sync_every": 3}),
        ("guard", {"guard": None}),
        ("guard.norm_floor", {"guard": grawa.Guard(norm_floor=0.25)}),
        ("buffers", {"buffers": "local"}),
        ("overlap_steps: 0 saved, 1 here", {"overlap_steps": 1}),
    ],
)
def test_new_settings_are_taken_if_they_are_meant(told: str, here: dict[str, Any]) -> None:
    state, averager = trained().state_dict(), trained(**here)
    with pytest.raises(grawa.UserError, match=told):
        averager.load_state_dict(state)
    averager.load_state_dict(state, strict=False)
    back, averager = averager.state_dict(), trained()
    averager.load_state_dict(back, strict=False)
    averager.synchronize()


def leaves(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in a state."""
    found = [path]
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += leaves(value[key], (*path, key))
    return found


def test_a_damaged_state_changes_nothing() -> None:
    """Every value of a state replaced by another, or missing."""
    averager = trained(grawa.LGRAWA(outer=grawa.OuterNesterov()), comm_dtype="int8")
    state = averager.state_dict()
    kept = str({k: state[k] for k in ("runner", "timetable", "waiting")})
    for path in leaves(state)[1:]:
        for wrong in (None, "x", 7, torch.zeros(7), "missing"):
            damaged = copy.deepcopy(state)
            place: Any = damaged
            for key in path[:-1]:
                place = place[key]
            if wrong == "missing":
                del place[path[-1]]
            else:
                place[path[-1]] = wrong
            try:
                averager.load_state_dict(damaged)
            except grawa.UserError:
                now = averager.state_dict()
                assert str({k: now[k] for k in ("runner", "timetable", "waiting")}) == kept
            else:
                averager.load_state_dict(state)


def told(call: Callable[[], None]) -> str:
    try:
        call()
    except grawa.UserError as error:
        return str(error)
    return "nothing"


def refused_together() -> list[str]:
    """What is said on this rank where one or both ranks load the wrong thing."""
    rank = dist.get_rank()
    averager = trained(hosted=1)
    early, own = averager.state_dict(), trained(hosted=1, steps=7).state_dict()
    states: list[Any] = [own, early]
    wrong: list[Any] = [own, None]
    swapped = copy.deepcopy(own)
    swapped["origin"]["fixed"]["workers of this process"] = str(1 - rank)
    found = [told(lambda: averager.load_state_dict(states[rank]))]
    found.append(told(lambda: averager.load_state_dict(wrong[rank])))
    found.append(told(lambda: averager.load_state_dict(swapped)))
    found.append(told([lambda: averager.load_state_dict(own), averager.detach][rank]))
    return found


def of_another_run(scale: float) -> str:
    """A rank's state of one run, the other's of another with as many rounds."""
    rank = dist.get_rank()
    models = mlp, lambda: scaled(scale)
    states = [trained(hosted=1, model=model).state_dict() for model in models]
    return told(lambda: trained(hosted=1).load_state_dict(states[rank]))


def scaled(factor: float) -> nn.Module:
    model = mlp()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(factor)
    return model


def counted_together() -> tuple[int, int]:
    """Steps of all workers, before they were saved and after they were loaded."""
    schedule = grawa.SharedCount(20)  # no round comes
    averager = trained(hosted=1, schedule=schedule, steps=3 + 2 * dist.get_rank())
    state = averager.state_dict()
    averager = trained(hosted=1, schedule=schedule, steps=0)
    averager.load_state_dict(state)
    return averager.step, averager.total_steps


@pytest.mark.world
def test_processes_refuse_together() -> None:
    first, second = on_ranks(2, refused_together)
    assert first == second
    rounds, nothing, swapped, apart = first
    assert "they are after 3, 2 rounds" in rounds
    assert "loaded into worker 1" in nothing and "NoneType" in nothing
    assert "workers of this process: 1 saved, 0 here" in swapped
    assert "load_state_dict() by worker 0" in apart
    for found in on_ranks(2, of_another_run, 2.0):
        assert "all are after round 2, but of different runs" in found


@pytest.mark.world
def test_steps_counted_together_are_known_at_once_after_loading() -> None:
    (first, total), (second, same) = on_ranks(2, counted_together)
    assert total == same == first + second


def saved_by_two() -> dict[str, Any]:
    return trained(hosted=1, comm_dtype="int8").state_dict()


def loaded_by_three(states: list[dict[str, Any]]) -> str:
    own = states[min(dist.get_rank(), 1)]
    return told(lambda: trained(hosted=1, comm_dtype="int8").load_state_dict(own))


@pytest.mark.world
def test_another_number_of_workers_is_refused_by_name() -> None:
    states = on_ranks(2, saved_by_two)
    for refused in on_ranks(3, loaded_by_three, states):
        assert "workers: 2 saved, 3 here" in refused
