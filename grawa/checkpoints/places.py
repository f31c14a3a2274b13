"""Where checkpoints lie in a folder, and which are kept."""

import re
import shutil
from pathlib import Path

from grawa.errors import UserError
from grawa.rounds.engine import Engine
from grawa.saving.part import CheckpointError, check

MANIFEST = "manifest.json"
"""The name of the file that says in words what a checkpoint holds."""

_NAME = re.compile(r"save-(\d{1,18})-round-(\d{1,18})")
_HIDDEN = re.compile(r"\.save-(\d+)-round-\d+\.(new|old)")


def name_of(number: int, round: int) -> str:
    """The name of the checkpoint that is saved as the `number`-th."""
    return f"save-{number:06d}-round-{round:08d}"


def number_of(path: Path) -> int | None:
    """The number of the checkpoint that would be there; `None` for another name."""
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else None


def round_of(path: Path) -> int:
    """The round of the checkpoint that is there; `CheckpointError` for another name."""
    found = _NAME.fullmatch(path.name)
    if found is None:
        raise CheckpointError(
            f"{path.name!r} is not a checkpoint's name, which is of the form {name_of(2, 20)}"
        )
    return int(found[2])


def checkpoints(folder: Path) -> dict[int, Path]:
    """The complete checkpoints in a folder, some of which may be damaged.

    Returns:
        Number -> path, from the oldest to the newest; empty if there is no such folder.

    Raises:
        UserError: if it is not a folder, or can't be listed.
    """
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror})") from None
    numbered = {number: path for path in paths if (number := number_of(path)) is not None}
    return dict(sorted(numbered.items()))


def folder_of(folder: Path, engine: Engine) -> Path:
    """Where this process's checkpoints lie: all share the folder, unless they come and go."""
    return folder / f"worker-{engine.comm.process}" if engine.plan.elastic else folder


def all_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder and of all workers that have one of their own in it.

    Returns:
        Paths, of each worker from the oldest to the newest, ordered by their rounds.
    """
    owners = sorted(folder.glob("worker-*"))
    found = [path for owner in (folder, *owners) for path in checkpoints(owner).values()]
    return sorted(found, key=round_of)


def next_number(folder: Path) -> int:
    """The number of the next checkpoint in a folder, above those of interrupted saves too."""
    if not folder.exists():
        return 1
    hidden = [_HIDDEN.fullmatch(path.name) for path in folder.iterdir()]
    return 1 + max([0, *checkpoints(folder), *(int(found[1]) for found in hidden if found)])


def building(folder: Path, name: str) -> Path:
    """Where a checkpoint of this name is written before it is complete."""
    return folder / f".{name}.new"


def being_written(folder: Path) -> bool:
    """Whether there is a checkpoint in a folder that is not complete yet, or never will be."""
    hidden = (_HIDDEN.fullmatch(path.name) for path in folder.iterdir())
    return any(found and found[2] == "new" for found in hidden)


def remove(path: Path) -> None:
    """Removes a checkpoint, so that it is never there in part."""
    hidden = path.with_name(f".{path.name}.old")
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def tidy(folder: Path, keep: int, number: int) -> None:
    """Removes old checkpoints, and what saves that were interrupted have left.

    Args:
        folder: with the checkpoints.
        keep: how many stay.
        number: of the checkpoint that has just been written.
    """
    found = checkpoints(folder)
    for old in list(found)[:-keep]:
        remove(found[old])
    for path in folder.iterdir():
        left = _HIDDEN.fullmatch(path.name)
        if left and int(left[1]) < number:
            shutil.rmtree(path, ignore_errors=True)


def newest_sound(folder: Path, before: int) -> Path | None:
    """The newest checkpoint before a number all of whose files have their checksums."""
    found = checkpoints(folder)
    older = (found[number] for number in sorted(found, reverse=True) if number < before)
    return next((path for path in older if _is_sound(path)), None)


def _is_sound(path: Path) -> bool:
    sums = [file.name for file in path.glob("*.sha256")]
    try:
        for name in {MANIFEST, *(name.removesuffix(".sha256") for name in sums)}:
            check(path / name)
    except UserError:
        return False
    return True
