"""Checkpoints that are written while training goes on."""

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

import grawa
from grawa.checkpoints.restore import set_aside
from tests.checkpoints.test_processes import told
from tests.checkpoints.test_save_and_restore import STEPS, STOP, Loop, refused, small
from tests.world import on_ranks


def written() -> None:
    """Waits for the thread that writes, as if the disk had been fast."""
    for thread in threading.enumerate():
        if thread.name == "grawa checkpoint":
            thread.join()


def goes_on(folder: Path, hosted: int) -> None:
    """What is saved is what was there at the call, although training goes on at once."""
    whole = Loop(grawa.LGRAWA(), hosted, 1, sync_every=2)
    whole.train(0, STOP)
    path = whole.averager.save(folder, whole.extra(), wait=False)
    whole.go_on(STOP, STEPS)
    whole.averager.detach()  # which completes it
    assert list(folder.iterdir()) == [path]
    other = Loop(grawa.LGRAWA(), hosted, 7, sync_every=2)
    other.take(other.averager.restore(folder))
    other.train(STOP, STEPS)
    other.averager.detach()
    assert torch.equal(whole.everything(), other.everything())


def test_what_is_saved_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    goes_on(tmp_path, 2)


@pytest.mark.world
def test_so_it_is_with_several_processes(tmp_path: Path) -> None:
    on_ranks(2, goes_on, tmp_path, 1)


def in_stages(folder: Path) -> None:
    averager = small(hosted=1)
    first = averager.save(folder, wait=False)
    written()
    dist.barrier()
    assert not first.exists()  # the others' exchanges are still to come
    second = averager.save(folder, wait=False)
    assert first.exists() and not second.exists()
    averager.finish_saving()
    averager.finish_saving()
    assert second.exists()


@pytest.mark.world
def test_it_has_its_name_when_all_have_met_again(tmp_path: Path) -> None:
    on_ranks(2, in_stages, tmp_path)


def beside_rounds(folder: Path, options: dict[str, Any]) -> bool:
    loop = Loop(grawa.LGRAWA(), 1, 1, **options)
    loop.train(0, 1)
    path = loop.averager.save(folder, wait=False)
    for step in range(1, STEPS):
        written()
        dist.barrier()
        loop.go_on(step, step + 1)
    return path.exists()


@pytest.mark.world
@pytest.mark.parametrize(
    "options",
    [{"sync_every": 1}, {"sync_every": 2, "overlap_steps": 1}, {"schedule": grawa.SharedCount(1)}],
    ids=str,
)
def test_rounds_complete_it(options: dict[str, Any], tmp_path: Path) -> None:
    assert on_ranks(2, beside_rounds, tmp_path, options) == [True, True]


def fails(folder: Path) -> list[str]:
    rank = dist.get_rank()
    averager = small(hosted=1)
    saved = averager.save(folder)

    def full(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    target = "grawa.checkpoints.writing.write_tensors"
    found: list[str] = []
    for finish in (averager.finish_saving, averager.detach, lambda: averager.save(folder)):
        with patch(target, full) if rank == 1 else nullcontext():
            averager.save(folder, wait=False)
            written()
        with pytest.raises(grawa.UserError) as failed:
            finish()
        found.append(str(failed.value))
        assert list(folder.iterdir()) == [saved]
    return [*found, told(folder, averager, save=True)]


@pytest.mark.world
def test_what_goes_wrong_meanwhile_is_raised_on_all_when_they_meet(tmp_path: Path) -> None:
    first, second = on_ranks(2, fails, tmp_path)
    assert first == second
    assert all("is complete and untouched): No space left on device" in x for x in first[:3])
    assert first[3].endswith("save-000002-round-00000003")


def test_alone_it_is_completed_without_meeting_anyone(tmp_path: Path) -> None:
    averager = small()
    path = averager.save(tmp_path, wait=False)
    written()
    assert path.exists()


def test_an_error_of_a_kind_that_nobody_expected_is_told_too(tmp_path: Path) -> None:
    averager = small()
    with patch("grawa.checkpoints.writing.write_tensors", side_effect=KeyError("odd")):
        averager.save(tmp_path, wait=False)
        written()
    assert "could not be saved (there is none before it): 'odd'" in refused(averager.finish_saving)


def falls_back(folder: Path) -> tuple[str, str]:
    rank = dist.get_rank()
    averager = small(hosted=1)
    averager.save(folder, {"number": 1})
    saved = averager.save(folder, {"number": 2})
    if rank == 1:
        (saved / "worker-1.pt").write_bytes(b"cut")
    dist.barrier()
    before = told(folder, averager)
    with pytest.warns(UserWarning, match=r"worker-1\.pt is damaged"):
        assert averager.restore(folder, fall_back=True) == {"number": 1}
    dist.barrier()
    assert sorted(path.name[-6:] for path in folder.iterdir()) == ["000002", "unused"]
    (folder / "save-000001-round-00000002" / "shared.pt").unlink(missing_ok=True)
    dist.barrier()
    with pytest.raises(grawa.UserError, match="There is no sound one before it"):
        averager.restore(folder, fall_back=True)
    return before, saved.name


@pytest.mark.world
def test_after_a_crash_all_take_the_newest_sound_one(tmp_path: Path) -> None:
    for told_, name in on_ranks(2, falls_back, tmp_path):
        assert f"{name} can't be restored: " in told_ and "The one before it is sound" in told_


def test_the_processes_of_a_host_set_a_checkpoint_aside_once(tmp_path: Path) -> None:
    for expected in (["damaged.unused"], ["damaged.unused", "damaged.unused-1"]):
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "shared.pt").write_bytes(b"cut")
        for _process in range(2):
            set_aside(damaged)
        assert sorted(path.parent.name for path in tmp_path.glob("*/shared.pt")) == expected


def test_where_a_checkpoint_cannot_be_set_aside_nothing_changes(tmp_path: Path) -> None:
    averager = small()
    averager.save(tmp_path)
    damaged = averager.save(tmp_path)
    (damaged / "shared.pt").write_bytes(b"cut")
    damaged.with_name(f"{damaged.name}.unused").write_bytes(b"")
    told_ = refused(lambda: averager.restore(tmp_path, fall_back=True))
    assert told_.endswith("-000001-round-00000002 can't be set aside: Not a directory")


def test_one_of_another_job_ends_the_search(tmp_path: Path) -> None:
    averager = small(hosted=2)
    averager.save(tmp_path)
    saved = small(hosted=3).save(tmp_path)
    told_ = refused(lambda: averager.restore(tmp_path, fall_back=True))
    assert "was saved by a job with 3 workers" in told_ and str(saved) in told_
    assert "sound" not in told_
