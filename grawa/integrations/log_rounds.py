"""Rounds in any tracker that logs a dict of numbers at a step."""

from collections.abc import Callable, Mapping
from typing import Any

from grawa.errors import UserError
from grawa.process_group import is_first_process
from grawa.rounds.report import RoundReport

Log = Callable[..., object]
"""Called as log(numbers by name, step=step)."""


class LogRounds:
    """A callback for `Averager(on_round=...)` that logs each round's numbers on the first process.

    The step is the one at which the result reached the workers, which is never in the past, also
    with `overlap_steps`.

    Args:
        log: a function such as `wandb.log`, `trackio.log` or `mlflow.log_metrics`; or an object
            with `log`, `log_metrics` (a logger of Lightning's) or `add_scalar` (TensorBoard's
            writer).
        prefix: before each name.

    Raises:
        UserError: if it is none of these.
    """

    def __init__(self, log: Any, *, prefix: str = "grawa/") -> None:
        self._log, self._prefix = _function_of(log), prefix

    def __call__(self, report: RoundReport) -> None:
        """Logs a round."""
        if is_first_process():
            self._log(report.as_scalars(self._prefix), step=report.applied_step)


def _function_of(log: Any) -> Log:
    for name in ("log_metrics", "log"):
        method = getattr(log, name, None)
        if callable(method) and not callable(log):
            found: Log = method
            return found
    if hasattr(log, "add_scalar"):

        def write(numbers: Mapping[str, float], step: int) -> None:
            for name, value in numbers.items():
                log.add_scalar(name, value, step)

        return write
    if not callable(log):
        raise UserError(
            "LogRounds takes a function like wandb.log, or an object with log, log_metrics or "
            f"add_scalar, got {log!r}"
        )
    called: Log = log
    return called
