"""Which checkpoint all processes continue from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from grawa.saving.folder import Checkpoints
from grawa.saving.part import CheckpointError, ForeignError

Everyones = Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""Brings some whole numbers of every process to all, in the order of processes; collective."""

Check = Callable[[int, dict[str, Any]], int]
"""Checks a part of a round's checkpoint: see `choose`."""

_GOOD, _BAD, _FOREIGN = 0, 1, 2
"""What a process found out about its part."""


class Chosen(NamedTuple):
    """The checkpoint that all processes continue from."""

    round: int
    path: Path
    state: dict[str, Any]
    """This process's part."""
    passed_over: tuple[str, ...]
    """Why newer ones could not be used."""


def choose(
    checkpoints: Checkpoints,
    process: int,
    everyones: Everyones,
    check: Check,
    *,
    offer: Callable[[Path], str],
    wanted: int | None = None,
    fall_back: bool = False,
) -> Chosen | None:
    """Reads the same checkpoint on every process; collective.

    Args:
        checkpoints: the folder.
        process: which process this is.
        everyones: exchanges numbers.
        check: refuses, by a `CheckpointError`, the part of a round that does not belong here;
            returns a number that all parts of one checkpoint share. With a `ForeignError` older
            ones are not tried.
        offer: says how a user takes this checkpoint, in place of a newer one that can't be used.
        wanted: the round of the one to take; by default the newest.
        fall_back: whether an older one is taken if the newest can't be used.

    Returns:
        The checkpoint, or `None` if there is none.

    Raises:
        CheckpointError: on every process, if it can't be used on one of them. It names the newest
            one that can.
    """
    rounds = _rounds_of_first(checkpoints, everyones)
    if wanted is not None:
        rounds = [number for number in rounds if number <= wanted]
        if rounds[-1:] != [wanted]:
            raise CheckpointError(f"{checkpoints.path(wanted)} does not exist")
    problems: list[str] = []
    for number in reversed(rounds):
        state, problem = _examined(checkpoints, number, process, everyones, check)
        if state is not None and (not problems or fall_back):
            return Chosen(number, checkpoints.path(number), state, tuple(problems))
        if state is not None:
            raise CheckpointError(f"{problems[0]}; {offer(checkpoints.path(number))}")
        problems.append(problem)
    if problems:
        raise CheckpointError(f"{problems[0]}; there is no good checkpoint before it")
    return None


def _rounds_of_first(checkpoints: Checkpoints, everyones: Everyones) -> list[int]:
    """The complete checkpoints that process 0 sees, on every process."""
    own = checkpoints.rounds()
    most = max(count for (count,) in everyones([len(own)]))
    count, *rounds = everyones([len(own), *own, *[0] * (most - len(own))])[0]
    return list(rounds[:count])


def _examined(
    checkpoints: Checkpoints,
    number: int,
    process: int,
    everyones: Everyones,
    check: Check,
) -> tuple[dict[str, Any] | None, str]:
    """This process's part if all parts are good and belong together; otherwise why not.

    Returns:
        The part or `None`, and the reason.

    Raises:
        ForeignError: on every process, if one of them found that the checkpoint is foreign.
    """
    state, shared, verdict, problem = None, 0, _BAD, ""
    try:
        state = checkpoints.read(number, process)
        shared, verdict = check(number, state), _GOOD
    except CheckpointError as error:
        verdict, problem = _FOREIGN if isinstance(error, ForeignError) else _BAD, str(error)
    found = everyones([verdict, shared])
    path = checkpoints.path(number)
    bad = [p for p, (its, _) in enumerate(found) if its != _GOOD]
    if bad:
        problem = problem or f"process {bad[0]} can't use its part of {path}"
        if any(its == _FOREIGN for its, _ in found):
            raise ForeignError(problem)
        return None, problem
    if any(its != found[0][1] for _, its in found):
        return None, f"the parts of {path} were not saved together"
    return state, ""
