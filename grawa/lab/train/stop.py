"""Signals that stop a run: the first asks for a checkpoint at the next round, another ends it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

STOP_WITHIN_SECONDS = 25.0
"""How long a run may go on after it was asked to stop: SLURM, Kubernetes and torchrun kill after
30 s, by which time it should be said how it continues."""

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a run to stop."""

CAUGHT = (*STOPS, signal.SIGQUIT)
"""Signals that end a run, and may reach all its processes at once."""

SAME_SIGNAL_SECONDS = 0.2
"""How far apart one signal may reach all processes of a terminal. Another one that comes so soon is
no second request: a lost terminal sends SIGHUP, and so does its shell."""

_SHORTEST_SECONDS = 1e-6
"""Of a timer that runs: 0 would mean none."""


class StoppedError(BaseException):
    """A signal has stopped the run. It is no failure, and `except Exception` does not catch it.

    Args:
        number: the signal.
        saved: whether there is a checkpoint of the run's last round.
        text: what the user is told.
    """

    def __init__(
        self, number: signal.Signals = signal.SIGTERM, *, saved: bool, text: str = ""
    ) -> None:
        super().__init__(text)
        self.number, self.saved = number, saved

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that a signal has ended."""
        return 128 + self.number


class StopSignals:
    """Collects signals to stop, instead of ending in the middle of something.

    Attributes:
        first: the one that came first, if any has come.
        at_once: whether another one has come, or one that is no request, such as SIGQUIT.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.at_once = False
        self._since = 0.0

    @contextmanager
    def caught(
        self,
        numbers: Sequence[signal.Signals],
        on_first: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> Generator[None]:
        """Catches signals while the block runs; those that were ignored before stay ignored.

        Args:
            numbers: which.
            on_first: called at the first request to stop, in the middle of whatever runs.
            on_end: called likewise when `at_once` becomes true.
        """

        def come(number: int, _: object) -> None:
            is_request = number in STOPS
            if is_request and self.first is None:
                self.first, self._since = signal.Signals(number), time.monotonic()
                on_first()
            elif not is_request or time.monotonic() - self._since > SAME_SIGNAL_SECONDS:
                self.first = self.first or signal.Signals(number)
                self.at_once = True
                on_end()

        with handled(numbers, come):
            yield

    def check(self) -> None:
        """For work of which nothing has to be saved, between its parts.

        Raises:
            StoppedError: if a request to stop has come.
        """
        if self.first is not None:
            raise StoppedError(self.first, saved=False)


@contextmanager
def handled(
    numbers: Sequence[signal.Signals], handler: Callable[[int, object], None]
) -> Generator[None]:
    """Handles signals while the block runs in the main thread, where signals go.

    Args:
        numbers: which; those that are ignored, as by `nohup`, stay so.
        handler: called with the number.
    """
    found = {number: signal.getsignal(number) for number in numbers if _gets_signals()}
    before = {number: old for number, old in found.items() if old is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _gets_signals() -> bool:
    """Whether this is the thread in which signals are handled."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def asking(
    request: Callable[[], None], signals: StopSignals, within: float | None
) -> Generator[None]:
    """Asks for a stop when a signal comes while the block, which trains, runs in a process.

    Args:
        request: asks for the stop.
        signals: collects the signals.
        within: seconds from the first signal to the process's end if training goes on, where
            another signal ends it at once; `None` if a launcher sees to both.

    Raises:
        StoppedError: with the signal, if the block raised it or the process is to end.
    """

    def begin() -> None:
        request()
        if within is not None and signals.first is not None:
            announce(signals.first, within)
            signal.setitimer(signal.ITIMER_REAL, max(within, _SHORTEST_SECONDS))

    def end(*_: object) -> None:
        if within is not None:
            raise StoppedError(saved=False)

    alarms = [] if within is None else [signal.SIGALRM]
    try:
        with handled(alarms, end), signals.caught(STOPS, begin, end):
            yield
    except StoppedError as stop:
        # A launcher ends all others when one has exited, and the first has to say what is safe.
        if within is None and _gets_signals():
            for number in STOPS:
                signal.signal(number, signal.SIG_IGN)
        raise StoppedError(signals.first or stop.number, saved=stop.saved) from None
    finally:
        if within is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)


def announce(number: signal.Signals, within: float) -> None:
    """Says that a run is going to stop, on standard error; a signal handler may call it."""
    text = (
        f"{number.name} asks the run to stop: it saves a checkpoint at its next round, and ends "
        f"after {within:g} s at the latest; another signal ends it at once\n"
    )
    with suppress(OSError):
        os.write(2, text.encode())
