"""Meetings of those who are there, whose results are applied by all of them or by none."""

import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from grawa.comm.elastic import Elastic
from grawa.comm.gloo_world import OwnStore, check_listening
from grawa.comm.lighthouse import DEAD_AFTER, Beacon
from grawa.comm.present import ElasticCommunicator
from grawa.comm.quorum import Decision, Member, decide
from grawa.errors import CommunicationError
from grawa.rounds.assembly import GivenState, Lagging, Status
from grawa.rounds.place import Place
from grawa.warn import warn

Result = TypeVar("Result")

_QUIET_SECONDS = 3.0
"""Workers that are too few say so when they have waited so long: at a start it is no news."""

_POLL_SECONDS = 0.05
"""Before workers that are too few ask again who is there."""


class Quorums:
    """Those who are there hold the meeting, and its result is applied by all of them or by none.

    See `grawa.comm.quorum` for how that is decided.

    Args:
        elastic: the options, complete.
        comm: connects those who are there.
        form: a digest of what must be the same on all workers.

    Attributes:
        give: gives the state to those who join, and returns what this worker does with it;
            collective among those who are there.
        is_asked_to_stop: whether this worker is; then it waits for nobody.
    """

    is_elastic = True

    def __init__(self, elastic: Elastic, comm: ElasticCommunicator, form: str) -> None:
        assert elastic.worker is not None and elastic.lighthouse is not None, "it is complete"
        assert elastic.num_workers is not None, "it is complete"
        self._elastic, self._comm, self._size = elastic, comm, elastic.num_workers
        self._times = elastic.times
        self._incarnation = uuid.uuid4().hex
        self._store = OwnStore(elastic.address)
        name = f"{elastic.worker}:{self._incarnation}"
        self._beacon = Beacon(elastic.lighthouse, name, elastic.times.wait)
        self._me = Member(
            worker=elastic.worker,
            incarnation=self._incarnation,
            store=self._store.place,
            form=form,
        )
        self._connected: tuple[str, ...] = ()
        self._since = time.monotonic()
        self._met: dict[int, float] = {}
        self._said_short = False
        self._has_gone = False
        self._place = Place()
        self.give: Callable[[Decision], Callable[[], None]]
        self.is_asked_to_stop: Callable[[], bool] = lambda: False

    @property
    def job(self) -> str:
        """See `Assembly.job`."""
        return self._me.job

    def join(self, status: Status) -> bool:
        """See `Assembly.join`."""
        self._has_gone = False
        if self._me.job and not self._me.lags:
            return False
        while True:
            decision = self._meet(status, waits=True, ending=False)
            if decision.decided:
                continue
            is_new = bool(decision.source.job) and not self._me.job
            give = self._give_state if decision.joining else self._accept
            if self._try(partial(give, decision)):
                return is_new

    def hold(
        self,
        status: Status,
        compute: Callable[[], Result],
        commit: Callable[[Result], None],
        *,
        waits: bool = True,
        ending: bool = False,
    ) -> Result:
        """See `Assembly.hold`."""
        results: list[Result] = []
        while True:
            decision = self._meet(status, waits=waits, ending=ending)
            if decision.decided and decision.decided == self._me.held:
                return self._complete(decision.decided, commit, results[0])
            if decision.decided:
                continue
            self._say(held="", party=())
            results.clear()
            if not self._leads(decision) and not waits:
                self._say(lags=True)
                raise Lagging
            if decision.joining:
                if self._try(partial(self._give_state, decision)) and not self._leads(decision):
                    raise GivenState
            elif self._try(partial(self._vote, decision, compute, results)):
                return self._complete(decision.name, commit, results[0])

    def _vote(
        self, decision: Decision, compute: Callable[[], Result], results: list[Result]
    ) -> None:
        """Computes the result, and waits until all have said that they have it."""
        self._connect(decision)
        results.append(compute())
        self._say(held=decision.name, party=[member.incarnation for member in decision.present])
        self._comm.gather(torch.ones(1, 1))()

    def _complete(self, name: str, commit: Callable[[Result], None], result: Result) -> Result:
        commit(result)
        self._say(meeting=self._me.meeting + 1, last=name, held="", party=())
        return result

    def _try(self, exchange: Callable[[], None]) -> bool:
        """Whether an exchange with those who are there came to its end."""
        try:
            exchange()
        except CommunicationError:
            self._comm.abandon()  # so that the others notice at once
            return False
        except BaseException:
            self._comm.abandon()
            raise
        return True

    def _give_state(self, decision: Decision) -> None:
        self._connect(decision)
        take = self.give(decision)
        if not self._leads(decision):
            take()
        self._accept(decision)

    def _accept(self, decision: Decision) -> None:
        """Belongs to the job, as far as it is."""
        self._say(job=decision.job, meeting=decision.meeting, last=decision.last, lags=False)

    def _leads(self, decision: Decision) -> bool:
        return any(member.incarnation == self._incarnation for member in decision.leading)

    def _connect(self, decision: Decision) -> None:
        """Connects those who are there, unless they are already."""
        party = tuple(member.incarnation for member in decision.present)
        same = {member.open for member in decision.present} == {self._comm.opened}
        if same and self._comm.opened and party == self._connected:
            return
        others = [m for m in decision.present if m.incarnation != self._incarnation]
        check_listening([member.store for member in others], DEAD_AFTER)
        workers = [member.worker for member in decision.present]
        self._comm.connect(decision.name, workers, decision.source.store)
        self._connected = party

    def _meet(self, status: Status, *, waits: bool, ending: bool) -> Decision:
        """Asks who is there until they are enough."""
        short_since: float | None = None
        self._said_short = False
        while True:
            start = self._times.start_after
            asked = time.monotonic() - self._since
            self._say(
                status=status,
                waits=waits,
                ending=ending,
                expects=self._met_lately() if ending else (),
                open=self._comm.opened,
                impatient=start is not None and asked >= start.total_seconds(),
            )
            self._check_stays()
            quorum = self._beacon.quorum(self._me.as_json())
            self._check_stays()
            come = [Member(**said) for said in quorum.members]
            least = self._elastic.min_workers
            decision = decide(quorum.name, come, self._size, least)
            is_free = self._place.is_free(self._me, decision)
            if is_free and decision.leading and decision.is_enough(least):
                now = time.monotonic()
                self._met.update((member.worker, now) for member in decision.present)
                return decision
            if not is_free or (ending and decision.leading):  # who is late may still come
                time.sleep(_POLL_SECONDS)
            else:
                short_since = self._wait_for_more(come, short_since)

    def _met_lately(self) -> list[int]:
        """The workers that were in a meeting within the timeout."""
        start = time.monotonic() - self._times.timeout.total_seconds()
        return [worker for worker, moment in self._met.items() if moment > start]

    def _check_stays(self) -> None:
        """Ends a round in the background once this worker has left without a word."""
        if self._has_gone:
            raise CommunicationError(f"worker {self._me.worker} has left the job after an error")

    def _wait_for_more(self, come: list[Member], since: float | None) -> float:
        """Waits a moment; says so once, and gives up in the end."""
        started = any(member.job for member in come)
        asks = "min_workers is" if started else "a job starts with all"
        least = self._elastic.min_workers if started else self._size
        there = ", ".join(str(member.worker) for member in come)
        wait = self._times.wait.total_seconds()
        text = f"too few workers are there ({there}): {asks} {least}"
        if since is None:
            since = time.monotonic()
        waited = time.monotonic() - since
        if waited >= _QUIET_SECONDS and not self._said_short:
            self._said_short = True
            warn(f"{text}; waiting for more, for {wait:g} s at most")
        if self.is_asked_to_stop():
            raise CommunicationError(f"{text}, and this one has been asked to stop")
        if waited > wait:
            raise CommunicationError(
                f"{text}; waited for {wait:g} s. The parameters and the state are as after the "
                "last local step: save a checkpoint with averager.save(), and resume from it"
            )
        time.sleep(_POLL_SECONDS)
        return since

    def _say(self, **changes: Any) -> None:
        self._me = Member(**{**vars(self._me), **changes})

    def leave(self) -> None:
        """See `Assembly.leave`; the others don't wait for it any more."""
        self._beacon.stop()
        self._comm.abandon()

    def abandon(self) -> None:
        """See `Assembly.abandon`."""
        self._has_gone = True
        self.leave()
