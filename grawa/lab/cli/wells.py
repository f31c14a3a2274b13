"""`grawa wells`: methods on a two-dimensional loss with flat and sharp minima."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import TextColumn

from grawa.errors import UserError
from grawa.lab.cli.grids import grid
from grawa.lab.cli.methods import method, named
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import at_least, listed, other_options
from grawa.lab.cli.trials import prepare
from grawa.lab.cli.wells_config import WellsConfig
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.environment import environment
from grawa.lab.experiments.options import changed
from grawa.lab.experiments.wells import Walked, as_json, walks
from grawa.lab.files import check_file, make_folder, write_text
from grawa.lab.report.progress import counting
from grawa.lab.report.tables import as_rich
from grawa.lab.report.wells import FRAMES, draw_animation, draw_paths
from grawa.lab.report.wells_tables import end_table, share_table

_COUNT = TextColumn("{task.completed:.0f}/{task.total:.0f}")

SCHEMA = 1
"""Version of `ends.json`; increased when the meaning of a field changes."""


def _methods(asked: WellsConfig) -> dict[str, TrainConfig]:
    """The runs of the first seed.

    Args:
        asked: the options.

    Returns:
        Method -> its options, checked.

    Raises:
        UserError: if an option is invalid.
    """
    if not math.isfinite(asked.noise):
        raise UserError(f"noise must be finite, got {asked.noise}")
    methods = named(listed(asked.strategies, "strategies"))
    found = {name: _config(asked, text) for name, text in methods.items()}
    for config in found.values():
        check(config)
    return found


def _config(asked: WellsConfig, text: str) -> TrainConfig:
    options = other_options(asked.options, asked, "`grawa wells`")
    base = TrainConfig(
        task=f"wells:noise={asked.noise}",
        seed=asked.seed,
        workers=asked.workers,
        steps=asked.steps,
        sync_every=asked.sync_every,
        batch_size=asked.batch_size,
        guard=False,
        processes=1,
        device="cpu",
    )
    (setting,) = grid(method(text), asked.lr, 1)
    return _stacked(changed(base, options, setting))


def _stacked(config: TrainConfig) -> TrainConfig:
    """Computes all workers' steps in one pass if possible, which is several times as fast.

    Nothing is timed, so that every run of a method has the same digits.

    Returns:
        The configuration with `stack_workers` on or off.
    """
    if config.stack_workers != "auto":
        return config
    obstacle = config.settings().stacking_obstacle()
    return replace(config, stack_workers="on" if obstacle is None else "off")


def wells_command(asked: WellsConfig) -> None:
    """Runs `grawa wells`.

    Args:
        asked: the options.
    """
    at_least(asked.seed, 0, "seed")
    seeds = range(asked.seed, asked.seed + at_least(asked.seeds, 1, "seeds"))
    methods, out = _methods(asked), make_folder(asked.out)
    for name in ("paths.png", "paths.gif", "ends.json"):
        check_file(out / name)
    parts = len(seeds) * len(methods) + FRAMES * asked.animate
    with counting(parts, "starting", _COUNT) as advance:
        runs = []
        for walked in walks(prepare, methods, seeds):
            runs.append(walked)
            advance(f"{walked.method}, seed {walked.seed}")
        first = [walked for walked in runs if walked.seed == asked.seed]
        draw_paths(first, out / "paths.png")
        if asked.animate:
            draw_animation(first, out / "paths.gif", lambda: advance("drawing"))
    record = {"schema": SCHEMA, "environment": environment(), "runs": as_json(runs, methods)}
    write_text(out / "ends.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    _show(asked, runs, first, out)


def _show(asked: WellsConfig, runs: Sequence[Walked], first: Sequence[Walked], out: Path) -> None:
    """Prints the tables and the names of the files."""
    console = Console(markup=False)
    console.print(as_rich(end_table(first)))
    if asked.seeds > 1:
        console.print(as_rich(share_table(runs)))
    console.print(f"{out}/paths.png: each worker's path, seed {asked.seed}", soft_wrap=True)
    if asked.animate:
        console.print(f"{out}/paths.gif: the paths as an animation", soft_wrap=True)
    console.print(f"{out}/ends.json: where every run ended", soft_wrap=True)
