"""The training loop of one process, as a stream of events."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from grawa.lab.tasks import Task
from grawa.lab.train.checkpoint import Saving
from grawa.lab.train.events import Event
from grawa.lab.train.kept_rounds import KeptRounds
from grawa.lab.train.run import Run, StrategyFor
from grawa.lab.train.settings import Settings
from grawa.lab.train.stop import StoppedError

Asking = Callable[[Callable[[], None]], AbstractContextManager[None]]
"""Given what asks for a stop, makes a context in which somebody may call it."""


def train(
    task: Task,
    strategy_for: StrategyFor,
    settings: Settings,
    *,
    device: torch.device | None = None,
    saving: Saving | None = None,
    keep_workers: bool = False,
    keep_rounds: int = 0,
    asking: Asking = lambda request: nullcontext(),
) -> Iterator[Event]:
    """Trains the workers hosted by this process, together with the other processes.

    Args:
        task: the task.
        strategy_for: makes the strategy.
        settings: the settings.
        device: the device of this process; the CPU by default.
        saving: where and when checkpoints are saved; if there is one already, training continues
            from it. By default there are none.
        keep_workers: whether `Trained` has each worker's parameters.
        keep_rounds: of how many last rounds `Trained` has each worker's parameters, as they were
            before the round; of those since the run was resumed, if it was.
        asking: the context in which the run trains, and may be asked to stop; needs `saving`.

    Yields:
        `Started`; `Joined` for an elastic worker; a `RoundReport` after each round, and an
        `Evaluated` if the consensus was measured; at the end `Trained`, and `Finished` when the
        consensus has been measured.

    Raises:
        StoppedError: after a round before which a process was asked to stop, when its checkpoint is
            complete.
    """
    run = Run(task, strategy_for, settings, device or torch.device("cpu"), saving)
    kept = KeptRounds(run.engine, keep_rounds) if keep_rounds else None
    with asking(run.engine.request_stop):
        yield run.started()
        yield from run.news()  # of the last round before the checkpoint
        try:
            with run.rescued():
                run.begin()
                yield from run.news()
                while not run.is_over():
                    run.step()
                    yield from run.news()
                run.engine.leave()
        except StoppedError:
            yield from run.news()
            raise
        yield from run.news()  # of the rounds after the last steps
        rounds = {} if kept is None else kept.of_workers()
        yield from run.end(keep_workers=keep_workers, rounds=rounds)
