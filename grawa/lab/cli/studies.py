"""What `grawa compare` and `grawa ablate` share: from a command line to a study, and on."""

import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from grawa.errors import UserError
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import StudyConfig, at_least, listed
from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.options import changed, condition
from grawa.lab.experiments.run_study import run_study
from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.study_toml import as_toml
from grawa.lab.report.page import tally, write_page
from grawa.lab.report.progress import StudyProgress
from grawa.lab.report.study_page import study_page
from grawa.lab.report.tables import as_rich
from grawa.lab.tasks import Data
from grawa.process_group import pick_device

FIRST_TUNE_SEED = 1000
"""Validation seeds are from here on, and test seeds below."""


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
        The study.

    Raises:
        UserError: if anything in it is wrong.
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
        flatness=asked.flatness_config(),
        flat_conditions=_flat_conditions(asked),
    )
    last = max(max(study.seeds_under(condition)) for condition in study.conditions)
    if last >= FIRST_TUNE_SEED:
        raise UserError(
            f"the last seed would be {last}, but from {FIRST_TUNE_SEED} on they are for tuning: "
            "take fewer seeds or populations"
        )
    with Console().status("checking"):
        _check(study)
    return study


def _tune_conditions(asked: StudyConfig, tune: int) -> tuple[Condition, ...]:
    if asked.tune_faults is None:
        return ()
    if tune == 0:
        raise UserError("tune_faults needs --tune, at least 1")
    return _conditions(asked.tune_faults, "tune_faults")


def _flat_conditions(asked: StudyConfig) -> tuple[str, ...]:
    if asked.flatness_faults is None:
        return ()
    if asked.flatness_config() is None:
        raise UserError("flatness_faults needs --flatness, at least 2 samples")
    return tuple(listed(asked.flatness_faults, "flatness_faults"))


def _conditions(text: str, what: str) -> tuple[Condition, ...]:
    return tuple(Condition(name=name, options=condition(name)) for name in listed(text, what))


def _check(study: Study) -> None:
    """Every run is tried as far as its options go; each kind of data is dealt out once."""
    seen: set[Any] = set()
    data_of: dict[Hashable, Data] = {}
    for arm in study.arms:
        for where in (*study.conditions, *study.tune_conditions):
            for setting in arm.settings:
                config = changed(study.base, setting, where.options)
                config.settings()
                dealt = (config.workers, config.batch_size, config.shards, config.fault)
                kind = (*dealt, config.score, config.score and config.strategy)
                if kind not in seen:
                    check(config, data_of)
                seen.add(kind)


def run(study: Study, asked: StudyConfig) -> None:
    """Runs a study, or what is left of it, and shows what came of it.

    Args:
        study: what is asked.
        asked: the command line.
    """
    usual = (os.cpu_count() or 1) if pick_device(asked.device).type == "cpu" else 1
    jobs = at_least(usual if asked.jobs is None else asked.jobs, 1, "jobs")
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
    whole = json.dumps(as_toml(study), sort_keys=True, default=str)
    task = "".join(c if c.isalnum() or c in "-._" else "-" for c in study.base.task)
    return f"{study.kind}-{task}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def say_what_was_found(folder: StudyFolder, console: Console) -> None:
    """Where an interrupted study goes on, and what is not as it was."""
    found = folder.found()
    if found.results or found.dropped:
        console.print(
            f"{folder.path}: going on after {len(found.results)} trials",
            highlight=False,
            soft_wrap=True,
        )
        for what in folder.changed_since():
            console.print(
                f"note: {what} differ from those that the study was begun with",
                highlight=False,
                soft_wrap=True,
            )
    if found.dropped:
        console.print(
            f"{found.dropped} lines of trials.jsonl were cut short; they run again",
            highlight=False,
            soft_wrap=True,
        )


def show(folder: StudyFolder, console: Console) -> None:
    """The tables and verdicts of a study, and where its page is."""
    with console.status("tables"):
        page = study_page(folder)
    for section in page.sections:
        for table in section.tables:
            if table.printed:
                console.print(as_rich(table))
    for heading, verdicts in page.verdicts.items():
        console.print(f"{heading}: {tally(verdicts)}", highlight=False, soft_wrap=True)
        for verdict in verdicts:
            if verdict.outcome in {"supported", "contradicted"}:
                line = f"  {verdict.outcome}: {verdict.claim}. {verdict.why}."
                console.print(line, highlight=False, soft_wrap=True)
    with console.status("pictures"):
        written = write_page([page], folder.path / "report.html")
    console.print(f"{written}: all of it, with pictures", highlight=False, soft_wrap=True)
