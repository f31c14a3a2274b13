"""Other numbers of workers and processes: whoever is still there goes on, the others start well."""

import re
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

import grawa
from grawa.checkpoints.own_loop import Resize
from grawa.checkpoints.regroup import Place, Regrouping
from tests.checkpoints.test_save_and_restore import TIMEOUT, refused, small
from tests.helpers import Fleet, batches, mlp
from tests.world import on_ranks

STOP, STEPS = 5, 9


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters(), lr=0.01)


class Job:
    """Hosted workers that train with an Averager."""

    def __init__(self, strategy: grawa.Strategy, hosted: int, **options: Any) -> None:
        rank = dist.get_rank() if dist.is_initialized() else 0
        self.own = range(rank * hosted, (rank + 1) * hosted)
        self.fleet = Fleet(hosted, mlp, adamw)
        self.averager = grawa.Averager(
            self.fleet.models, self.fleet.optimizers, strategy, timeout=TIMEOUT,
            **{"sync_every": 2, **options},
        )  # fmt: skip
        self.averager.attach()

    def train(self, start: int, stop: int, workers: int = 4) -> None:
        data = batches(STEPS, workers=workers).workers(self.own).steps(start, stop)
        self.fleet.train(data, self.averager)

    def restore(self, folder: Path, resize: Resize = True) -> list[str]:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            self.averager.restore(folder, resize=resize)
        return [str(warning.message) for warning in told]

    def params(self) -> list[Tensor]:
        return [
            torch.cat([p.detach().flatten() for p in model.parameters()])
            for model in self.fleet.models
        ]


STRATEGIES: dict[str, tuple[grawa.Strategy, dict[str, Any]]] = {
    "lgrawa": (grawa.LGRAWA(), {}),
    "mgrawa with outer steps": (grawa.MGRAWA(outer=grawa.OuterNesterov()), {}),
    "diloco with outer AdamW": (grawa.DiLoCo(outer=partial(AdamW, lr=0.05)), {}),
    "lsgd in parts": (grawa.LSGD(), {"fragments": 2, "sync_every": 4}),
    "lsgd in teams": (grawa.LSGD(team_size=2), {}),
    "easgd": (grawa.EASGD(prox=0.1), {}),
    "shared count": (grawa.LGRAWA(), {"schedule": grawa.SharedCount(2)}),
    "data parallel": (grawa.DataParallel(), {}),
    "edit": (grawa.EDiT(), {"weigh_by": "steps"}),
}


def in_processes(folder: Path, hosted: int, save: bool) -> dict[str, list[Tensor]]:
    """Saves, or goes on; in how many processes whatsoever."""
    found: dict[str, list[Tensor]] = {}
    for name, (strategy, options) in STRATEGIES.items():
        job = Job(strategy, hosted, **options)
        if save:
            job.train(0, STOP)
            job.averager.save(folder / name)
        else:
            (notice,) = job.restore(folder / name)
            assert "go on from a checkpoint of 4 workers in" in notice
        job.train(STOP, STEPS)
        job.averager.detach()
        found[name] = job.params()
    return found


@pytest.mark.world
def test_on_other_processes_the_same_workers_go_on_as_they_would_have(tmp_path: Path) -> None:
    for before, after in ((4, 2), (2, 4)):
        folder = tmp_path / str(before)
        apart = on_ranks(before, in_processes, folder, 4 // before, True)
        others = on_ranks(after, in_processes, folder, 4 // after, False)
        for name in STRATEGIES.keys() - {"shared count"}:  # which processes meet by chance
            whole = [row for process in apart for row in process[name]]
            went_on = [row for process in others for row in process[name]]
            for one, other in zip(whole, went_on, strict=True):
                # Sums over workers are made in another order on other processes.
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", STRATEGIES)
def test_fewer_and_more_workers_go_on(name: str, tmp_path: Path) -> None:
    strategy, options = STRATEGIES[name]
    job = Job(strategy, 4, **options)
    job.train(0, STOP)
    job.averager.save(tmp_path)
    saved, states = job.params(), [each.state_dict() for each in job.fleet.optimizers]
    for workers in (2, 6):
        other = Job(strategy, workers, **options)
        assert other.restore(tmp_path)
        assert other.averager.round == job.averager.round
        assert other.averager.step == job.averager.step
        for k in range(min(4, workers)):
            assert torch.equal(other.params()[k], saved[k])
            state = other.fleet.optimizers[k].state_dict()["state"]
            assert torch.equal(state[0]["exp_avg"], states[k]["state"][0]["exp_avg"])
        other.train(STOP, STEPS, workers=6)
        other.averager.detach()
        assert other.averager.round > job.averager.round
        assert all(bool(row.isfinite().all()) for row in other.params())


def test_new_workers_start_at_the_center_with_fresh_or_donated_optimizers(tmp_path: Path) -> None:
    job = Job(grawa.LGRAWA(), 2)
    job.train(0, STOP)
    job.averager.save(tmp_path)
    state = job.averager.state_dict()["runner"]["fragments"][0]["state"]["center"]
    center = torch.cat([
        state[name].flatten() for name, _ in job.fleet.models[0].named_parameters()
    ])
    fresh, given = Job(grawa.LGRAWA(), 4), Job(grawa.LGRAWA(), 4)
    (told,) = fresh.restore(tmp_path)
    assert told == (
        "4 workers in 1 process go on from a checkpoint of 2 workers in 1 process, "
        "workers 2 to 3 at the center with a fresh optimizer state"
    )
    assert "with their donors' optimizer state" in given.restore(tmp_path, "donors")[0]
    for each in (fresh, given):
        assert torch.equal(each.params()[3], center)
    assert fresh.fleet.optimizers[3].state_dict()["state"] == {}
    donor = job.fleet.optimizers[1].state_dict()["state"][0]["exp_avg_sq"]
    assert torch.equal(given.fleet.optimizers[3].state_dict()["state"][0]["exp_avg_sq"], donor)
    assert fresh.fleet.optimizers[3].param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "strategy",
    [grawa.LGRAWA(), grawa.EASGD(), grawa.DiLoCo(), grawa.OuterSteps()],
    ids=lambda strategy: type(strategy).__name__,
)
@pytest.mark.parametrize("comm_dtype", [None, "int8"])
def test_where_one_worker_was_alone_the_others_start_at_it(
    strategy: grawa.Strategy, comm_dtype: str | None, tmp_path: Path
) -> None:
    """Its rounds have not moved the center, if the strategy needs several workers for that."""
    job = Job(strategy, 1, comm_dtype=comm_dtype)
    job.train(0, STEPS, workers=1)
    job.averager.save(tmp_path)
    more = Job(strategy, 3, comm_dtype=comm_dtype)
    more.restore(tmp_path)
    state = more.averager.state_dict()["runner"]["fragments"][0]["state"]["center"]
    center = torch.cat([leaf.flatten() for leaf in state.values()])
    if not strategy.moves_one_worker:
        assert torch.equal(center, job.params()[0])
    assert torch.equal(more.params()[1], center)
    more.averager.synchronize()
    for row in more.params():
        torch.testing.assert_close(row, job.params()[0], atol=0.05, rtol=0.0)


def test_what_a_method_keeps_of_each_worker_stays_that_workers(tmp_path: Path) -> None:
    def known(job: Job) -> dict[str, Tensor]:
        state = job.averager.state_dict()["runner"]["fragments"][0]["state"]
        found: dict[str, Tensor] = state["workers"]
        return found

    job = Job(grawa.EDiT(), 3)
    job.train(0, STOP)
    job.averager.save(tmp_path)
    fewer, more = Job(grawa.EDiT(), 2), Job(grawa.EDiT(), 4)
    fewer.restore(tmp_path)
    more.restore(tmp_path)
    for name, rows in known(job).items():
        assert bool((rows > 0.0).all())
        assert torch.equal(known(fewer)[name], rows[:2])
        assert torch.equal(known(more)[name][:3], rows)
        assert not bool(known(more)[name][3].any())


def test_without_a_center_new_workers_start_at_the_mean_of_the_sound_ones(tmp_path: Path) -> None:
    job = Job(grawa.DataParallel(), 3)
    job.train(0, STOP)
    with torch.no_grad():
        next(job.fleet.models[1].parameters()).fill_(torch.nan)
        next(job.fleet.models[2].parameters()).add_(1.0)
    job.averager.save(tmp_path)
    saved, more = job.params(), Job(grawa.DataParallel(), 4)
    more.restore(tmp_path)
    torch.testing.assert_close(more.params()[3], (saved[0] + saved[2]) / 2)


@pytest.mark.parametrize("comm_dtype", ["int8", grawa.TopK()], ids=str)
@pytest.mark.parametrize("workers", [2, 4])
def test_what_rounding_had_lost_starts_from_zero_and_that_is_said(
    workers: int, comm_dtype: str | grawa.TopK, tmp_path: Path
) -> None:
    job = Job(grawa.LGRAWA(), 3, comm_dtype=comm_dtype)
    job.train(0, STOP)
    job.averager.save(tmp_path)
    other = Job(grawa.LGRAWA(), workers, comm_dtype=comm_dtype)
    assert f"what sending as {comm_dtype} had lost starts from zero" in other.restore(tmp_path)[0]
    other.train(STOP, STEPS)


def test_what_is_not_allowed_is_refused_with_the_way_to_allow_it(tmp_path: Path) -> None:
    small(hosted=2).save(tmp_path)
    three = small(hosted=3, steps=0)
    told = refused(lambda: three.restore(tmp_path))
    assert re.search(r"2 workers in 1 process, and this one has 3 .* pass resize=True", told)
    other = small(hosted=3, steps=0, strategy=grawa.DiLoCo())
    assert "strategy: LGRAWA saved" in refused(lambda: other.restore(tmp_path, resize=True))


def test_each_process_gets_the_extra_of_its_first_workers_process(tmp_path: Path) -> None:
    averager = small(hosted=2)
    averager.save(tmp_path, {"epoch": 3})
    with pytest.warns(UserWarning, match="go on from"):
        assert small(hosted=5, steps=0).restore(tmp_path, resize=True) == {"epoch": 3}


def regrouped(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    state = small(hosted=2).state_dict()
    change(state)
    places = [Place(0, 1), None]
    return Regrouping({0: state}, places, places, [Place(0, 0), Place(0, 1)], ()).state()


def test_a_score_that_keeps_unknown_tensors_is_refused_by_name() -> None:
    def keep(state: dict[str, Any]) -> None:
        state["runner"]["roll_call"]["tracker"]["mine"] = torch.zeros(2)

    assert "tensor 'mine' of which it is not known" in refused(lambda: regrouped(keep))


def test_a_damaged_state_is_refused() -> None:
    def cut(state: dict[str, Any]) -> None:
        state["runner"]["roll_call"]["steps"] = [1]

    assert "is damaged" in refused(lambda: regrouped(cut))


def test_every_value_of_a_worker_is_where_it_is_now() -> None:
    found = regrouped(lambda state: state["runner"]["attendance"].update(in_total=[3, 4]))
    runner, before = found["runner"], small(hosted=2).state_dict()["runner"]
    losses = before["roll_call"]["losses"]
    assert runner["attendance"]["in_total"] == [4, 0]
    assert torch.equal(runner["roll_call"]["losses"]["sum"][:, 0], losses["sum"][:, 1])
    assert bool(runner["roll_call"]["losses"]["past"][0, 1].isnan())
    assert runner["roll_call"]["steps"] == before["roll_call"]["steps"]


def between_hosts(folder: Path, hosts: list[list[int]], strategy: grawa.Strategy) -> float:
    """Few bits between hosts, where each process keeps a section of what all know."""
    job = Job(strategy, 1, comm_dtype="int8", hosts=hosts)
    if folder.exists():
        job.restore(folder)
        job.train(STOP, STEPS)
    else:
        job.train(0, STOP)
        job.averager.save(folder)
    job.averager.detach()
    return float(job.params()[0].norm())


@pytest.mark.world
@pytest.mark.parametrize(
    "strategy",
    [grawa.LGRAWA(), grawa.LSGD(team_size=2)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_few_bits_between_hosts_go_on_with_more_and_fewer(
    strategy: grawa.Strategy, tmp_path: Path
) -> None:
    two, four = [[0], [1]], [[0, 1], [2, 3]]
    for one, other in ((two, four), (four, two)):
        folder = tmp_path / str(len(one[0]))
        on_ranks(2 * len(one[0]), between_hosts, folder, one, strategy)
        norms = on_ranks(2 * len(other[0]), between_hosts, folder, other, strategy)
        assert all(0.0 < norm < 100.0 for norm in norms)
