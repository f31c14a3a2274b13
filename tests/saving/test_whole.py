"""Files are whole or not there."""

import os
from pathlib import Path

import pytest

from grawa.lab.files import write_text
from grawa.saving.whole import replacing


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "words"
    write_text(path, "old\n")
    write_text(path, "nouveau, für 新\n")
    assert path.read_text(encoding="utf-8") == "nouveau, für 新\n"
    assert os.listdir(tmp_path) == ["words"]


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_crash_while_writing_leaves_the_old_file(
    kind: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "words"
    path.write_text("old")
    with pytest.raises(kind), replacing(path) as temporary:
        temporary.write_text("half")
        raise kind
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["words"]


def test_a_crash_while_writing_a_new_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(KeyError), replacing(tmp_path / "words") as temporary:
        temporary.write_text("half")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("half")
        assert path.read_text() == "old"
        temporary.write_text("whole")
    assert path.read_text() == "whole"


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "words", "new")


def test_a_pipe_or_device_is_not_replaced(tmp_path: Path) -> None:
    """As root, `--out /dev/null` would otherwise make that a file, for everybody."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="it is a device or a pipe, not a file"):
        write_text(path, "new")
    assert path.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "no folder" / "words"
    with pytest.raises(FileNotFoundError) as missing, replacing(path) as temporary:
        temporary.write_text("x")
    assert missing.value.filename == str(path)
    folder = tmp_path / "folder"
    (folder / "words").mkdir(parents=True)
    with pytest.raises(IsADirectoryError) as there, replacing(folder / "words") as temporary:
        temporary.write_text("x")
    assert there.value.filename == str(folder / "words")
    assert [path.name for path in folder.iterdir()] == ["words"]
