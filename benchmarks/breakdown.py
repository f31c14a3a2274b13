"""Where the time of a round goes: the seconds that each module of grawa takes by itself."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from types import FrameType

_PACKAGE = "grawa."


class _Clock:
    """Charges time to the module of grawa that runs, or that called what runs.

    It is called at every beginning and end of a Python function, so it names no function of the
    library, and none that moves can be missed.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running = ["the caller"]
        self._since = time.perf_counter()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """See `sys.setprofile`."""
        if event not in {"call", "return"}:
            return
        now = time.perf_counter()
        self.seconds[self._running[-1]] += now - self._since
        if event == "call":
            module = frame.f_globals.get("__name__", "")
            own = module.startswith(_PACKAGE)
            self._running.append(module.removeprefix(_PACKAGE) if own else self._running[-1])
        elif len(self._running) > 1:
            self._running.pop()
        self._since = time.perf_counter()


def break_down(run: Callable[[], object]) -> dict[str, float]:
    """Runs something on this thread.

    Returns:
        Seconds by module, such as `rounds.engine`, with what it called outside grawa and waited
        for. They add up to all, without the clock's own time.
    """
    clock = _Clock()
    before = sys.getprofile()
    sys.setprofile(clock)
    try:
        run()
    finally:
        sys.setprofile(before)
    return dict(clock.seconds)
