"""`--overwrite`: a finished run, study or chaos makes room for a new one of the same name."""

import shutil
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grawa.errors import UserError
from grawa.lab.experiments.lock import check_free
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.files import cause_of, is_file, is_there


@dataclass(frozen=True)
class _Kind:
    """A kind of folder that grawa writes.

    Args:
        mark: a file that only this kind has.
        names: what it writes there; also hidden files, to lock it.
        has_ended: whether nothing of it can be continued; raises a `UserError` if it is in use.
        continues: what continues one that has not ended.
    """

    mark: str
    names: Collection[str]
    has_ended: Callable[[Path], bool]
    continues: str

    def strangers(self, path: Path) -> list[str]:
        """What grawa has not written there."""
        found = sorted(entry.name for entry in path.iterdir())
        return [name for name in found if name not in self.names and not name.startswith(".")]


def _run_has_ended(path: Path) -> bool:
    check_free(path)
    return any(event["kind"] in {"finished", "diverged"} for event in RunFolder(path).events())


def _study_has_ended(path: Path) -> bool:
    folder = StudyFolder(path)
    with folder.locked():
        study, results = folder.study(), folder.found().results
    compared = len(study.arms) * len(study.conditions) * len(study.seeds)
    return sum(result.role == "test" for result in results) >= compared


_KINDS = (
    _Kind(
        "results.json",
        {"results.json", "config.toml", "undisturbed", "disturbed", "logs", "control"},
        lambda path: True,  # the file is written last
        "nothing",
    ),
    _Kind(
        "study.toml",
        {"study.toml", "environment.json", "trials.jsonl", "report.html"},
        _study_has_ended,
        "the same command without --overwrite",
    ),
    _Kind(
        "events.jsonl",
        {
            *("config.toml", "environment.json", "events.jsonl", "checkpoints", "workers"),
            *("model.safetensors", "tensorboard", "report.html", "flatness.json"),
            *("flatness.png", "line.png", "plane.png"),
        },
        _run_has_ended,
        "`grawa resume`",
    ),
)


@contextmanager
def overwriting(path: Path) -> Generator[None]:
    """Moves a finished folder aside while the block makes another one in its place.

    It is removed when that is there, and comes back if the block leaves nothing there.

    Args:
        path: of the folder; there may be none.

    Raises:
        UserError: if there is something else, or it has not ended, or is in use.
    """
    aside = path.with_name(f".{path.name}.replaced")
    _settle(aside, path)  # if a process was killed in the block
    if is_there(path):
        _check(path)
        try:
            path.rename(aside)
        except OSError as error:
            raise UserError(f"{path} can't be replaced: {cause_of(error)}") from None
    try:
        yield
    finally:
        _settle(aside, path)


def _settle(aside: Path, path: Path) -> None:
    """Removes a folder that was moved aside if there is a new one, and else puts it back."""
    if not is_there(aside):
        return
    _kind(aside)
    if is_there(path):
        shutil.rmtree(aside)
    else:
        aside.rename(path)


def _kind(path: Path) -> _Kind:
    """The kind of a folder; a `UserError` if anything in it is not grawa's."""
    found = [] if path.is_symlink() else [kind for kind in _KINDS if is_file(path / kind.mark)]
    if not found:
        raise UserError(f"{path} is not overwritten: it is neither a run nor a study")
    if strangers := found[0].strangers(path):
        raise UserError(
            f"{path} is not overwritten, since grawa did not write {strangers[0]} in it: move that "
            "away, or choose another --out"
        )
    return found[0]


def _check(path: Path) -> None:
    kind = _kind(path)
    if not kind.has_ended(path):
        raise UserError(
            f"{path} has not finished, and is not overwritten: {kind.continues} continues it; "
            "remove the folder if it is not needed"
        )
