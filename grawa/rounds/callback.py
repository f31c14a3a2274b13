"""Callbacks for an engine that keep nothing alive."""

from collections.abc import Callable
from weakref import WeakMethod

from grawa.rounds.report import RoundReport


def weakly(method: Callable[[RoundReport], None]) -> Callable[[RoundReport], None]:
    """A callback for an engine that does not keep the object alive whose method it calls.

    Otherwise that object and the engine would refer to each other, and their memory, including the
    data of a run, would be freed only by a later garbage collection: in a study, many trials later.

    Returns:
        The callback, which calls the method.
    """
    reference: WeakMethod[Callable[[RoundReport], None]] = WeakMethod(method)

    def call(report: RoundReport) -> None:
        found = reference()
        assert found is not None, "a round after its object was deleted"
        found(report)

    return call
