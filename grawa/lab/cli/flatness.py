"""`grawa flatness`: how flat the loss is around a run's consensus and its workers."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from grawa.errors import UserError
from grawa.flatness import Valley, line, plane
from grawa.flatness.hessian import import_curvlinops
from grawa.lab.cli import names
from grawa.lab.cli.saved import put_state
from grawa.lab.experiments.environment import PACKAGES, environment
from grawa.lab.experiments.flatness import (
    CONSENSUS,
    FLATNESS_SCHEMA,
    Subject,
    measure_run,
    parts,
)
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.files import check_file, write_text
from grawa.lab.report.flatness import flatness_tables
from grawa.lab.report.landscape import bars_picture, line_picture, plane_picture
from grawa.lab.report.progress import counting
from grawa.lab.report.tables import as_rich
from grawa.lab.train.sharing import load
from grawa.process_group import pick_device

_LINE_POINTS = 41
_PLANE_POINTS = 25  # on each side


def flatness_command(run: Path, config: FlatnessConfig, pictures: bool, device: str) -> None:
    """Runs `grawa flatness`.

    Args:
        run: the run's folder.
        config: what to measure.
        pictures: whether pictures are drawn, too.
        device: where the loss is computed.
    """
    config.check()
    if config.eigenvalues:
        import_curvlinops()
    folder = RunFolder.open(run)
    for name in ("flatness.json", *(["flatness.png", "line.png", "plane.png"] if pictures else [])):
        check_file(run / name)
    subject = _read(folder, config, pick_device(device))
    notes: list[str] = []
    with counting(_count(subject, config, pictures), "reading") as advance:
        found = measure_run(subject, config, advance)
        if pictures:
            bars_picture(found.models, run / "flatness.png")
            notes = _draw(subject, found.valley, run, advance)
    record = {
        "schema": FLATNESS_SCHEMA,
        "environment": environment((*PACKAGES, "scipy", "curvlinops-for-pytorch")),
        "config": asdict(config),
        **subject.counts(),
        "metric": subject.task.metric,
        **found.as_json(),
    }
    write_text(run / "flatness.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    console = Console(markup=False)
    for table in flatness_tables(record):
        console.print(as_rich(table))
    for note in (*notes, f"{run}/flatness.json: all measurements"):
        console.print(note, soft_wrap=True)


def _read(folder: RunFolder, config: FlatnessConfig, device: torch.device) -> Subject:
    """Loads a run's models and data, and checks that each model fits the task."""
    ran = folder.config()
    paths = {CONSENSUS: folder.path / "model.safetensors"}
    states = {CONSENSUS: folder.load_model()}
    for worker, state in folder.load_workers(ran.workers).items():
        states[f"worker {worker}"] = state
        paths[f"worker {worker}"] = folder.workers / f"worker-{worker}.safetensors"
    task = names.task(ran.task, ran.data)
    data = load(task, replace(ran.settings(), dtype="float64"), device)
    subject = Subject.of(task, data, states, config)
    for name, state in states.items():
        put_state(subject.surface.model, state, paths[name], ran.task)
    return subject.with_rounds(folder.load_rounds(ran.workers))


def _count(subject: Subject, config: FlatnessConfig, pictures: bool) -> int:
    """Number of parts of the work, for the progress bar; each point of a picture is one."""
    points = len(subject.workers) * _LINE_POINTS + _PLANE_POINTS**2 if subject.workers else 0
    return parts(subject, config) + pictures * points


def _draw(
    subject: Subject, through: Valley | None, run: Path, advance: Callable[[str], object]
) -> list[str]:
    """Draws the pictures; returns a line for each, with the file, or why there is none."""
    drawn = [f"{run}/flatness.png: the measures as bars"]
    positions = {name: subject.position(name) for name in subject.workers}
    center, surface = subject.position(CONSENSUS), subject.surface
    away = {name: at for name, at in positions.items() if not torch.equal(at, center)}
    if not away:
        return [
            *drawn,
            "no pictures of the loss between models: no worker differs from the "
            "consensus, or none was kept",
        ]
    distances = {name: float((at - center).norm()) for name, at in away.items()}
    reach = _reach(through, list(distances.values()))
    lines = {
        name: line(
            surface,
            center,
            at,
            points=_LINE_POINTS,
            beyond=reach / distances[name] - 1.0,
            after_point=lambda: advance("lines"),
        )
        for name, at in away.items()
    }
    border = None if through is None else through.kappa * through.center_loss
    line_picture(lines, run / "line.png", border)
    drawn.append(f"{run}/line.png: the loss from the consensus toward each worker")
    return [*drawn, _draw_plane(subject, list(positions.values()), center, run, advance)]


def _draw_plane(
    subject: Subject,
    workers: list[Tensor],
    center: Tensor,
    run: Path,
    advance: Callable[[str], object],
) -> str:
    try:
        seen = plane(
            subject.surface,
            center,
            workers,
            points=_PLANE_POINTS,
            margin=1.0,
            after_point=lambda: advance("plane"),
        )
    except UserError as error:
        return f"no picture of the plane: {error}"
    plane_picture(seen, run / "plane.png")
    return f"{run}/plane.png: the loss on the plane through the workers"


def _reach(through: Valley | None, distances: list[float]) -> float:
    """The length of the lines, beyond all workers and the borders of the valley."""
    borders = () if through is None else through.border_distances
    return 1.1 * max([2.0 * max(distances), *(b for b in borders if math.isfinite(b))])
