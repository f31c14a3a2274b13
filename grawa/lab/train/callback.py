"""A callback for a run's engine that does not keep the run alive."""

from collections.abc import Callable
from weakref import WeakMethod

from grawa.rounds.report import RoundReport


def weakly(method: Callable[[RoundReport], None]) -> Callable[[RoundReport], None]:
    """A callback for a run's engine that does not keep the run alive.

    Otherwise run and engine would refer to each other, and their memory, including the data, would
    be freed only by a later garbage collection: in a study, many trials later.

    Returns:
        The callback, which calls the method.
    """
    reference: WeakMethod[Callable[[RoundReport], None]] = WeakMethod(method)

    def call(report: RoundReport) -> None:
        found = reference()
        assert found is not None, "a round after its run was deleted"
        found(report)

    return call
