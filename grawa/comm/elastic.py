"""The options of a job whose workers come and go."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import timedelta

from grawa.durations import Duration, positive
from grawa.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Elastic:
    """Workers may die, come back and come late; the others go on.

    The workers that are there are known to a *lighthouse*, a small server of torchft's to which
    all send heartbeats. A round takes place among those who are there, and is applied by all of
    them or by none. A worker that dies costs the others at most one `timeout`, and none of their
    local steps. A worker that comes gets the center and what the method keeps between rounds from
    the others; one that has only been away keeps its own local steps since its last round, on top
    of that center. Needs torchft (the extra `[elastic]`).

    Args:
        min_workers: with fewer, the others wait.
        lighthouse: where it is, "host:port". By default `grawa.distributed()` says so, which reads
            what torchft's launchers set: `TORCHFT_LIGHTHOUSE`.
        worker: the number of this worker, from 0, which it keeps when it is started again. By
            default `grawa.distributed()` says so.
        num_workers: N, the most workers that there can be; by default as for `worker`.
        address: of this machine, at which other workers reach this one. Nothing listens at any
            other address; by default only workers of this machine can reach each other.
        timeout: a worker that is silent for longer while others wait for its message is lost. This
            and other times are timedeltas, numbers of seconds, or texts such as "2s".
        grace: for how long a round waits for a worker that is alive but slow; it is then left out
            of this round, and joins the next. By default all that are alive are waited for, for 10
            minutes at most. It takes effect where `grawa.lighthouse` starts the lighthouse;
            otherwise torchft's `--join_timeout_ms` is the grace.
        wait: with fewer than `min_workers` for longer, or without a lighthouse, every worker
            raises `CommunicationError`. Its parameters and state are as after its last local step,
            so that a checkpoint can be written.
        start_after: a new job starts with all N workers, or after so long with `min_workers`; by
            default only with all of them. A worker that is started again while no other is left
            can't know that there was a job, so with this option such workers may start anew.

    Raises:
        UserError: if an option is out of range.

    >>> Elastic(min_workers=2, grace="500ms").times.grace
    datetime.timedelta(microseconds=500000)
    """

    min_workers: int
    lighthouse: str | None = None
    worker: int | None = None
    num_workers: int | None = None
    address: str = "127.0.0.1"
    timeout: Duration = timedelta(seconds=30)
    grace: Duration | None = None
    wait: Duration = timedelta(minutes=5)
    start_after: Duration | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.min_workers, int) or self.min_workers < 1:
            raise UserError(f"min_workers must be at least 1, got {self.min_workers!r}")
        size, worker = self.num_workers, self.worker
        if size is not None and not max(2, self.min_workers) <= size:
            raise UserError(
                f"num_workers must be at least 2 and min_workers ({self.min_workers}), got {size}"
            )
        if worker is not None and not (worker >= 0 and (size is None or worker < size)):
            raise UserError(f"worker must be a number from 0, below num_workers, got {worker}")
        if self.lighthouse is not None and not re.fullmatch(r".+:\d+", self.lighthouse):
            raise UserError(f'lighthouse must be "host:port", got {self.lighthouse!r}')
        _ = self.times

    @property
    def times(self) -> "Times":
        """`timeout`, `grace`, `wait` and `start_after`."""
        return Times(
            timeout=positive(self.timeout, "timeout"),
            grace=None if self.grace is None else positive(self.grace, "grace"),
            wait=positive(self.wait, "wait"),
            start_after=None
            if self.start_after is None
            else positive(self.start_after, "start_after"),
        )

    def placed(self) -> "Elastic":
        """These options with the number of this worker, and where its lighthouse is.

        Returns:
            Options in which `lighthouse`, `worker` and `num_workers` are not `None`.

        Raises:
            UserError: if nothing says them.
        """
        given = _place.get()
        known = {
            name: getattr(given, name)
            for name in ("lighthouse", "worker", "num_workers")
            if getattr(self, name) is None and given is not None
        }
        complete = replace(self, **known)
        missing = [
            name
            for name in ("lighthouse", "worker", "num_workers")
            if getattr(complete, name) is None
        ]
        if missing:
            raise UserError(
                f"Elastic does not know {' and '.join(missing)}: pass them, or make the Averager "
                "within `with grawa.distributed():`, started with TORCHFT_LIGHTHOUSE=host:port and "
                "RANK and WORLD_SIZE in the environment"
            )
        return complete


@dataclass(frozen=True, kw_only=True)
class Times:
    """The times of an `Elastic`, `None` for what does not end."""

    timeout: timedelta
    grace: timedelta | None
    wait: timedelta
    start_after: timedelta | None


@dataclass(frozen=True)
class Place:
    """What a launcher says of a worker."""

    lighthouse: str
    worker: int
    num_workers: int


_place: ContextVar[Place | None] = ContextVar("grawa place", default=None)


@contextmanager
def in_place(place: Place) -> Generator[None]:
    """Lets `Elastic.placed` know what the launcher says."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)
