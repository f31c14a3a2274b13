"""Where the time of a round goes."""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import grawa.strategies.grawa
from grawa.comm import DistributedCommunicator, exchange
from grawa.math.motion import pull_
from grawa.rounds.roll_call import RollCall
from grawa.scores.training_norms import TrainingNormTracker
from grawa.workers.replicas import Replicas

# Owners with their functions, so that the type checker notices when one is renamed.
_PARTS: tuple[tuple[str, Any, Callable[..., Any]], ...] = (
    ("roll call", RollCall, RollCall.call),
    ("size of parameters", Replicas, Replicas.sizes),
    ("score read", TrainingNormTracker, TrainingNormTracker.read),
    ("moved check", Replicas, Replicas.check_unmoved),
    ("average", DistributedCommunicator, DistributedCommunicator.weighted_mean),
    ("mean of rows", exchange, exchange.mean_of_pieces),
    ("pull", grawa.strategies.grawa, pull_),
)


def break_down(round_: Callable[[], object]) -> dict[str, float]:
    """Runs a round of MGRAWA or LGRAWA.

    Returns:
        The seconds of its parts on this process, which add up to the round.
    """
    with _clocks() as seconds:
        _clocked(round_, "round", seconds)()
    roll_call = seconds["roll call"]
    exclusive = {
        "size of parameters": seconds["size of parameters"],
        "score read": seconds["score read"],
        "gather, with waiting": roll_call,
        "moved check": seconds["moved check"],
        "mean of rows": seconds["mean of rows"],
        "exchange, with waiting": seconds["average"] - seconds["mean of rows"],
        "pull": seconds["pull"],
    }
    return {**exclusive, "the rest": seconds["round"] - sum(exclusive.values())}


@contextmanager
def _clocks() -> Generator[dict[str, float]]:
    seconds = {"round": 0.0, **{label: 0.0 for label, _, _ in _PARTS}}
    with ExitStack() as patches:
        for label, owner, function in _PARTS:
            clocked = _clocked(function, label, seconds)
            patches.enter_context(mock.patch.object(owner, function.__name__, clocked))
        yield seconds


def _clocked(function: Callable[..., Any], label: str, seconds: dict[str, float]) -> Any:
    @wraps(function)
    def clocked(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[label] += time.perf_counter() - start

    return clocked
