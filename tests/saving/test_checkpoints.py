"""Checkpoints are complete, or not there; what is damaged is refused by name."""

import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from grawa.saving import (
    CheckpointError,
    Checkpoints,
    ForeignError,
    Saver,
    choose,
    read_part,
    write_part,
)


def state(number: int, process: int = 0) -> dict[str, Any]:
    return {"round": number, "process": process, "x": torch.arange(100.0) + number}


def save(checkpoints: Checkpoints, number: int, processes: int = 1) -> None:
    for process in range(processes):
        checkpoints.write(number, process, state(number, process))
    checkpoints.complete(number)


def alone(numbers: Sequence[int]) -> list[list[int]]:
    """What `everyones` does with a single process."""
    return [list(numbers)]


def offer(path: Path) -> str:
    return f"take {path.name}"


def of_round(number: int, state: dict[str, Any]) -> int:
    return int(state["round"])


def test_a_part_comes_back(tmp_path: Path) -> None:
    write_part(tmp_path / "process-0.pt", state(7))
    found = read_part(tmp_path / "process-0.pt")
    assert found["round"] == 7
    assert torch.equal(found["x"], torch.arange(100.0) + 7)


def test_the_checksum_is_that_of_sha256sum(tmp_path: Path) -> None:
    write_part(tmp_path / "process-0.pt", state(7))
    command = ["sha256sum", "-c", "process-0.pt.sha256"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "process-0.pt"
    write_part(path, state(7))
    for file in (path, path.with_name("process-0.pt.sha256")):
        whole = file.read_bytes()
        for place in range(0, 64 if file != path else len(whole), 1 if file != path else 97):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(CheckpointError, match=r"process-0\.pt"):
                read_part(path)
        file.write_bytes(whole)
    assert read_part(path)["round"] == 7


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _without_checksum(path: Path) -> None:
    path.with_name(f"{path.name}.sha256").unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_cut, Path.unlink, _without_checksum, _folder])
def test_what_is_damaged_is_refused_by_name(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "process-0.pt"
    write_part(path, state(7))
    damage(path)
    with pytest.raises(CheckpointError, match=r"process-0\.pt"):
        read_part(path)


class _Hostile:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_file_executes_nothing(
    zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "process-0.pt"
    write_part(path, state(7))
    if zipped:
        torch.save(_Hostile(), path)
    else:
        path.write_bytes(pickle.dumps(_Hostile()))
    digest = subprocess.run(["sha256sum", path.name], cwd=tmp_path, check=True, capture_output=True)
    path.with_name("process-0.pt.sha256").write_bytes(digest.stdout)
    with pytest.raises(CheckpointError, match=r"process-0\.pt"):
        read_part(path)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_counts_when_it_is_complete(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.write(20, 0, state(20))
    assert checkpoints.rounds() == []
    checkpoints.complete(20)
    assert checkpoints.rounds() == [20]
    assert os.listdir(tmp_path) == ["round-0000000020"]


def test_the_last_ones_are_kept_however_long_their_numbers(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (9, 99_999_999_999, 5, 10):
        save(checkpoints, number)
    assert checkpoints.rounds() == [10, 99_999_999_999]


def test_what_was_never_completed_is_cleaned_away(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10)
    checkpoints.write(20, 0, state(20))
    checkpoints.clean()
    assert os.listdir(tmp_path) == ["round-0000000010"]


def test_a_round_can_be_saved_again(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10)
    checkpoints.write(10, 0, {"round": 10, "again": True})
    checkpoints.complete(10)
    assert checkpoints.read(10, 0)["again"]
    assert checkpoints.rounds() == [10]


def test_the_newest_is_chosen(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert choose(checkpoints, 0, alone, of_round, offer=offer) is None
    save(checkpoints, 10)
    save(checkpoints, 20)
    chosen = choose(checkpoints, 0, alone, of_round, offer=offer)
    assert chosen is not None
    assert (chosen.round, chosen.state["round"], chosen.passed_over) == (20, 20, ())


def test_a_damaged_one_is_refused_and_the_good_one_before_it_offered(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for number in (10, 20, 30):
        save(checkpoints, number)
    for number in (20, 30):
        _cut(checkpoints.path(number) / "process-0.pt")
    with pytest.raises(CheckpointError, match=r"round-0+30/.* take round-0+10"):
        choose(checkpoints, 0, alone, of_round, offer=offer)
    chosen = choose(checkpoints, 0, alone, of_round, offer=offer, fall_back=True)
    assert chosen is not None
    assert chosen.round == 10
    assert len(chosen.passed_over) == 2
    wanted = choose(checkpoints, 0, alone, of_round, offer=offer, wanted=10)
    assert wanted is not None
    assert wanted.round == 10


def test_if_none_is_good_that_is_said(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 10)
    _cut(checkpoints.path(10) / "process-0.pt")
    for fall_back in (False, True):
        with pytest.raises(CheckpointError, match="no good checkpoint before it"):
            choose(checkpoints, 0, alone, of_round, offer=offer, fall_back=fall_back)


@pytest.mark.parametrize("name", ["round-20", "round-0000000020"])
def test_one_can_be_asked_for_by_name(name: str) -> None:
    assert Checkpoints.round_of(name) == 20


@pytest.mark.parametrize("name", ["step-00000020", "round-", "round-x", "round-1/..", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="of the form"):
        Checkpoints.round_of(name)


def test_what_is_foreign_ends_the_search_on_all(tmp_path: Path) -> None:
    checkpoints, processes = Checkpoints(tmp_path), _Processes(2)
    for number in (10, 20):
        save(checkpoints, number, processes=2)

    def check(number: int, state: dict[str, Any]) -> int:
        if state["process"] == 1:
            raise ForeignError("it is of another run")
        return 0

    def body(process: int) -> object:
        everyones = processes.everyones(process)
        return choose(checkpoints, process, everyones, check, offer=offer, fall_back=True)

    errors = processes.run(body)
    assert all(isinstance(error, ForeignError) for error in errors)
    assert str(errors[1]) == "it is of another run"


class _Processes:
    """Threads that stand for processes, and exchange numbers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = Barrier(count, timeout=10)
        self._rows: list[list[float]] = [[]] * count

    def exchange(self, process: int, row: Sequence[float]) -> list[list[float]]:
        self._rows[process] = list(row)
        self._barrier.wait()
        found = list(self._rows)
        self._barrier.wait()
        return found

    def everyones(self, process: int) -> Callable[[Sequence[int]], list[list[int]]]:
        return lambda own: [[int(x) for x in row] for row in self.exchange(process, own)]

    def gather(self, process: int) -> Callable[[float], Tensor]:
        def gather(value: float) -> Tensor:
            return torch.tensor(self.exchange(process, [value])).flatten()

        return gather

    def run(self, body: Callable[[int], object]) -> list[object]:
        """What each one returned, or the exception that it raised."""
        found: list[object] = [None] * self.count

        def call(process: int) -> None:
            try:
                found[process] = body(process)
            except (CheckpointError, OSError) as error:
                found[process] = error

        threads = [Thread(target=call, args=(process,)) for process in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found


def test_if_one_process_cannot_use_its_part_all_raise(tmp_path: Path) -> None:
    checkpoints, processes = Checkpoints(tmp_path), _Processes(3)
    for number in (10, 20):
        save(checkpoints, number, processes=3)
    _cut(checkpoints.path(20) / "process-1.pt")

    def body(process: int) -> object:
        return choose(checkpoints, process, processes.everyones(process), of_round, offer=offer)

    errors = processes.run(body)
    assert all(isinstance(error, CheckpointError) for error in errors)
    assert "process 1 can't use its part" in str(errors[0])
    assert "damaged" in str(errors[1])
    assert all("take round-0000000010" in str(error) for error in errors)


def test_parts_that_were_not_saved_together_are_refused(tmp_path: Path) -> None:
    checkpoints, processes = Checkpoints(tmp_path), _Processes(2)
    save(checkpoints, 10, processes=2)
    write_part(checkpoints.path(10) / "process-1.pt", state(11, 1))

    def body(process: int) -> object:
        return choose(checkpoints, process, processes.everyones(process), of_round, offer=offer)

    assert all("not saved together" in str(error) for error in processes.run(body))


def test_a_folder_that_only_some_see_is_no_deadlock(tmp_path: Path) -> None:
    processes = _Processes(2)
    own = [Checkpoints(tmp_path / str(process)) for process in range(2)]
    save(own[0], 10, processes=2)

    def body(process: int) -> object:
        return choose(own[process], process, processes.everyones(process), of_round, offer=offer)

    assert all(isinstance(error, CheckpointError) for error in processes.run(body))


def test_savers_complete_a_checkpoint_when_all_have_written(tmp_path: Path) -> None:
    checkpoints, processes = Checkpoints(tmp_path), _Processes(3)

    def body(process: int) -> object:
        saver = Saver(checkpoints, process, processes.gather(process))
        for number in (1, 2):
            saver.save(number, state(number, process))
        saver.settle(wait=True)
        return saver.seconds

    assert all(isinstance(s, float) and s > 0.0 for s in processes.run(body))
    assert checkpoints.rounds() == [1, 2]
    assert [checkpoints.read(2, process)["process"] for process in range(3)] == [0, 1, 2]


def test_if_one_cannot_write_all_raise_and_the_older_one_stays(tmp_path: Path) -> None:
    checkpoints, processes = Checkpoints(tmp_path), _Processes(2)
    save(checkpoints, 1, processes=2)
    building = tmp_path / ".round-0000000002.tmp"
    (building / "process-1.pt").mkdir(parents=True)

    def body(process: int) -> object:
        saver = Saver(checkpoints, process, processes.gather(process))
        saver.save(2, state(2, process))
        saver.settle(wait=True)
        return None

    first, second = processes.run(body)
    assert isinstance(first, IsADirectoryError)
    assert "round-0000000002" in str(first)
    assert isinstance(second, IsADirectoryError)
    assert "process-1.pt" in str(second)
    assert checkpoints.rounds() == [1]


def test_a_full_disk_is_an_error_that_says_so(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no device that is always full")
    (tmp_path / f".process-0.pt.{os.getpid()}.tmp").symlink_to(full)
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path / "process-0.pt", state(7))
    assert not (tmp_path / "process-0.pt").exists()


def test_where_each_host_has_its_own_folder_each_completes_its_own(tmp_path: Path) -> None:
    processes = _Processes(2)
    own = [Checkpoints(tmp_path / str(process)) for process in range(2)]

    def body(process: int) -> object:
        saver = Saver(own[process], process, processes.gather(process))
        saver.save(5, state(5, process))
        saver.settle(wait=True)
        return choose(own[process], process, processes.everyones(process), of_round, offer=offer)

    found = processes.run(body)
    assert [chosen.state["process"] for chosen in found] == [0, 1]  # type: ignore[attr-defined]
    shutil.rmtree(tmp_path / "1")
    assert own[0].rounds() == [5]
