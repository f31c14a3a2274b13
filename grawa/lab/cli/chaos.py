"""`grawa chaos`: does to a real job what clusters do, and says what came of it."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import tomli_w
import torch
from rich.console import Console

from grawa.errors import UserError
from grawa.lab.chaos.campaign import HungError
from grawa.lab.chaos.commands import Size
from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.plan import Planned, plan
from grawa.lab.chaos.session import Session
from grawa.lab.chaos.subject import FunctionSubject, Subject, TaskSubject
from grawa.lab.chaos.table import ending_lines, fault_table, line_of
from grawa.lab.chaos.verdict import Findings, Result, broken
from grawa.lab.cli import names
from grawa.lab.cli.chaos_checks import (
    Possible,
    check_asked,
    checked_train_config,
    is_own,
    possible,
)
from grawa.lab.cli.chaos_config import ChaosConfig
from grawa.lab.cli.evaluate import measured_again
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import environment
from grawa.lab.experiments.overwriting import overwriting
from grawa.lab.files import is_there, make_folder, write_text
from grawa.lab.report.console import say
from grawa.lab.report.tables import as_rich
from grawa.lab.train.failed import WorkerFailedError
from grawa.lab.train.sharing import load

SCHEMA = 1
"""Version of `results.json`; increased when the meaning of a field changes."""


def chaos_command(asked: ChaosConfig) -> None:
    """Runs `grawa chaos`.

    Args:
        asked: the options.
    """
    check_asked(asked)
    console, here = Console(markup=False), possible(asked)
    config = None if is_own(asked) else checked_train_config(asked, here.kinds)
    out = _new_folder(asked)
    for kind, why in here.left_out.items():
        say(console, f"left out: {kind} ({why})")
    if here.hosts < asked.hosts:
        say(console, f"all {asked.workers} workers run on this machine as one host")
    faults = plan(here.kinds, asked.faults, asked.workers, here.hosts, asked.seed)
    session = _session(asked, here, config, out)
    with console.status("the undisturbed run"):
        undisturbed = _undisturbed(session)
    say(console, f"the undisturbed run: {len(undisturbed.rounds)} rounds")

    def tell(outcome: Outcome) -> None:
        say(console, line_of(outcome, len(faults)))

    with console.status("the run under faults"):
        findings = session.disturbed(undisturbed, faults, tell)
    _finish(console, asked, here, config, faults, findings, out)


def _new_folder(asked: ChaosConfig) -> Path:
    out = asked.out
    if out is None:
        words = "".join(c if c.isalnum() or c in "-._" else "-" for c in asked.what)[:100]
        out = Path("runs") / f"chaos-{words}-seed{asked.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    with overwriting(out) if asked.overwrite else nullcontext():
        if is_there(out):
            raise UserError(f"{out} exists already: choose another --out, or give --overwrite")
        return make_folder(out)


def _session(asked: ChaosConfig, here: Possible, config: TrainConfig | None, out: Path) -> Session:
    size = Size(hosts=here.hosts, workers=asked.workers)
    return Session(
        subject=_own(asked, size) if config is None else _task(config, size, out),
        workers=asked.workers,
        hosts=here.hosts,
        namespaces=here.namespaces,
        timeout=asked.timeout,
        within=asked.within,
        noise=asked.noise,
        out=out,
    )


def _own(asked: ChaosConfig, size: Size) -> Subject:
    return FunctionSubject(size=size, what=asked.what)


def _task(config: TrainConfig, size: Size, out: Path) -> Subject:
    file = (out / "config.toml").absolute()
    write_text(file, tomli_w.dumps(config.as_toml()))
    task = names.task(config.task, config.data)
    data = load(task, config.settings(), torch.device("cpu"))
    return TaskSubject(
        size=Size(hosts=size.hosts, workers=size.workers, restarts=config.max_restarts),
        file=file,
        config=config,
        metric=task.metric,
        samples=len(data.test_targets),
        measure=lambda run: measured_again(run)[1],
    )


def _undisturbed(session: Session) -> Result:
    try:
        found = session.undisturbed()
    except HungError as error:
        raise WorkerFailedError(f"the undisturbed run failed: {error}") from None
    if found.error is None or not found.rounds:
        raise WorkerFailedError("the undisturbed run made no round, or ended without a result")
    return found


def _finish(
    console: Console,
    asked: ChaosConfig,
    here: Possible,
    config: TrainConfig | None,
    faults: Sequence[Planned],
    findings: Findings,
    out: Path,
) -> None:
    """Prints and writes what came of it; `WorkerFailedError` if something is not as it must be."""
    wrong = broken(findings)
    record = {
        "schema": SCHEMA,
        "environment": environment(),
        "asked": _plain(asdict(asked)),
        "config": None if config is None else config.as_toml(),
        "hosts": here.hosts,
        "left_out": here.left_out,
        "planned": [asdict(fault) for fault in faults],
        **_plain(asdict(findings)),
        "broken": wrong,
    }
    write_text(out / "results.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    console.print(as_rich(fault_table(findings.outcomes)))
    for line in ending_lines(findings, len(faults)):
        say(console, line)
    say(console, f"{out}: both runs, all logs, and results.json")
    if wrong:
        raise WorkerFailedError("; ".join(wrong))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}
