"""`grawa chaos`: does to a real job what clusters do, and says what came of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import tomli_w
import torch
import tyro
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
from grawa.lab.cli.chaos_config import ChaosConfig, Possible
from grawa.lab.cli.evaluate import measured_again
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import environment
from grawa.lab.files import is_there, make_folder, write_text
from grawa.lab.report.console import say
from grawa.lab.report.tables import as_rich
from grawa.lab.train.launch import WorkerFailedError
from grawa.lab.train.sharing import load

SCHEMA = 1
"""Version of `results.json`; increased when the meaning of a field changes."""


def chaos_command(asked: Annotated[ChaosConfig, tyro.conf.arg(name="")]) -> None:
    """Try how a job stands what happens on clusters: kills, stops, cuts, full disks, bad workers.

    Starts a real job, on hosts made of namespaces of this machine (as root, or where users may make
    namespaces). It is run once undisturbed, then under faults that come one after another, at
    random moments, when the job has recovered from the one before. Where the job ends, it is
    continued with `grawa resume`, as a scheduler would. A table says for each fault how soon it was
    noticed, how soon the job made rounds again, and what was lost. Ends with exit code 1 if
    something is not as it must be: a hang, an orphan, a leftover, a record or model that is wrong.

    Args:
        asked: the options.
    """
    asked.check()
    console = Console(markup=False)
    possible = asked.possible()
    config = None if asked.is_own else asked.checked_train_config(possible.kinds)
    out = _new_folder(asked)
    for kind, why in possible.left_out.items():
        say(console, f"left out: {kind} ({why})")
    if possible.hosts < asked.hosts:
        say(console, f"all {asked.workers} workers run on this machine as one host")
    faults = plan(possible.kinds, asked.faults, asked.workers, possible.hosts, asked.seed)
    session = _session(asked, possible, config, out)
    with console.status("the undisturbed run"):
        undisturbed = _undisturbed(session)
    say(console, f"the undisturbed run: {len(undisturbed.rounds)} rounds")

    def tell(outcome: Outcome) -> None:
        say(console, line_of(outcome, len(faults)))

    with console.status("the run under faults"):
        findings = session.disturbed(undisturbed, faults, tell)
    _finish(console, asked, possible, config, faults, findings, out)


def _new_folder(asked: ChaosConfig) -> Path:
    out = asked.out
    if out is None:
        words = "".join(c if c.isalnum() or c in "-._" else "-" for c in asked.what)[:100]
        out = Path("runs") / f"chaos-{words}-seed{asked.seed}-{datetime.now():%Y%m%d-%H%M%S}"
    if is_there(out):
        raise UserError(f"{out} exists already, and nothing is overwritten: choose another --out")
    return make_folder(out)


def _session(
    asked: ChaosConfig, possible: Possible, config: TrainConfig | None, out: Path
) -> Session:
    size = Size(hosts=possible.hosts, workers=asked.workers)
    return Session(
        subject=_own(asked, size) if config is None else _task(config, size, out),
        workers=asked.workers,
        hosts=possible.hosts,
        namespaces=possible.namespaces,
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
    possible: Possible,
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
        "hosts": possible.hosts,
        "left_out": possible.left_out,
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
