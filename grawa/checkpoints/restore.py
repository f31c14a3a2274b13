"""Restores a checkpoint, on all processes the same one, or refuses it by name."""

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from grawa.checkpoints.layout import Layout
from grawa.checkpoints.places import checkpoints, folder_of, newest_sound, number_of
from grawa.checkpoints.reading import Reading, Terms
from grawa.checkpoints.saved import Saved, saved_in
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine
from grawa.rounds.purposes import Purpose
from grawa.saving.part import CheckpointError, ForeignError

_MOST = 100
"""Of the newest checkpoints, those that processes tell each other of."""

_GOOD, _BAD, _FOREIGN = "+", "-", "!"
"""First characters of what a process tells the others about its files."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which checkpoint is taken.

    Args:
        folder: with checkpoints, of which the newest is taken; or one of them.
        fall_back: whether an older one is taken where the newest can't be used, unless that is a
            sound one of something else.
        set_aside: whether newer ones than the one that is taken are renamed to `NAME.unused`, so
            that none of them is taken for the newest later.
        offer: says how a user takes this one, in place of a newer one that can't be used.
    """

    folder: Path
    fall_back: bool = False
    set_aside: bool = False
    offer: Callable[[Path], str]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint that was restored.

    Attributes:
        path: its folder.
        process: the extra of this process.
        workers: the extra of each hosted worker; `None` for new ones.
        shared: the extra that is the same on every process.
        passed_over: why newer checkpoints could not be used.
        notice: what is not as it was, if workers or processes are others than then; or empty.
    """

    path: Path
    process: dict[str, Any]
    workers: Sequence[dict[str, Any] | None]
    shared: dict[str, Any]
    passed_over: tuple[str, ...]
    notice: str


def restore(engine: Engine, wanted: Wanted, terms: Terms) -> Restored | None:
    """Restores what a `Saver` saved; every process must call it.

    Args:
        engine: with the hosted workers.
        wanted: which checkpoint.
        terms: which ones may be restored.

    Returns:
        What was saved beside the workers; `None` if there is no checkpoint yet. If a process can't
        restore it, all raise `CheckpointError`, and nothing has changed.
    """

    def together(agreement: Agreement) -> Restored | None:
        problems: list[str] = []
        found = _agreed(agreement, wanted.folder, engine)
        for path in found:
            here, saved = Layout.of(engine, agreement), partial(saved_in, path)
            reading = Reading(engine, here, saved, terms)
            problem = _problem(agreement, reading, str(path))
            if problem is None:
                if wanted.set_aside:
                    agreement.settle(_set_newer_aside(path))
                return _put(reading, path, tuple(problems))
            problems.append(problem)
            if not wanted.fall_back:
                raise CheckpointError(f"{problem}. {_advice(path, wanted)}")
        if problems:
            raise CheckpointError(f"{problems[0]}. {_NONE_BEFORE}")
        return None

    return engine.together(Purpose.RESTORING, together)


def restore_this(
    engine: Engine, saved: Callable[[Layout], Saved], terms: Terms, where: str
) -> Reading:
    """Restores one checkpoint; every process must call it.

    Args:
        engine: with the hosted workers.
        saved: opens it for a job with this layout.
        terms: whether it may be restored.
        where: it is, for errors.

    Returns:
        What was saved beside the workers. If a process can't restore it, all raise
        `CheckpointError`, and this has changed nothing.
    """

    def together(agreement: Agreement) -> Reading:
        reading = Reading(engine, Layout.of(engine, agreement), saved, terms)
        problem = _problem(agreement, reading, where)
        if problem is not None:
            raise CheckpointError(problem)
        reading.put()
        return reading

    return engine.together(Purpose.RESTORING, together)


def _put(reading: Reading, path: Path, problems: tuple[str, ...]) -> Restored:
    reading.put()
    return Restored(
        path=path,
        process=reading.process,
        workers=reading.workers,
        shared=reading.shared,
        passed_over=problems,
        notice=reading.notice(),
    )


def _set_newer_aside(path: Path) -> UserError | None:
    """Renames the checkpoints after one; returns why that isn't possible."""
    try:
        for number, newer in checkpoints(path.parent).items():
            if number > (number_of(path) or 0):
                set_aside(newer)
    except UserError as error:
        return error
    except OSError as error:
        return CheckpointError(f"checkpoints after {path} can't be set aside: {error.strerror}")
    return None


def set_aside(path: Path) -> None:
    """Renames a checkpoint; every process of a host calls it, and the first one does it."""
    for attempt in count():
        aside = path.with_name(f"{path.name}.unused{f'-{attempt}' if attempt else ''}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return  # another process was first
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
        else:
            return


def _agreed(agreement: Agreement, folder: Path, engine: Engine) -> list[Path]:
    """The checkpoints that all processes have, from the newest on; or the one that is asked for."""
    failure, found = None, {}
    try:
        asked = number_of(folder)
        own = folder_of(folder, engine)
        found = checkpoints(own) if asked is None else {asked: folder}
        if asked is not None and not folder.is_dir():
            raise UserError(f"there is no checkpoint {folder}")
    except UserError as error:
        failure = error
    lines = agreement.settle(failure, json.dumps(sorted(found)[-_MOST:]))
    numbers = [set(json.loads(line)) for line in lines]
    everywhere = set.intersection(*numbers)
    without = [str(process) for process, own in enumerate(numbers) if not own]
    if everywhere or len(without) == len(numbers):
        return [found[number] for number in sorted(everywhere, reverse=True)]
    raise UserError(
        f"process {', '.join(without) or '0'} finds no checkpoint in {folder} that all have: hosts "
        "that don't share the folder each need the files that their own processes have saved"
    )


def _problem(agreement: Agreement, reading: Reading, where: str) -> str | None:
    """Why a checkpoint can't be used.

    Returns:
        The reason, the same on every process; `None` if it can be used.

    Raises:
        ForeignError: on every process, if it is sound and of something else.
    """
    try:
        own = _GOOD + reading.run()
    except ForeignError as error:
        own = _FOREIGN + str(error)
    except UserError as error:
        own = _BAD + str(error)
    answers = agreement.settle(None, own)
    for kind in (_FOREIGN, _BAD):
        reason = next((text[1:] for text in answers if text.startswith(kind)), None)
        if reason is None:
            continue
        problem = f"{where} can't be restored: {reason}"
        if kind == _FOREIGN:
            raise ForeignError(problem)
        return problem
    if len(set(answers)) == 1:
        return None
    return (
        f"{where} is not the same checkpoint on every process; let all of them see one folder, or "
        "copy each one's files to it"
    )


_NONE_BEFORE = "There is no sound one before it"


def _advice(path: Path, wanted: Wanted) -> str:
    """Which checkpoint can be taken in place of one that can't."""
    sound = newest_sound(path.parent, number_of(path) or 0)
    return _NONE_BEFORE if sound is None else wanted.offer(sound)
