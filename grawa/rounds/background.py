"""Runs rounds one after another, in the calling thread or in a background thread."""

from collections.abc import Callable
from threading import Thread
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class Job(Generic[Result]):
    """A function that runs in a thread of its own.

    Args:
        function: what to run.
        device: where its tensors live; on a GPU it runs on a stream of its own.
    """

    def __init__(self, function: Callable[[], Result], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._event = _record(device)
        self._error: BaseException | None = None
        # A daemon thread, so that a process that has failed can exit without waiting for it.
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
        """Waits until the function has returned or raised."""
        self._thread.join()

    def wait(self) -> Result:
        """Waits for the function; returns its result or raises its exception."""
        self.finish()
        if self._error is not None:
            raise self._error
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        return self._result


def _record(device: torch.device) -> torch.cuda.Event | None:
    return torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None


class Queue:
    """Runs functions one after another, so that collectives have the same order on all processes.

    Args:
        device: where the tensors live.
        background: whether `start` runs its function in a background thread.
    """

    def __init__(self, device: torch.device, *, background: bool) -> None:
        self._device = device
        self._background = background
        self._last: Job[object] | None = None

    def run(self, function: Callable[[], Result]) -> Result:
        """Runs a function in this thread, after the one in the background has ended."""
        if self._last is not None:
            self._last.finish()
            self._last = None
        return function()

    def start(self, function: Callable[[], Result]) -> Callable[[], Result]:
        """Runs a function after the previous one has ended, in the background if allowed.

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
