"""The settings of the training loop, made from the options of a run."""

import math
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from functools import partial

from grawa.durations import seconds
from grawa.errors import UserError
from grawa.lab.experiments.coming_and_going import elastic_of
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.limits import check_limits
from grawa.lab.experiments.modelled import modelled_time
from grawa.lab.experiments.option_types import wrong_options
from grawa.lab.experiments.precisions import precision_of
from grawa.lab.experiments.schedules import schedule_of
from grawa.lab.train.faults import Fault
from grawa.lab.train.population import faults_of
from grawa.lab.train.settings import Settings
from grawa.lab.units import share
from grawa.rounds.guard import Guard

_LONGEST_TIMEOUT = 1e9  # seconds, some thirty years


def settings_of(config: TrainConfig) -> Settings:
    """The settings of the training loop.

    Args:
        config: the run's options.

    Returns:
        The settings.

    Raises:
        UserError: if a value is out of range.
    """
    check_limits(vars(config))
    if not 0.0 < config.timeout < _LONGEST_TIMEOUT:
        raise UserError(f"timeout must be positive and finite, got {config.timeout}")
    faults, usual = _faults(config), {field.name: field.default for field in fields(config)}
    made = Settings(
        workers=config.workers,
        steps=960 if (config.steps, config.epochs, config.budget) == (None,) * 3 else config.steps,
        epochs=config.epochs,
        budget=_given(config.budget, seconds, "budget"),
        until_error=_given(config.until_error, share, "until_error"),
        evaluate_every=_evaluate_every(config),
        schedule=schedule_of(config.schedule, config.sync_every, config.lr),
        overlap_steps=config.overlap_steps,
        alpha=config.alpha,
        fragments=config.fragments,
        comm_dtype=precision_of(config.comm_dtype),
        modelled=modelled_time(vars(config), usual, faults),
        batch_size=config.batch_size,
        lr=config.lr,
        lr_schedule=config.lr_schedule,
        optimizer=config.optimizer,
        weigh_by=None if config.weigh_by == "none" else config.weigh_by,
        guard=_guard(config) if config.guard else None,
        buffers=config.buffers,
        optimizer_state=config.optimizer_state,
        optimizer_state_every=config.optimizer_state_every,
        shards=config.shards,
        faults=faults,
        dtype=config.dtype,
        seed=config.seed,
        timeout=timedelta(seconds=config.timeout),
        elastic=elastic_of(vars(config), usual),
        stack_workers=config.stack_workers,
        swa=_given(config.swa, partial(share, most=1.0), "swa"),
    )
    complaint = wrong_options(vars(config), type(config))  # last, as others say more
    if complaint:
        raise UserError(complaint)
    return made


def _evaluate_every(config: TrainConfig) -> int:
    if config.evaluate_every is None:
        return int(config.until_error is not None)
    return config.evaluate_every


def _guard(config: TrainConfig) -> Guard:
    ratio = config.displacement_ratio
    return Guard(
        report_after=config.report_after,
        drop=config.drop,
        displacement_ratio=math.inf if ratio is None else ratio,
    )


def _faults(config: TrainConfig) -> tuple[Fault, ...]:
    """All workers' faults; populations include speeds if the options don't set them."""
    timed = config.clock == "virtual" and config.speeds is None
    faults = [
        fault for text in config.fault for fault in faults_of(text, config.workers, timed=timed)
    ]
    for fault in faults:
        if fault.kind == "speed" and not timed:
            reason = (
                "needs --clock virtual"
                if config.clock == "wall"
                else "and --speeds both set a speed: give one"
            )
            raise UserError(f"fault {fault} {reason}")
    return tuple(faults)


def _given(text: str | None, read: Callable[[str, str], float], what: str) -> float | None:
    return None if text is None else read(text, what)
