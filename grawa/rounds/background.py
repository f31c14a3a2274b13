"""Where rounds run: one after another, in the foreground or behind it."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Job(Generic[Result]):
    """Something that is done in a thread of its own.

    Args:
        function: what.
        device: where its tensors live; on a GPU it runs on a stream of its own.
    """

    def __init__(self, function: Callable[[], Result], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._event = _record(device)
        self._error: BaseException | None = None
        # A daemon, so that a process that has failed need not wait for the others to end.
        self._thread = Thread(target=self._run, name="grawa round", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._event is not None:
                torch.cuda.set_device(self._device)
                torch.cuda.set_stream(torch.cuda.Stream(self._device))
                torch.cuda.current_stream(self._device).wait_event(self._event)
            self._result = self._function()
            self._event = _record(self._device)
        except BaseException as error:
            self._error = error

    def finish(self) -> None:
        """Waits until it is done, well or not."""
        self._thread.join()

    def wait(self) -> Result:
        """Waits until it is done: its result, or what it raised."""
        self.finish()
        if self._error is not None:
            raise self._error
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        return self._result


def _record(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


class Queue:
    """Does one thing after another, so that all processes have their collectives in one order.

    Args:
        device: where the tensors live.
        background: whether `start` may return before it is done.
    """

    def __init__(self, device: torch.device, *, background: bool) -> None:
        self._device = device
        self._background = background
        self._last: Job[object] | None = None

    def run(self, function: Callable[[], Result]) -> Result:
        """Does something here, after what is under way."""
        if self._last is not None:
            self._last.finish()
            self._last = None
        return function()

    def start(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """Does something, in the background if that may be, after what is under way.

        Returns:
            A function that waits for the result.
        """
        if not self._background:
            done = function()
            return lambda: done
        if self._last is not None:
            self._last.finish()
        job = Job(function, self._device)
        self._last = job  # type: ignore[assignment]
        return job.wait
