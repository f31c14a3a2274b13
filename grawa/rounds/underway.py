"""A round that has begun, and its result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from grawa.math.leaves import Rows
from grawa.rounds.guard import Verdict
from grawa.rounds.measured import Measured
from grawa.rounds.resets import Restart
from grawa.rounds.roll_call import Roll


class Outcome(NamedTuple):
    """The result of a round; times are the clock's."""

    roll: Roll
    verdict: Verdict
    weights: Tensor | None
    """(N, G), or `None` if the workers count equally."""
    measured: Measured | None
    """`None` if it moves no parameters."""
    buffers: dict[str, Tensor]
    """New values of the buffers that had changed, the same on every process."""
    joined: float
    """When the last worker had joined."""
    finished: float
    restart: Restart | None = None
    """What workers that are reset start again from, where it is known before the round is applied.
    """
    change_state: Callable[[], None] | None = None
    """Changes the state of the hosted workers' optimizers, if that is due."""


@dataclass
class Underway:
    """A round that has begun."""

    fragment: int
    wait: Callable[[], Outcome]
    began: float
    step: int
    before: Rows
    """The buffers when it began."""
    in_shadow: bool = False
    """Whether it runs on a copy of the workers."""
    late: bool = False
    """Whether the workers make local steps before it is applied to them."""
    made: Tensor | None = None
    """What was made since the round before: see `Counts.restart`."""
    exposed: float = 0.0
    """Seconds for which it has blocked local steps."""
    age: int = 0
    """Local steps since it began."""
    called: float | None = None
    """When the engine began to wait for its result."""
