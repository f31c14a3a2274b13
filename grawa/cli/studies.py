"""What `grawa compare` and `grawa ablate` share: from a command line to a study, and on."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from grawa.cli.methods import COMPARED
from grawa.cli.run import check
from grawa.cli.trials import prepare
from grawa.errors import UserError
from grawa.experiments.config import TrainConfig
from grawa.experiments.options import changed, condition, written_options
from grawa.experiments.run_study import run_study
from grawa.experiments.study import Arm, Axis, Condition, Study
from grawa.experiments.study_folder import StudyFolder
from grawa.report.page import tally, write_page
from grawa.report.progress import StudyProgress
from grawa.report.study_page import study_page
from grawa.report.tables import as_rich

FIRST_TUNE_SEED = 1000
"""Validation seeds are from here on, and test seeds below."""

OWN = (
    "task", "strategy", "seed", "fault", "steps", "epochs", "budget", "until_error",
    "evaluate_every", "processes", "clock", "device", "checkpoint_every", "tensorboard",
)  # fmt: skip
"""Options of a run that a study sets itself, or that make no sense in one."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What both commands are told."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """What to learn, as in `grawa train`."""

    strategies: str = ",".join(COMPARED)
    """Methods, separated by commas, with options: lgrawa:pull=0.3,uniform."""

    baseline: str | None = None
    """To which the others' differences are taken; by default the first."""

    faults: str = "clean"
    """Conditions, separated by commas: clean, a fault as in `grawa train`, dirichlet:A; or several
    at once, joined by +."""

    seeds: int | None = None
    """How many seeds, from 0; 8, or 4 with --quick."""

    axis: Axis = "time"
    """At the same amount of what methods are compared: time (of the modelled clock), rounds (times
    that the workers talk), bytes (sent by a worker) or steps. Who spends more of it on a step makes
    fewer steps."""

    steps: int | None = None
    """Local steps of the cheapest method; 960, or 320 with --quick."""

    workers: int = 4
    """Number of workers."""

    sync_every: int = 32
    """Local steps between rounds."""

    batch_size: int = 16
    """Samples per worker and step."""

    lr: float = 0.1
    """Learning rate at the start, or in the middle of the grid."""

    step_time: str = "50ms"
    """How long a local step takes, by the modelled clock."""

    link: str = "100mbit:20ms"
    """Bandwidth and latency between workers, by the modelled clock."""

    options: tuple[str, ...] = ()
    """Any other options of `grawa train`, for all runs: optimizer=adamw comm_dtype=int8."""

    tune: int | None = None
    """Validation seeds on which each method's setting is chosen, 1000 and on; 0 for none."""

    grid: int | None = None
    """Settings that are tried for each method: 12, or 4 with --quick."""

    tune_faults: str | None = None
    """Choose one setting for all conditions by the mean over these; by default each condition has
    its own."""

    points: int = 12
    """At how many points of a run its consensus is measured."""

    quick: bool = False
    """A first look: fewer steps, seeds and settings."""

    jobs: int | None = None
    """Runs at a time; by default as many as there are cores."""

    out: Path | None = None
    """The study's folder; by default one in runs/ that is named by what is asked. If it holds this
    study already, the study goes on where it stopped."""

    def base(self) -> TrainConfig:
        """What all runs have in common.

        Returns:
            A configuration whose strategy, seed and faults are to be set.

        Raises:
            UserError: if an option is not for studies.
        """
        options = written_options(self.options)
        taken = [name for name in options if name in OWN or hasattr(self, name)]
        if taken:
            raise UserError(f"{taken[0]} is not for --options: the study sets it itself")
        config = TrainConfig(
            task=self.task,
            workers=self.workers,
            steps=(320 if self.quick else 960) if self.steps is None else self.steps,
            sync_every=self.sync_every,
            batch_size=self.batch_size,
            lr=self.lr,
            clock="virtual",
            step_time=self.step_time,
            link=self.link,
            device="cpu",
        )
        return changed(config, options)


def listed(text: str, what: str) -> list[str]:
    """The entries of a list that is separated by commas; raises `UserError` if one is empty."""
    entries = [part.strip() for part in text.split(",")]
    if not all(entries):
        raise UserError(f"{what} must be names separated by commas, got {text!r}")
    return entries


def at_least(value: int, least: int, name: str) -> int:
    """The value; raises `UserError` if it is smaller than `least`."""
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
    return value


def study_of(
    asked: StudyConfig,
    kind: Literal["compare", "ablate"],
    arms: Sequence[Arm],
    tune: int,
    *,
    baseline: str,
    knob: str = "",
) -> Study:
    """The study that is asked for, checked from end to end before anything runs.

    Args:
        asked: the command line.
        kind: which command.
        arms: what is compared.
        tune: number of validation seeds.
        baseline: the arm that others are compared with.
        knob: what differs in an ablation.

    Returns:
        The study. What is wrong in it raises `UserError`.
    """
    usual_seeds = 4 if asked.quick else 8
    seeds = at_least(usual_seeds if asked.seeds is None else asked.seeds, 1, "seeds")
    study = Study(
        kind=kind,
        base=asked.base(),
        arms=tuple(arms),
        conditions=_conditions(asked.faults, "faults"),
        seeds=tuple(range(seeds)),
        tune_seeds=tuple(range(FIRST_TUNE_SEED, FIRST_TUNE_SEED + at_least(tune, 0, "tune"))),
        tune_conditions=_tune_conditions(asked, tune),
        baseline=baseline,
        axis=asked.axis,
        points=at_least(asked.points, 1, "points"),
        knob=knob,
    )
    _check(study)
    return study


def _tune_conditions(asked: StudyConfig, tune: int) -> tuple[Condition, ...]:
    if asked.tune_faults is None:
        return ()
    if tune == 0:
        raise UserError("tune_faults needs --tune, at least 1")
    return _conditions(asked.tune_faults, "tune_faults")


def _conditions(text: str, what: str) -> tuple[Condition, ...]:
    return tuple(Condition(name=name, options=condition(name)) for name in listed(text, what))


def _check(study: Study) -> None:
    """Every run is tried as far as its options go; each kind of data is dealt out once."""
    seen: set[Any] = set()
    for arm in study.arms:
        for where in (*study.conditions, *study.tune_conditions):
            for setting in arm.settings:
                config = changed(study.base, setting, where.options)
                config.settings()
                data = (config.workers, config.batch_size, config.shards, config.fault)
                kind = (*data, config.norms, config.strategy if config.norms == "probe" else "")
                if kind not in seen:
                    check(config)
                seen.add(kind)


def run(study: Study, asked: StudyConfig) -> None:
    """Runs a study, or what is left of it, and shows what came of it.

    Args:
        study: what is asked.
        asked: the command line.
    """
    jobs = at_least(asked.jobs or os.cpu_count() or 1, 1, "jobs")
    path = asked.out or Path("runs") / default_name(study)
    folder, console = StudyFolder.begin(path, study), Console()
    with folder.locked():
        say_what_was_found(folder, console)
        folder.mend()
        with StudyProgress(study.count(), console) as progress:
            run_study(study, folder, prepare, jobs, progress.show)
        show(folder, console)


def default_name(study: Study) -> str:
    """A folder's name that is the same for the same study, and no other."""
    whole = json.dumps(study.as_toml(), sort_keys=True, default=str)
    task = "".join(c if c.isalnum() or c in "-._" else "-" for c in study.base.task)
    return f"{study.kind}-{task}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def say_what_was_found(folder: StudyFolder, console: Console) -> None:
    """Where an interrupted study goes on, and what is not as it was."""
    found = folder.found()
    if found.results or found.dropped:
        console.print(f"{folder.path}: going on after {len(found.results)} trials")
        for what in folder.changed_since():
            console.print(f"note: {what} differ from those that the study was begun with")
    if found.dropped:
        console.print(f"{found.dropped} lines of trials.jsonl were cut short; they run again")


def show(folder: StudyFolder, console: Console) -> None:
    """The tables and verdicts of a study, and where its page is."""
    page = study_page(folder)
    for section in page.sections:
        for table in section.tables:
            if table.printed:
                console.print(as_rich(table))
    for heading, verdicts in page.verdicts.items():
        console.print(f"{heading}: {tally(verdicts)}", highlight=False)
        for verdict in verdicts:
            if verdict.outcome in {"supported", "contradicted"}:
                line = f"  {verdict.outcome}: {verdict.claim}. {verdict.why}."
                console.print(line, highlight=False, soft_wrap=True)
    written = write_page([page], folder.path / "report.html")
    console.print(f"{written}: all of it, with pictures")
