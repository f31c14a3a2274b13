"""What `grawa compare` and `grawa ablate` are told on the command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from grawa.errors import UserError
from grawa.flatness.hessian import has_curvlinops
from grawa.lab.cli.methods import COMPARED, OWN
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness import FlatnessConfig
from grawa.lab.experiments.options import changed, written_options
from grawa.lab.experiments.study import Axis


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What both commands are told."""

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """What to learn, as in `grawa train`."""

    data: str | None = None
    """The folder or archive with the data, for a task that reads them: cifar10, cifar100,
    imagenet."""

    strategies: str = ",".join(COMPARED)
    """Methods, separated by commas, with options of their own or of `grawa train`:
    lgrawa:pull=0.3,mgrawa:score=rms,uniform."""

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
    """Settings that are tried for each method: 12, or 4 with --quick. Learning rates around --lr,
    and where four of them remain for each, two values of its main options."""

    tune_faults: str | None = None
    """Choose one setting for all conditions by the mean over these; by default each condition has
    its own."""

    points: int = 12
    """At how many points of a run its consensus is measured."""

    flatness: int | None = None
    """Training samples over which the flatness of each compared run's consensus is measured; 0 for
    not at all, which is the default with --quick, else 256. Eigenvalues and traces need
    grawa[flatness]."""

    flatness_faults: str | None = None
    """The conditions under which it is measured, where it takes longer than training; by default
    all."""

    quick: bool = False
    """A first look: fewer steps, seeds and settings."""

    device: str = "cpu"
    """Where runs are: cpu, cuda (the first GPU), or auto for a GPU if there is one."""

    jobs: int | None = None
    """Runs at a time; by default as many as there are cores, and one on a GPU."""

    out: Path | None = None
    """The study's folder; by default one in runs/ that is named by what is asked. If it holds this
    study already, the study goes on where it stopped."""

    def flatness_config(self) -> FlatnessConfig | None:
        """How the flatness of runs is measured; `None` for not at all."""
        usual = 0 if self.quick else 256
        samples = at_least(usual if self.flatness is None else self.flatness, 0, "flatness")
        eigenvalues = 1 if has_curvlinops() else 0
        return FlatnessConfig(samples=samples, eigenvalues=eigenvalues) if samples else None

    def base(self) -> TrainConfig:
        """What all runs have in common.

        Returns:
            A configuration whose strategy, seed and faults are to be set.
        """
        options = other_options(self.options, self, "the study")
        config = TrainConfig(
            task=self.task,
            data=self.data,
            workers=self.workers,
            steps=(320 if self.quick else 960) if self.steps is None else self.steps,
            sync_every=self.sync_every,
            batch_size=self.batch_size,
            lr=self.lr,
            clock="virtual",
            step_time=self.step_time,
            link=self.link,
            device=self.device,
        )
        return changed(config, options)


def other_options(texts: Sequence[str], asked: object, who: str) -> dict[str, Any]:
    """What --options says, of a command that has options of its own.

    Args:
        texts: each name=value.
        asked: the command's own options, as attributes.
        who: sets those itself.

    Returns:
        The changes.

    Raises:
        UserError: if one is not for --options.
    """
    options = written_options(texts)
    taken = [name for name in options if name in OWN or hasattr(asked, name)]
    if taken:
        raise UserError(f"{taken[0]} is not for --options: {who} sets it itself")
    return options


def listed(text: str, what: str) -> list[str]:
    """The entries of a list that is separated by commas.

    Returns:
        Them, all different.

    Raises:
        UserError: if one is empty, or given twice.
    """
    entries = [part.strip() for part in text.split(",")]
    if not all(entries):
        raise UserError(f"{what} must be names separated by commas, got {text!r}")
    twice = next((entry for entry in entries if entries.count(entry) > 1), None)
    if twice is not None:
        raise UserError(f"{twice!r} is given twice in {what}: leave one of them out")
    return entries


def at_least(value: int, least: int, name: str) -> int:
    """The value; raises `UserError` if it is smaller than `least`."""
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")
    return value
