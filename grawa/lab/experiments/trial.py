"""One training run of a study, and its result."""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

from grawa.errors import DivergedError, UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.curve import Curve, curve_of, weights_of
from grawa.lab.experiments.flatness import CONSENSUS, Subject, measure_run
from grawa.lab.experiments.older import saved_text, with_saved_defaults
from grawa.lab.experiments.options import as_lists
from grawa.lab.experiments.study import Trial
from grawa.lab.tasks import Task
from grawa.lab.train.events import Evaluated, Event, Finished, Joined, Started, Trained
from grawa.lab.train.loop import train
from grawa.lab.train.run import StrategyFor
from grawa.lab.train.sharing import load
from grawa.math.finite import are_finite, finite_or_none
from grawa.process_group import pick_device
from grawa.rounds.report import RoundReport


class Prepared(NamedTuple):
    """The objects that a configuration names."""

    task: Task
    strategy_for: StrategyFor
    shares_gradients: Callable[[int], bool]
    """Whether its workers share gradients at a local step, counted from 0."""


Prepare = Callable[[TrainConfig], Prepared]
"""Makes the objects that a configuration names; a new process must be able to import it."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of a trial: a line of `trials.jsonl`.

    Attributes:
        key: the trial's.
        role: the trial's.
        arm: the trial's.
        setting: the trial's.
        condition: the trial's.
        seed: the trial's.
        config: the run's options, as in `config.toml`.
        metric: the name of the task's metric.
        error: the consensus's metric at the end; `None` if the trial failed.
        failure: why it failed; empty if it did not.
        curve: the run at several points.
        weights: from `weights_of`.
        group_names: the parameter tensors that have their own weights; empty if all share one.
        left_out: for each worker, the number of rounds in which it was left out.
        flatness: of the consensus at the end, and of the valley around it, from `RunFlatness`; only
            "failure" if it could not be measured; `None` if the study does not measure it.
        seconds: duration of the trial.
    """

    key: str
    role: str
    arm: str
    setting: int
    condition: str
    seed: int
    config: dict[str, Any]
    metric: str
    error: float | None
    failure: str
    curve: Curve
    weights: dict[str, Any] | None
    group_names: list[str]
    left_out: list[int]
    flatness: dict[str, Any] | None
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become `None`."""
        curve = {
            name: [finite_or_none(v) for v in column] for name, column in vars(self.curve).items()
        }
        return {**asdict(self), "curve": curve}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> "Result":
        """Restores a result from what `as_json` returned, as `trial_lines` describes it."""
        known = {field.name: line[field.name] for field in fields(cls)}
        names = {name: saved_text(line[name], line["config"]) for name in ("key", "arm")}
        columns = {field.name: line["curve"][field.name] for field in fields(Curve)}
        config = with_saved_defaults(line["config"])
        return cls(**{**known, **names, "config": config, "curve": Curve(**columns)})


def run_trial(prepare: Prepare, trial: Trial) -> Result:
    """Trains once, with all workers in this process.

    Args:
        prepare: makes the task and the strategy.
        trial: the trial.

    Returns:
        The result; a run that diverges counts as failed.
    """
    began = time.perf_counter()
    prepared = prepare(trial.config)
    events: list[Event] = []
    failure = ""
    try:
        run = train(
            prepared.task,
            prepared.strategy_for,
            trial.config.settings(),
            device=pick_device(trial.config.device),
            keep_workers=trial.flatness is not None,
        )
        events.extend(run)
    except DivergedError as stopped:
        failure = str(stopped)
    finished = events[-1] if events and isinstance(events[-1], Finished) else None
    if finished and not are_finite(finished.consensus.values()):
        failure = "the consensus is not finite"
    plain = [as_plain(event) for event in events if not isinstance(event, Trained | Joined)]
    curve = curve_of(plain, fragments=trial.config.fragments, talks=prepared.shares_gradients)
    weights = weights_of(plain) if trial.role == "test" else None
    by_tensor = weights is not None and len(weights["groups"][0]) > 1
    return Result(
        key=trial.key,
        role=trial.role,
        arm=trial.arm,
        setting=trial.setting,
        condition=trial.condition,
        seed=trial.seed,
        config=plain_options(trial.config.as_saved()),
        metric=prepared.task.metric,
        error=None if failure or finished is None else finite_or_none(finished.error),
        failure=failure,
        curve=curve if trial.points else Curve(),
        weights=weights,
        group_names=_tensor_names(prepared.task, trial.config.seed) if by_tensor else [],
        left_out=_left_out(events, trial.config.workers),
        flatness=None if failure else _flatness(prepared.task, trial, events),
        seconds=round(time.perf_counter() - began, 3),
    )


def plain_options(config: TrainConfig) -> dict[str, Any]:
    """The options of a run that have a value, for JSON."""
    return as_lists(config.as_toml())


def as_plain(event: Started | RoundReport | Evaluated | Finished) -> dict[str, Any]:
    """An event as in `events.jsonl`, without the model."""
    if isinstance(event, RoundReport):
        return {"kind": "round", **event.as_json()}
    kind = {Started: "started", Evaluated: "evaluated", Finished: "finished"}[type(event)]
    plain = {name: value for name, value in vars(event).items() if name != "consensus"}
    return {"kind": kind, **plain}


def _flatness(task: Task, trial: Trial, events: Iterable[Event]) -> dict[str, Any] | None:
    """The flatness at the end of a run; the workers are used only to measure the valley."""
    trained = next((event for event in events if isinstance(event, Trained)), None)
    if trial.flatness is None or trained is None:
        return None
    workers = {f"worker {i}": state for i, state in sorted(trained.workers.items())}
    settings = replace(trial.config.settings(), dtype="float64")
    data = load(task, settings, pick_device(trial.config.device))
    states = {CONSENSUS: trained.consensus, **workers}
    subject = Subject.of(task, data, states, trial.flatness)
    try:
        found = measure_run(subject, trial.flatness, lambda _: None, names=[CONSENSUS])
    except UserError as error:  # its loss over these samples is not finite
        return {"failure": str(error)}
    return found.as_json()


def _tensor_names(task: Task, seed: int) -> list[str]:
    return [name for name, p in task.model(seed).named_parameters() if p.requires_grad]


def _left_out(events: Iterable[Event], workers: int) -> list[int]:
    rounds = [event for event in events if isinstance(event, RoundReport)]
    return [sum(worker in report.left_out for report in rounds) for worker in range(workers)]
