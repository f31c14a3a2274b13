"""`grawa wells`: methods on a two-dimensional loss with flat and sharp minima."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import TextColumn

from grawa.errors import UserError
from grawa.lab.cli.grids import grid
from grawa.lab.cli.methods import method, named
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import at_least, listed, other_options
from grawa.lab.cli.trials import prepare
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


@dataclass(frozen=True, kw_only=True)
class WellsConfig:
    """The options of `grawa wells`.

    All workers start at the same point at the edge of the landscape. By default there is no guard,
    because it compares the workers' losses, and here a batch's loss is mostly noise.
    """

    strategies: str = "mgrawa,lgrawa,uniform,easgd,lsgd,local_sgd,diloco,dp_sgd"
    """Methods, separated by commas, as in `grawa compare`: mgrawa:pull=0.3,easgd:sync_every=4."""

    seed: int = 0
    """The first seed; the pictures show its runs."""

    seeds: int = 20
    """Number of seeds, from the first, for the table of where runs end; 1 for pictures only."""

    workers: int = 4
    """Number of workers."""

    steps: int = 320
    """Local steps of each worker."""

    sync_every: int = 16
    """Local steps between rounds."""

    lr: float = 0.03
    """Initial learning rate."""

    noise: float = 4.0
    """Standard deviation of each sample's gradient noise, per dimension."""

    batch_size: int = 16
    """Samples per worker and step."""

    options: tuple[str, ...] = ()
    """Any other options of `grawa train`, for all runs: guard=true optimizer=adamw."""

    animate: bool = True
    """Also draw paths.gif."""

    out: Path = Path("runs") / "wells"
    """The folder for the files; those of an earlier command are replaced."""

    def methods(self) -> dict[str, TrainConfig]:
        """The runs of the first seed.

        Returns:
            Method -> its options, checked.

        Raises:
            UserError: if an option is invalid.
        """
        if not math.isfinite(self.noise):
            raise UserError(f"noise must be finite, got {self.noise}")
        methods = named(listed(self.strategies, "strategies"))
        found = {name: self._config(text) for name, text in methods.items()}
        for config in found.values():
            check(config)
        return found

    def _config(self, text: str) -> TrainConfig:
        options = other_options(self.options, self, "`grawa wells`")
        base = TrainConfig(
            task=f"wells:noise={self.noise}",
            seed=self.seed,
            workers=self.workers,
            steps=self.steps,
            sync_every=self.sync_every,
            batch_size=self.batch_size,
            guard=False,
            processes=1,
            device="cpu",
        )
        (setting,) = grid(method(text), self.lr, 1)
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


def wells_command(asked: Annotated[WellsConfig, tyro.conf.arg(name="")]) -> None:
    """Watch methods on a two-dimensional loss with flat and sharp minima.

    Trains a point in the plane with each method, draws the workers' paths in paths.png and
    paths.gif, and counts over many seeds in which kind of minimum each method's consensus ends.

    Args:
        asked: the options.
    """
    at_least(asked.seed, 0, "seed")
    seeds = range(asked.seed, asked.seed + at_least(asked.seeds, 1, "seeds"))
    methods, out = asked.methods(), make_folder(asked.out)
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
