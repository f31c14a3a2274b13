"""When a round is due."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from grawa.counts import check_count
from grawa.errors import UserError

LONGEST = 10**9
"""Most local steps between rounds; more than any training has."""


@dataclass(frozen=True)
class Schedule(ABC):
    """When rounds are due, in local steps.

    Args:
        sync_every: tau, local steps between rounds, at least 1.
    """

    counts_together: ClassVar[bool] = False
    """Whether all workers' local steps count: a round is due after N times the interval."""

    sync_every: int

    def __post_init__(self) -> None:
        check_count("sync_every", self.sync_every)

    @abstractmethod
    def interval(self, step: int, lr: float | None) -> int:
        """Local steps from a round after local step `step` to the next round, at least 1.

        Args:
            step: local steps so far, averaged over the workers if they are counted together.
            lr: the learning rate at the last round; `None` before the first.
        """


@dataclass(frozen=True)
class Every(Schedule):
    """A round after every so many local steps.

    >>> Every(32).interval(64, 0.1)
    32
    """

    def interval(self, step: int, lr: float | None) -> int:
        """Always `sync_every`."""
        return self.sync_every


@dataclass(frozen=True)
class SharedCount(Every):
    """A round after every N * `sync_every` local steps, counted over all N workers.

    A worker that is twice as fast makes twice as many steps, and no worker waits between rounds:
    the paper's asynchronous mode.

    Source: Dimlioglu and Choromanska (2024), section 4; Zhang, Choromanska and LeCun (2015) for
    asynchronous workers.
    """

    counts_together: ClassVar[bool] = True


@dataclass(frozen=True)
class Warmup(Schedule):
    """A round after every local step at first, then after every `sync_every`.

    Args:
        steps: how many first local steps.

    >>> [Warmup(32, steps=100).interval(step, None) for step in (0, 99, 100)]
    [1, 1, 32]

    Source: Lin et al. (2020), "Don't Use Large Mini-Batches, Use Local SGD", section 4.
    """

    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0:
            raise UserError(f"warm-up steps must not be negative, got {self.steps}")

    def interval(self, step: int, lr: float | None) -> int:
        """See `Schedule.interval`."""
        return 1 if step < self.steps else self.sync_every


@dataclass(frozen=True)
class Quadratic(Schedule):
    """Rounds become rarer as the learning rate falls: max(sync_every, (growth / lr)^2) steps.

    Args:
        growth: in units of the learning rate. With the initial learning rate times the square root
            of `sync_every`, the interval grows as soon as the learning rate falls.

    >>> [Quadratic(4, growth=0.2).interval(0, lr) for lr in (0.1, 0.05, 0.01)]
    [4, 16, 400]

    Source: Gu, Lyu, Arora and Huang (2024), "A Quadratic Synchronization Rule for Distributed
    Deep Learning", ICLR, equation 2.
    """

    growth: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.growth < float("inf"):
            raise UserError(f"growth must be positive, got {self.growth}")

    def interval(self, step: int, lr: float | None) -> int:
        """See `Schedule.interval`."""
        if lr is None:
            return self.sync_every
        root = self.growth / lr if lr > 0.0 else float("inf")
        if root * root >= LONGEST:
            return LONGEST
        return max(self.sync_every, int(root * root * (1.0 + 1e-6)))  # lr was rounded to float32


class Timetable:
    """Follows a schedule: which fragment is due at which local step.

    Within each interval of the schedule every fragment is synchronised once, at equal distances,
    the last one at the end.

    Args:
        schedule: when rounds are due.
        num_fragments: P; at most `sync_every`.

    >>> table = Timetable(Every(4), num_fragments=2)
    >>> [(step, table.advance(None)) for step in range(1, 9) if table.is_due(step)]
    [(2, 0), (4, 1), (6, 0), (8, 1)]
    """

    def __init__(self, schedule: Schedule, num_fragments: int = 1) -> None:
        self._schedule = schedule
        self._num_fragments = num_fragments
        self._start = 0
        self._interval = schedule.interval(0, None)
        self._passed = 0
        self.fragment = 0

    @property
    def share(self) -> float:
        """One local step as a fraction of the current interval."""
        return 1.0 / self._interval

    def is_due(self, step: float) -> bool:
        """Whether the next fragment is due, `step` local steps after the start."""
        return step >= self.due

    @property
    def due(self) -> int:
        """After how many local steps the next fragment is due."""
        return self._start + -(-(self._passed + 1) * self._interval // self._num_fragments)

    def advance(self, lr: float | None) -> int:
        """Moves on to the next round, because the one that is due is being run.

        Args:
            lr: the learning rate at the last round, the same on every process.

        Returns:
            The fragment that the due round synchronises.
        """
        self._passed += 1
        if self._passed == self._num_fragments:
            self._passed = 0
            self._start += self._interval
            self._interval = self._schedule.interval(self._start, lr)
        return self.next_fragment()

    def next_fragment(self) -> int:
        """The next fragment, for a round that was asked for; moves on to the one after it."""
        fragment = self.fragment
        self.fragment = (fragment + 1) % self._num_fragments
        return fragment

    def state_dict(self) -> dict[str, Any]:
        """What must be saved to continue."""
        return {
            "start": self._start,
            "interval": self._interval,
            "passed": self._passed,
            "fragment": self.fragment,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: if it can't be the state of this timetable.
        """
        if state["interval"] < 1 or {state["passed"], state["fragment"]} - {
            *range(self._num_fragments)
        }:
            raise ValueError("a timetable with no interval, or at a fragment that does not exist")
        self._start, self._interval = state["start"], state["interval"]
        self._passed, self.fragment = state["passed"], state["fragment"]
