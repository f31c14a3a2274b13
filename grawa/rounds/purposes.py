"""Why a process calls the roll, and what is done if several call it for different reasons."""

from collections.abc import Sequence
from enum import IntEnum

from torch import Tensor

from grawa.errors import UserError


class Purpose(IntEnum):
    """Why a worker calls the roll."""

    FAILED = 0
    """It can't continue; every process raises."""
    GRADIENTS = 1
    """It shares gradients before an optimizer's step."""
    ROUND = 2
    """A round is due by the schedule."""
    SYNCHRONIZE = 3
    """`synchronize()` was called."""
    CONSENSUS = 4
    """`consensus()` was called."""
    VALUES = 5
    """Workers exchange a number each."""
    LEAVING = 6
    """It has made its last step, and only joins what the others still need."""
    LOADING = 7
    """`load_state_dict()` was called."""
    SAVING = 8
    """`save()` was called."""
    RESTORING = 9
    """`restore()` was called."""
    ABSENT = 10
    """It is not there: see `grawa.comm.elastic`."""
    JOINING = 11
    """It has just been given the state, and only joins what the others have come for."""


ROUNDS = frozenset({Purpose.ROUND, Purpose.SYNCHRONIZE})
"""At which a round is run."""

PASSIVE = frozenset({Purpose.ABSENT, Purpose.JOINING})
"""Of workers that have no say in what is done."""

WHOLE = ROUNDS | {Purpose.LEAVING, Purpose.JOINING}
"""At which workers report their scores and buffers, too: a round may follow at once."""

_TOGETHER = Purpose.VALUES, Purpose.LOADING, Purpose.SAVING, Purpose.RESTORING
"""For which all must come, after the rounds that are due."""

_CALLS = {
    Purpose.FAILED: "an error",
    Purpose.GRADIENTS: "an optimizer step that shares gradients",
    Purpose.ROUND: "a round",
    Purpose.SYNCHRONIZE: "synchronize()",
    Purpose.CONSENSUS: "consensus()",
    Purpose.VALUES: "the others' values",
    Purpose.LEAVING: "the end: detach(), or of the `with` block",
    Purpose.LOADING: "load_state_dict()",
    Purpose.SAVING: "save()",
    Purpose.RESTORING: "restore()",
}

_SERVED = Purpose.ROUND, Purpose.SYNCHRONIZE, *_TOGETHER, Purpose.CONSENSUS
"""Which is done first if workers called for different ones."""


def served(purposes: Sequence[Purpose], steps: Tensor, rounds: Tensor) -> Purpose:
    """What is done after this roll call; the same on every process.

    A round goes first: a process that called for something else takes part in it, and calls again.
    A consensus is computed when every process has asked for it or has finished, so that the n-th
    consensus is the same model everywhere, however many batches each has in an epoch.

    Args:
        purposes: of all N workers.
        steps: local steps of each, (N,).
        rounds: rounds of each, (N,).

    Returns:
        What is done. A process that called for something else calls again afterwards.

    Raises:
        UserError: on every process, where that can't be served.
    """
    kinds = set(purposes) - PASSIVE
    if Purpose.FAILED in kinds:
        worker = purposes.index(Purpose.FAILED)
        raise UserError(f"worker {worker} can't go on; its own error message says why")
    if Purpose.GRADIENTS in kinds:
        _check_gradients(purposes, steps)
        return Purpose.GRADIENTS
    rounds = rounds[[purpose not in PASSIVE for purpose in purposes]]
    if bool((rounds != rounds[0]).any()):
        raise UserError(
            f"workers have made different numbers of rounds ({rounds.int().tolist()}), so they "
            "don't train together any more: load the same checkpoint on every process"
        )
    first = next((purpose for purpose in _SERVED if purpose in kinds), Purpose.LEAVING)
    if first in _TOGETHER and len(kinds) > 1:
        raise UserError(f"workers came for different things at once: {listed(purposes)}")
    return first


def _check_gradients(purposes: Sequence[Purpose], steps: Tensor) -> None:
    if set(purposes) == {Purpose.GRADIENTS} and bool((steps == steps[0]).all()):
        return
    made = ", ".join(f"{int(step)} by worker {i}" for i, step in enumerate(steps.tolist()))
    raise UserError(
        "sharing gradients needs the same number of optimizer steps on every worker. Reached: "
        f"{listed(purposes)}; optimizer steps: {made}. Give every worker as many batches, and let "
        "all skip a step together (a GradScaler skips where one worker's gradients overflow)"
    )


def listed(purposes: Sequence[Purpose]) -> str:
    """Who came for what, in words, such as "a round by workers 1, 2; consensus() by worker 0"."""
    parts: list[str] = []
    for purpose in sorted(set(purposes) - PASSIVE):
        workers = [str(i) for i, p in enumerate(purposes) if p is purpose]
        plural = "s" if len(workers) > 1 else ""
        parts.append(f"{_CALLS[purpose]} by worker{plural} {', '.join(workers)}")
    return "; ".join(parts)
