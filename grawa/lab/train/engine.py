"""The engine of a run on one process."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from grawa.lab.tasks import Task
from grawa.lab.train.settings import Settings
from grawa.lab.train.worker import Worker
from grawa.rounds.clock import Clock
from grawa.rounds.engine import Engine
from grawa.rounds.plan import RoundPlan
from grawa.rounds.report import OnRound
from grawa.rounds.setup import set_up
from grawa.strategies.protocol import Strategy


def engine_of(
    workers: Sequence[Worker],
    task: Task,
    strategy: Strategy,
    settings: Settings,
    clock: Clock,
    tell: OnRound,
) -> Engine:
    """Connects this process to the others.

    Args:
        workers: of this process.
        task: that they train.
        strategy: how they are averaged.
        settings: of the run, the same on every process.
        clock: times the workers.
        tell: called with the report of each round.

    Returns:
        The engine.
    """
    plan = partial(
        RoundPlan,
        strategy=strategy,
        schedule=settings.schedule,
        guard=settings.guard,
        buffers=settings.buffers,
        optimizer_state=settings.optimizer_state,
        optimizer_state_every=settings.optimizer_state_every,
        measure_distance=True,
        overlap_steps=settings.overlap_steps,
        alpha=settings.alpha,
        fragments=settings.fragments,
        comm_dtype=settings.comm_dtype,
        weigh_by=settings.weigh_by,
        elastic=settings.elastic is not None,
        individually=clock.individual and settings.schedule.counts_together,
    )
    return set_up(
        [worker.model for worker in workers],
        [[worker.optimizer] for worker in workers],
        plan,
        f"{type(task).__name__} {replace(settings, elastic=None, modelled=None)}",
        process_group=None,
        worker_group=None,
        timeout=settings.timeout,
        elastic=settings.elastic,
        clock=clock,
        tell=[tell],
    )
