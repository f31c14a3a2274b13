"""What `grawa compare` and `grawa ablate` share: making a study, running it, showing it."""

import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from grawa.errors import UserError
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import StudyConfig, at_least, listed
from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.options import changed, condition
from grawa.lab.experiments.overwriting import overwriting
from grawa.lab.experiments.run_study import run_study
from grawa.lab.experiments.study import Arm, Condition, Study
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.study_toml import as_toml
from grawa.lab.report.console import say
from grawa.lab.report.page import tally, write_page
from grawa.lab.report.progress import StudyProgress
from grawa.lab.report.study_page import study_page
from grawa.lab.report.tables import as_rich
from grawa.lab.tasks import Data
from grawa.process_group import pick_device

_LONGEST_NAME = 100
"""Letters of a task in a folder's name, which may have 255 bytes."""

FIRST_TUNE_SEED = 1000
"""The first validation seed; test seeds are below it."""


def study_of(
    asked: StudyConfig,
    kind: Literal["compare", "ablate"],
    arms: Sequence[Arm],
    tune: int,
    *,
    baseline: str,
    knob: str = "",
) -> Study:
    """Makes a study from a command line, and checks the options of all its runs.

    Args:
        asked: the command line.
        kind: the command.
        arms: what is compared.
        tune: number of validation seeds.
        baseline: the arm that others are compared with.
        knob: the option that is varied in an ablation.

    Returns:
        The study.

    Raises:
        UserError: if an option is invalid.
    """
    usual_seeds = 16 if asked.quick else 8
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
            f"the last seed would be {last}, but seeds from {FIRST_TUNE_SEED} on are for tuning: "
            "use fewer seeds or populations"
        )
    with Console(markup=False).status("checking"):
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
    """Checks the options of every run; data are loaded once for each task, seed and dtype."""
    seen: set[Any] = set()
    data_of: dict[Hashable, Data] = {}
    for arm in study.arms:
        for where in (*study.conditions, *study.tune_conditions):
            for setting in arm.possible:
                config = changed(study.base, setting, where.options)
                config.settings()
                dealt = (config.workers, config.batch_size, config.shards, config.fault)
                kind = (*dealt, config.score, config.score and config.strategy)
                if kind not in seen:
                    check(config, data_of)
                seen.add(kind)


def run(study: Study, asked: StudyConfig) -> None:
    """Runs a study, or the rest of it, and shows its results.

    Args:
        study: the study.
        asked: the command line.
    """
    usual = (os.cpu_count() or 1) if pick_device(asked.device).type == "cpu" else 1
    jobs = at_least(usual if asked.jobs is None else asked.jobs, 1, "jobs")
    path = asked.out or Path("runs") / default_name(study)
    with overwriting(path) if asked.overwrite else nullcontext():
        folder = StudyFolder.begin(path, study)
    console = Console(markup=False)
    with folder.locked():
        show_earlier_trials(folder, console)
        folder.remove_incomplete_lines()
        with StudyProgress(study.count(), console) as progress:
            run_study(
                study, folder, prepare, jobs, progress.show, progress.tell, progress.set_total
            )
        show(folder, console)


def default_name(study: Study) -> str:
    """A folder name that depends on all options of the study."""
    whole = json.dumps(as_toml(study), sort_keys=True, default=str)
    task = "".join(c if c.isalnum() or c in "-._" else "-" for c in study.base.task[:_LONGEST_NAME])
    return f"{study.kind}-{task}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def show_earlier_trials(folder: StudyFolder, console: Console) -> None:
    """Prints where an interrupted study continues, and what has changed since."""
    found = folder.found()
    if found.results or found.dropped:
        say(console, f"{folder.path}: continuing after {len(found.results)} trials")
        for what in folder.changed_since():
            say(console, f"note: {what} differ from those at the start of the study")
    if found.dropped:
        console.print(
            f"{found.dropped} lines of trials.jsonl are incomplete; these trials run again",
            highlight=False,
            soft_wrap=True,
        )
    for notice in folder.damaged():
        say(console, f"note: {notice}")


def show(folder: StudyFolder, console: Console) -> None:
    """Prints the tables and tested claims of a study, and writes its page."""
    with console.status("tables"):
        page = study_page(folder)
    for line in page.first_lines:
        say(console, line)
    for section in page.sections:
        for table in section.tables:
            if table.printed and not section.folded:
                console.print(as_rich(table))
    for heading, verdicts in page.verdicts.items():
        if all(verdict.outcome == "no answer" for verdict in verdicts):
            continue  # the answer says so already
        say(console, f"{heading}: {tally(verdicts)}")
        for verdict in verdicts:
            if verdict.outcome in {"supported", "contradicted"}:
                line = f"  {verdict.outcome}: {verdict.claim}. {verdict.why}."
                say(console, line)
    with console.status("pictures"):
        written = write_page([page], folder.path / "report.html")
    say(console, f"{written}: all results, with pictures")
