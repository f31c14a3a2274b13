"""Which checkpoint all processes continue from."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from grawa.saving.folder import Checkpoints
from grawa.saving.part import CheckpointError

Everyones = Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""Brings some whole numbers of every process to all, in the order of processes; collective."""


class Chosen(NamedTuple):
    """The checkpoint that all processes continue from."""

    round: int
    state: dict[str, Any]
    """This process's part."""
    passed_over: tuple[str, ...]
    """Why newer ones could not be used."""


def choose(
    checkpoints: Checkpoints,
    process: int,
    everyones: Everyones,
    check: Callable[[dict[str, Any]], int],
    *,
    wanted: int | None = None,
    fall_back: bool = False,
) -> Chosen | None:
    """Reads the same checkpoint on every process; collective.

    Args:
        checkpoints: the folder.
        process: which process this is.
        everyones: exchanges numbers.
        check: refuses by a `CheckpointError` a part that does not belong here; returns a number
            that all parts of one checkpoint share.
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
            return Chosen(number, state, tuple(problems))
        if state is not None:
            raise CheckpointError(
                f"{problems[0]}; {checkpoints.path(number).name} is the newest checkpoint that is "
                "good"
            )
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
    check: Callable[[dict[str, Any]], int],
) -> tuple[dict[str, Any] | None, str]:
    """This process's part if all parts are good and belong together; otherwise why not."""
    state, shared, problem = None, 0, ""
    try:
        state = checkpoints.read(number, process)
        shared = check(state)
    except CheckpointError as error:
        state, problem = None, str(error)
    found = everyones([int(state is not None), shared])
    bad = [p for p, (good, _) in enumerate(found) if not good]
    if bad:
        path = checkpoints.path(number)
        return None, problem or f"process {bad[0]} can't use its part of {path}"
    if any(its != found[0][1] for _, its in found):
        return None, f"the parts of {checkpoints.path(number)} were not saved together"
    return state, ""
