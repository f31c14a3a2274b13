"""A run that was broken off and resumed is the run that was not."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import grawa
from grawa.checkpoints.files import write_text
from grawa.checkpoints.places import MANIFEST
from grawa.errors import UserError
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.tasks import Digits
from grawa.lab.train.checkpoint import Start
from grawa.lab.train.events import Event, Started
from grawa.lab.train.interval import Interval
from grawa.lab.train.loop import train
from grawa.saving.part import CheckpointError, read_part, write_part
from tests.lab.train.runs import (
    StrategyFor,
    always,
    end,
    events,
    probing,
    rounds_saved,
    same_model,
    saving_to,
    settings,
    started,
)

STRATEGIES: dict[str, StrategyFor] = {
    "lgrawa": always(grawa.LGRAWA()),
    "lgrawa by probe": probing(),
    "lsgd": always(grawa.LSGD()),
    "lsgd in teams": always(grawa.LSGD(team_size=2, leader_every=2)),
    "diloco": always(grawa.DiLoCo()),
    "easgd": always(grawa.EASGD()),
    "data parallel": always(grawa.DataParallel()),
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_resumed_run_ends_with_the_same_bits(
    strategy: StrategyFor, optimizer: str, tmp_path: Path
) -> None:
    chosen = settings(optimizer=optimizer, lr=0.01)
    whole = end(events(strategy, settings(optimizer=optimizer, lr=0.01)))
    # Broken off one round after the checkpoint at step 8: started, and three rounds.
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    assert rounds_saved(tmp_path) == [2]
    resumed = events(strategy, chosen, checkpoints=tmp_path)
    assert isinstance(resumed[0], Started)
    assert resumed[0].step == 8
    last = end(resumed)
    assert same_model(last, whole)
    assert (last.error, last.step, last.round) == (whole.error, 24, 6)


@pytest.mark.parametrize("comm_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("name", ["lgrawa", "lsgd", "diloco"])
def test_a_resumed_run_of_few_bits_ends_with_the_same_bits(
    name: str, comm_dtype: str, tmp_path: Path
) -> None:
    strategy = STRATEGIES[name]
    whole = end(events(strategy, settings(comm_dtype=comm_dtype)))
    chosen = settings(comm_dtype=comm_dtype)
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    assert same_model(end(events(strategy, chosen, checkpoints=tmp_path)), whole)
    assert not same_model(end(events(strategy, settings())), whole)  # bits are missed at all


def test_rounds_after_resuming_are_those_of_the_whole_run(tmp_path: Path) -> None:
    strategy, chosen = always(grawa.LGRAWA()), settings()
    whole = events(strategy, settings())
    events(strategy, chosen, checkpoints=tmp_path, every=1, until=4)
    resumed = events(strategy, chosen, checkpoints=tmp_path)
    rounds = [event for event in whole if isinstance(event, grawa.RoundReport)]
    later = [event for event in resumed if isinstance(event, grawa.RoundReport)]
    assert [report.round for report in later] == [3, 4, 5, 6]  # and the one of the checkpoint
    for report, expected in zip(later, rounds[2:], strict=True):
        assert report.step == expected.step
        assert torch.equal(report.losses, expected.losses)
        assert report.weights is not None
        assert expected.weights is not None
        assert torch.equal(report.weights, expected.weights)
        assert report.consensus_distance == expected.consensus_distance


def test_a_checkpoint_is_made_after_every_so_many_rounds(tmp_path: Path) -> None:
    events(always(grawa.LocalSGD()), settings(), checkpoints=tmp_path)
    assert rounds_saved(tmp_path) == [2, 4, 6]


def test_or_at_the_first_round_after_so_many_seconds(tmp_path: Path) -> None:
    always_due, never_due = Interval(seconds=1e-9), Interval(seconds=1e9)
    for every, expected in ((always_due, True), (never_due, False), (Interval(), False)):
        folder = tmp_path / str(every.seconds)
        saving = replace(saving_to(folder), every=every)
        list(train(Digits(train_size=200), always(grawa.LocalSGD()), settings(), saving=saving))
        assert bool(rounds_saved(folder)) is expected


def test_a_half_written_checkpoint_is_not_taken(tmp_path: Path) -> None:
    strategy, chosen = always(grawa.LGRAWA()), settings()
    whole = end(events(strategy, chosen))
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    half = tmp_path / ".save-000002-round-00000003.new"
    shutil.copytree(saved(tmp_path, 2), half)
    written = half / "process-0.pt"
    written.write_bytes(written.read_bytes()[:100])
    (tmp_path / "save-9").touch()
    (tmp_path / "save-000005-round-00000005-copy").mkdir()
    assert same_model(end(events(strategy, chosen, checkpoints=tmp_path)), whole)
    assert not half.exists()


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    first = events(always(grawa.LGRAWA()), settings(), checkpoints=tmp_path / "missing", until=1)
    assert isinstance(first[0], Started)
    assert (first[0].step, first[0].round, first[0].recorded) == (0, 0, 0)


def test_the_events_of_the_last_round_are_in_its_checkpoint(tmp_path: Path) -> None:
    """They would be lost if the process died after saving, and before anyone had seen them."""
    strategy, chosen = always(grawa.LGRAWA()), settings(evaluate_every=1)
    whole = events(strategy, chosen)
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    resumed = events(strategy, chosen, checkpoints=tmp_path)
    first = resumed[0]
    assert isinstance(first, Started)
    assert (first.round, first.recorded) == (2, 1)
    found = [(type(event), event.round) for event in resumed[1:-2]]  # type: ignore[union-attr]
    assert found == [(type(event), event.round) for event in whole[3:-2]]  # type: ignore[union-attr]
    report, expected = resumed[1], whole[3]
    assert isinstance(report, grawa.RoundReport)
    assert isinstance(expected, grawa.RoundReport)
    assert report.round == 2
    assert torch.equal(report.losses, expected.losses)


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    events(strategy, settings(), checkpoints=tmp_path, every=1, until=3)
    told = r"with 4 workers in 1 process, .* has 2 workers .*`resume it --workers 2 --processes 1"
    with pytest.raises(UserError, match=told):
        events(strategy, settings(workers=2), checkpoints=tmp_path)


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    strategy, task = always(grawa.LGRAWA()), Digits(train_size=200)
    before = saving_to(tmp_path, identity={"task": "digits", "lr": 0.1, "steps": 100})
    list(train(task, strategy, settings(), saving=before))
    after = replace(before, identity={"task": "digits", "lr": 0.3, "seed": 5})
    with pytest.raises(UserError) as refused:
        list(train(task, strategy, settings(), saving=after))
    assert "lr was 0.1, and is 0.3, seed was not given, and is 5, steps was 100, and is not" in str(
        refused.value
    )


def saved(folder: Path, round: int) -> Path:
    """The checkpoint of a round."""
    return next(folder.glob(f"save-*-round-{round:08d}"))


def damage(checkpoint: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a file of a checkpoint, with a checksum that fits."""
    path = checkpoint / name
    if name == MANIFEST:
        manifest = json.loads(path.read_text())
        change(manifest)
        write_text(path, json.dumps(manifest))
        return
    state = read_part(path)
    change(state)
    write_part(path, state)


DAMAGE: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "saved by another version": (MANIFEST, lambda its: its["about"].update(schema=2)),
    "does not say what it belongs to": (MANIFEST, lambda its: its.pop("about")),
    "worker-1.pt does not belong": ("worker-1.pt", lambda its: its.update(file="worker-0.pt")),
    "process-0.pt does not belong": ("process-0.pt", lambda its: its.update(id="another")),
    "its numbers of workers": (MANIFEST, lambda its: its.update(processes=3)),
    "its state is damaged": ("process-0.pt", lambda its: its["averager"].pop("runner")),
    "is in the model only": ("worker-0.pt", lambda its: its["parameters"].popitem()),
    "its state is damaged.": ("process-0.pt", lambda its: its.update(averager=None)),
    "does not fit this run: ": ("shared.pt", lambda its: its["extra"].pop("ending")),
    "does not fit this run:": ("worker-2.pt", lambda its: its["extra"].update(noise=None)),
    "its extra is damaged": ("worker-2.pt", lambda its: its.update(extra=3)),
}


@pytest.mark.parametrize("complaint", DAMAGE)
def test_what_does_not_belong_here_is_refused(complaint: str, tmp_path: Path) -> None:
    events(always(grawa.LGRAWA()), settings(), checkpoints=tmp_path, until=4)
    damage(saved(tmp_path, 2), *DAMAGE[complaint])
    with pytest.raises(CheckpointError, match=complaint):
        events(always(grawa.LGRAWA()), settings(), checkpoints=tmp_path)


def test_another_strategy_is_refused(tmp_path: Path) -> None:
    events(always(grawa.LGRAWA()), settings(), checkpoints=tmp_path, until=4)
    with pytest.raises(UserError, match="load it into the strategy it was saved from"):
        events(always(grawa.DiLoCo()), settings(), checkpoints=tmp_path)


def test_a_restarted_run_goes_on_from_an_older_checkpoint_if_need_be(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    whole = end(events(strategy, settings()))
    events(strategy, settings(), checkpoints=tmp_path, every=1, until=4)
    newest = saved(tmp_path, 3)
    part = newest / "process-0.pt"
    part.write_bytes(part.read_bytes()[:-1])
    saving = replace(saving_to(tmp_path), fall_back=True)
    found = list(train(Digits(train_size=200), strategy, settings(), saving=saving))
    first = found[0]
    assert isinstance(first, Started)
    assert first.round == 2
    assert "process-0.pt is damaged" in first.passed_over[0]
    assert same_model(end(found), whole)
    assert newest.with_name(f"{newest.name}.unused").is_dir()


def test_a_budget_is_spent_by_the_same_rounds_after_resuming(tmp_path: Path) -> None:
    """Its last round is decided by how long the one before took, which a checkpoint must know."""
    strategy = always(grawa.LGRAWA())
    chosen = settings(steps=None, budget=2.1, modelled=partial(VirtualClock, 0.1))
    whole = end(events(strategy, chosen))
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    resumed = end(events(strategy, chosen, checkpoints=tmp_path))
    assert same_model(resumed, whole)
    assert (resumed.round, resumed.elapsed) == (whole.round, whole.elapsed)


def test_workers_that_step_one_by_one_keep_their_own_rates(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    clock = partial(VirtualClock, 0.1, speeds=[1.0, 0.9, 0.6, 0.37], jitter=0.2)
    chosen = settings(schedule=grawa.SharedCount(4), modelled=clock, steps=40)
    whole = end(events(strategy, chosen))
    events(strategy, chosen, checkpoints=tmp_path, until=6)
    resumed = end(events(strategy, chosen, checkpoints=tmp_path))
    assert same_model(resumed, whole)


def with_others(
    folder: Path, workers: int, strategy: grawa.Strategy, *, donors: bool = False, **options: Any
) -> list[Event]:
    """Goes on from the newest checkpoint with another number of workers."""
    saving = saving_to(folder, start=Start(resize=True, donors=donors))
    task, chosen = Digits(train_size=200), settings(workers=workers, **options)
    return list(train(task, always(strategy), chosen, saving=saving))


VARIANTS: dict[str, tuple[grawa.Strategy, dict[str, Any]]] = {
    "lgrawa": (grawa.LGRAWA(), {}),
    "outer steps, momentum and an average": (grawa.DiLoCo(), {"optimizer": "adamw", "swa": 0.9}),
    "steps one by one": (
        grawa.LGRAWA(),
        {"schedule": grawa.SharedCount(4), "modelled": partial(VirtualClock, 0.1, jitter=0.2)},
    ),
    "a budget": (
        grawa.EASGD(), {"steps": None, "budget": 2.4, "modelled": partial(VirtualClock, 0.1)}
    ),
    "few bits, in the background": (
        grawa.LGRAWA(), {"comm_dtype": "int8", "overlap_steps": 1, "fragments": 2},
    ),
    "stacked": (grawa.MGRAWA(), {"stack_workers": "on"}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("workers", [2, 6])
def test_with_other_workers_rounds_and_steps_go_on(workers: int, name: str, tmp_path: Path) -> None:
    strategy, options = VARIANTS[name]
    events(always(strategy), settings(**options), checkpoints=tmp_path, until=5)
    found = with_others(tmp_path, workers, strategy, donors=workers == 6, **options)
    first, last = started(found), end(found)
    assert first.round > 0
    assert "go" in first.resized and "all samples dealt anew" in first.resized
    assert torch.isfinite(torch.tensor(last.error))
    rounds = [event for event in found if isinstance(event, grawa.RoundReport)]
    assert [report.round for report in rounds[1:]] == [*range(first.round + 1, last.round + 1)]
    assert all(len(report.losses) == workers for report in rounds[1:])
    again = with_others(tmp_path, workers, strategy, **options)  # of which the last is a checkpoint
    assert started(again).resized == ""
    assert same_model(end(again), last)


def test_epochs_that_are_left_are_shared_by_the_workers_that_there_are(tmp_path: Path) -> None:
    """After 8 of 24 steps, 16 are left to each of 4 workers: 8 to each of 8, and 32 of 2."""
    strategy, chosen = grawa.LGRAWA(), dict[str, Any](steps=None, epochs=3.84)
    events(always(strategy), settings(**chosen), checkpoints=tmp_path, until=4)
    assert end(with_others(tmp_path, 8, strategy, **chosen)).step == 16
    folder = tmp_path / "again"
    events(always(strategy), settings(**chosen), checkpoints=folder, until=4)
    assert end(with_others(folder, 2, strategy, **chosen)).step == 40
