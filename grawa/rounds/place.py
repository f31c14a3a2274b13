"""Whether a worker that has come to a meeting may take part in it."""

import time

from grawa.comm.lighthouse import DEAD_AFTER, HEARTBEAT_SECONDS
from grawa.comm.quorum import Decision, Member
from grawa.errors import CommunicationError, UserError

_GONE_AFTER = DEAD_AFTER.total_seconds() + 2.0 * HEARTBEAT_SECONDS
"""Seconds after which the dead have left every meeting."""


class Place:
    """The place of a worker, which one process at a time can have."""

    def __init__(self) -> None:
        self._taken_since: float | None = None

    def is_free(self, me: Member, decision: Decision) -> bool:
        """Whether the worker may take part.

        If not, another process is there for it, which is perhaps its own predecessor: one that has
        died at a meeting still counts as there for a while.

        Args:
            me: what the worker has said of itself.
            decision: on the meeting.

        Returns:
            Whether it may.

        Raises:
            CommunicationError: if the other process lives.
            UserError: if the worker does not fit into the job.
        """
        if me.incarnation in decision.replaced:
            now = time.monotonic()
            self._taken_since = now if self._taken_since is None else self._taken_since
            if now > self._taken_since + _GONE_AFTER:
                raise CommunicationError(
                    f"another process has taken the place of worker {me.worker}, and has trained "
                    "further: end this one"
                )
            return False
        self._taken_since = None
        if decision.leading and decision.source.form != me.form:
            raise UserError(
                f"worker {me.worker} has another model, optimizer, strategy or options than "
                f"worker {decision.source.worker}, whose job it would join; every worker must make "
                "the same model (names, shapes, dtypes) and options before the Averager"
            )
        return True
