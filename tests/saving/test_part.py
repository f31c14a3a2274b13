"""A file of values and tensors comes back whole; what is damaged is refused by name."""

import io
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from grawa.saving.part import CheckpointError, read_part, write_part


def state(number: int, process: int = 0) -> dict[str, Any]:
    return {"round": number, "process": process, "x": torch.arange(100.0) + number}


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


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, *_: object) -> NoReturn:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grawa.saving.part.Path.open", lambda *_: Full())
    with pytest.raises(OSError, match="No space left"):
        write_part(tmp_path / "process-0.pt", state(7))
    monkeypatch.undo()
    assert not (tmp_path / "process-0.pt").exists()
