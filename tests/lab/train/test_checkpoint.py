"""A run that was broken off and resumed is the run that was not."""

import shutil
from pathlib import Path

import pytest
import torch

import grawa
from grawa.errors import UserError
from grawa.lab.train.checkpoint import latest, step_of
from grawa.lab.train.events import Started
from tests.lab.train.runs import StrategyFor, always, end, events, probing, same_model, settings

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
    chosen = settings(checkpoint_every=2, optimizer=optimizer, lr=0.01)
    whole = end(events(strategy, settings(optimizer=optimizer, lr=0.01)))
    # Broken off one round after the checkpoint at step 8: started, and three rounds.
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    found = latest(tmp_path)
    assert found is not None
    assert step_of(found) == 8
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
    chosen = settings(checkpoint_every=2, comm_dtype=comm_dtype)
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    assert same_model(end(events(strategy, chosen, checkpoints=tmp_path)), whole)
    assert not same_model(end(events(strategy, settings())), whole)  # bits are missed at all


def test_rounds_after_resuming_are_those_of_the_whole_run(tmp_path: Path) -> None:
    strategy, chosen = always(grawa.LGRAWA()), settings(checkpoint_every=1)
    whole = events(strategy, settings())
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    resumed = events(strategy, chosen, checkpoints=tmp_path)
    rounds = [event for event in whole if isinstance(event, grawa.RoundReport)]
    later = [event for event in resumed if isinstance(event, grawa.RoundReport)]
    assert [report.round for report in later] == [4, 5, 6]
    for report, expected in zip(later, rounds[3:], strict=True):
        assert report.step == expected.step
        assert torch.equal(report.losses, expected.losses)
        assert report.weights is not None
        assert expected.weights is not None
        assert torch.equal(report.weights, expected.weights)
        assert report.consensus_distance == expected.consensus_distance


def test_a_checkpoint_is_made_after_every_so_many_rounds(tmp_path: Path) -> None:
    events(always(grawa.LocalSGD()), settings(checkpoint_every=2), checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000008",
        "step-00000016",
        "step-00000024",
    ]


def test_a_half_written_checkpoint_is_not_taken(tmp_path: Path) -> None:
    strategy, chosen = always(grawa.LGRAWA()), settings(checkpoint_every=2)
    whole = end(events(strategy, settings()))
    events(strategy, chosen, checkpoints=tmp_path, until=4)
    half = tmp_path / ".step-00000012.tmp"
    shutil.copytree(tmp_path / "step-00000008", half)
    written = half / "process-0.pt"
    written.write_bytes(written.read_bytes()[:100])
    (tmp_path / "step-9").mkdir()
    (tmp_path / "step-00000016-copy").mkdir()
    assert latest(tmp_path) == tmp_path / "step-00000008"
    assert same_model(end(events(strategy, chosen, checkpoints=tmp_path)), whole)


def test_without_a_checkpoint_a_run_starts_from_the_beginning(tmp_path: Path) -> None:
    assert latest(tmp_path / "missing") is None
    first = events(always(grawa.LGRAWA()), settings(), checkpoints=tmp_path / "missing", until=1)
    assert isinstance(first[0], Started)
    assert first[0].step == 0


def test_the_last_checkpoint_is_the_one_of_the_most_steps(tmp_path: Path) -> None:
    for step in (900, 10000, 16):
        (tmp_path / f"step-{step:08d}").mkdir()
    assert latest(tmp_path) == tmp_path / "step-00010000"


def test_another_number_of_workers_is_refused(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    events(strategy, settings(checkpoint_every=1), checkpoints=tmp_path, until=2)
    with pytest.raises(UserError, match=r"has 4 workers per process, not 2; .* same numbers of w"):
        events(strategy, settings(checkpoint_every=1, workers=2), checkpoints=tmp_path)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    events(strategy, settings(checkpoint_every=1), checkpoints=tmp_path, until=2)
    path = tmp_path / "step-00000004" / "process-0.pt"
    state = torch.load(path, weights_only=True)
    del state["schema"]
    torch.save(state, path)
    with pytest.raises(UserError, match="was saved by another version of grawa"):
        events(strategy, settings(checkpoint_every=1), checkpoints=tmp_path)


def test_a_checkpoint_of_fewer_processes_is_refused(tmp_path: Path) -> None:
    strategy = always(grawa.LGRAWA())
    events(strategy, settings(checkpoint_every=1), checkpoints=tmp_path, until=2)
    (tmp_path / "step-00000004" / "process-0.pt").rename(tmp_path / "step-00000004/process-1.pt")
    with pytest.raises(UserError, match="has no file for process 0; resume with the same number"):
        events(strategy, settings(checkpoint_every=1), checkpoints=tmp_path)


def test_another_strategy_is_refused(tmp_path: Path) -> None:
    chosen = settings(checkpoint_every=1)
    events(always(grawa.LGRAWA()), chosen, checkpoints=tmp_path, until=2)
    with pytest.raises(UserError, match="load it into the strategy it was saved from"):
        events(always(grawa.DiLoCo()), chosen, checkpoints=tmp_path)
