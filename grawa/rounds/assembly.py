"""How the processes of a job come together: all of them always, or those that are there."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

Status = dict[str, Any]
"""What a worker must know to go on where the others are, beside tensors: plain numbers."""


class Lagging(Exception):
    """The others have had a meeting without this worker, which must be given the state."""


class GivenState(Exception):
    """This worker has been given the state, so that it must begin again what it was doing."""


class Assembly(Protocol):
    """Holds the meetings of a job."""

    is_elastic: bool
    """Whether workers come and go."""

    @property
    def job(self) -> str:
        """The name of the job that this worker has joined, if workers come and go; "" for none."""
        ...

    def join(self, status: Status) -> bool:
        """Starts the job with the others, or joins it if it is under way, as needed.

        Returns:
            Whether it was under way, and this worker is new in it.
        """
        ...

    def hold(
        self,
        status: Status,
        compute: Callable[[], Result],
        commit: Callable[[Result], None],
        *,
        waits: bool = True,
        ending: bool = False,
    ) -> Result:
        """Holds a meeting.

        Args:
            status: of this worker before the meeting, for others that come.
            compute: what is done in it, without a trace in this process until it is committed.
            commit: called with the result once it counts.
            waits: whether no local steps are made meanwhile.
            ending: whether this worker has made its last step.

        Returns:
            The result.

        Raises:
            Lagging: if this worker must be given the state, and does not wait.
            GivenState: if it has been.
            CommunicationError: if the others are out of reach.
        """
        ...

    def leave(self) -> None:
        """Called when this worker needs no more meetings for now."""
        ...

    def abandon(self) -> None:
        """Called when it leaves because of an error, whatever the others do."""
        ...


class Together:
    """All processes are there always; an error is the end of the job."""

    is_elastic = False
    job = ""

    def join(self, status: Status) -> bool:
        """See `Assembly.join`; all start together."""
        return False

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
        result = compute()
        commit(result)
        return result

    def leave(self) -> None:
        """See `Assembly.leave`."""

    def abandon(self) -> None:
        """See `Assembly.abandon`; the others notice when this process ends."""
