"""The options of `grawa compare` and `grawa ablate`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.options import changed, written_options
from grawa.lab.experiments.study import Axis
from grawa.lab.shapes import shown

COMPARED = (
    *("mgrawa", "lgrawa", "uniform", "easgd", "lsgd", "local_sgd", "diloco", "dppf"),
    *("dp_sgd", "dp_sam"),
)
"""The methods that are compared by default."""

QUICK = ("mgrawa", "local_sgd", "diloco", "dp_sgd")
"""Those that are compared with --quick: so few that the seeds of so short a study suffice."""

OWN = (
    "task", "strategy", "seed", "fault", "steps", "epochs", "budget", "until_error",
    "evaluate_every", "processes", "clock", "device", "checkpoint_every", "tensorboard",
    "elastic", "min_workers", "grace", "address",
)  # fmt: skip
"""Options of a run that a study sets itself, or for which a study has no use."""

_MOST = 10**6
"""Of seeds, settings, points, samples and processes of a study."""

_MOST_GROWN = 20
"""Of learning rates beyond an edge of a grid."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The options that both commands share."""

    HEADINGS: ClassVar[Mapping[str, str]] = {
        "task": "what is compared",
        "seeds": "how much is trained",
        "workers": "each run",
        "tune": "tuning and measuring",
        "quick": "how it is run",
    }
    """The first option of each part of the help -> the heading of that part."""

    task: str
    """The task, as in `grawa train`."""

    data: Annotated[str | None, "PATH"] = None
    """The folder or archive with the data, for a task that reads them: cifar10, cifar100,
    imagenet."""

    strategies: Annotated[str | None, "METHOD,METHOD"] = None
    """Methods, separated by commas, with options of their own or of `grawa train`:
    lgrawa:pull=0.3,mgrawa:score=rms,uniform. A name for tables and pictures may come first:
    best=mgrawa:score=probe:pull=1. By default ten methods, or four with --quick: mgrawa,
    local_sgd, diloco and dp_sgd."""

    baseline: str | None = None
    """The method with which the others are compared; by default the first."""

    faults: str = "clean"
    """Conditions, separated by commas: clean, a fault as in `grawa train`, dirichlet:A; or several
    at once, joined by +."""

    seeds: int | None = None
    """Number of seeds, from 0; by default 8, or 16 with --quick, which are short."""

    axis: Axis = "time"
    """What is equal for all methods that are compared: time (of the modelled clock), rounds
    (exchanges between the workers), bytes (sent by a worker) or steps. A method that spends more of
    it on a step makes fewer steps."""

    steps: int | None = None
    """Local steps of the cheapest method; by default 960, or 320 with --quick."""

    workers: int = 4
    """Number of workers."""

    sync_every: int = 32
    """Local steps between rounds."""

    batch_size: int = 16
    """Samples per worker and step."""

    lr: float = 0.1
    """Initial learning rate; with tuning, the one in the middle of the grid."""

    step_time: str = "50ms"
    """Duration of a local step on the modelled clock."""

    link: str = "100mbit:20ms"
    """Bandwidth and latency between workers on the modelled clock."""

    options: Annotated[tuple[str, ...], "NAME=VALUE..."] = ()
    """Any other options of `grawa train`, for all runs: optimizer=adamw comm_dtype=int8."""

    tune: int | None = None
    """Number of validation seeds (from 1000) on which each method's setting is chosen; 0: none."""

    grid: int | None = None
    """Number of settings that are tried for each method; by default 12, or 4 with --quick. They are
    learning rates around --lr and, if four of these remain for each, two values of the method's
    main options."""

    grow: int = 3
    """Where the best learning rate is the smallest or largest of those that were tried, the next
    one beyond it is tried too: at most so many on each side, for every method. 0: none."""

    tune_faults: str | None = None
    """Choose one setting for all conditions, by the mean over these conditions; by default a
    setting is chosen for each condition."""

    points: int = 12
    """Number of measurements of the consensus during a run."""

    flatness: int | None = None
    """Number of training samples on which the flatness of each compared run's consensus is
    measured, 0 for no measurement; by default 256, or 0 with --quick. Eigenvalues and traces need
    grawa[flatness]."""

    flatness_faults: str | None = None
    """The conditions under which flatness is measured, to save time; by default all."""

    quick: bool = False
    """A first look at four methods: fewer steps and settings, and more seeds, so that a clear
    difference can be told from chance."""

    device: str = "cpu"
    """The device for runs: cpu, cuda (the first GPU), or auto for a GPU if there is one."""

    jobs: int | None = None
    """Runs at a time; by default the number of cores, and one on a GPU."""

    out: Annotated[Path | None, "FOLDER"] = None
    """The study's folder; by default one in runs/ whose name depends on all options. If it contains
    this study already, the study continues where it stopped."""

    overwrite: bool = False
    """Replace a finished study in that folder, also by the same one, which runs again."""

    def flatness_config(self) -> FlatnessConfig | None:
        """How the flatness of runs is measured; `None` if it is not."""
        from grawa.flatness.hessian import has_curvlinops  # with torch

        usual = 0 if self.quick else 256
        samples = at_least(usual if self.flatness is None else self.flatness, 0, "flatness")
        eigenvalues = 1 if has_curvlinops() else 0
        return FlatnessConfig(samples=samples, eigenvalues=eigenvalues) if samples else None

    def grid_size(self, usual: int, *, tune: int) -> tuple[int, int]:
        """How many settings tuning tries.

        Args:
            usual: number of settings if the command line gives none.
            tune: number of validation seeds.

        Returns:
            The number of settings of a method's grid, and of learning rates beyond each edge of it;
            one setting without tuning.

        Raises:
            UserError: if a number is out of range.
        """
        settings = at_least(usual if self.grid is None else self.grid, 1, "grid")
        if at_least(self.grow, 0, "grow") > _MOST_GROWN:
            raise UserError(f"grow must be at most {_MOST_GROWN}, got {self.grow}")
        return (settings, self.grow) if tune else (1, 0)

    def base(self) -> TrainConfig:
        """The options that all runs share.

        Returns:
            A configuration in which strategy, seed and faults are still to be set.
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
            stack_workers="off",  # a choice by timing could differ between the study's runs
        )
        return changed(config, options)


@dataclass(frozen=True, kw_only=True)
class AblateConfig(StudyConfig):
    """The options of `grawa ablate`, in addition to those that it shares with `grawa compare`."""

    HEADINGS: ClassVar[Mapping[str, str]] = {**StudyConfig.HEADINGS, "knob": "what is varied"}
    """As in `StudyConfig`."""

    knob: Annotated[str, "KNOB=VALUE,VALUE"]
    """The option that is varied, and its values: one of `grawa train`, or one of the strategy:
    workers=4,8,16, sync_every=1,4,16,64, pull=0.1,0.5,1, prox=0,0.01,0.1,
    score=training,rms,probe, ema=0.5,0.85,0.95 (the decay of the score's running average)."""

    strategies: Annotated[str, "METHOD,METHOD"] = "lgrawa"
    """Methods, separated by commas, as in `grawa compare`; each is run with every value."""

    baseline: str | None = None
    """The value with which each method's other values are compared; by default the first."""

    axis: Axis = "steps"
    """What is equal for all values that are compared: time, rounds, bytes or steps."""

    tune: int | None = None
    """Number of validation seeds (from 1000) on which settings are chosen; by default 0: none."""


def other_options(
    texts: Sequence[str], asked: object, command: str, own: Collection[str] = OWN
) -> dict[str, Any]:
    """Parses --options, and refuses those that the command sets itself.

    Args:
        texts: each name=value.
        asked: the command's own options, as attributes.
        command: the command's name, for the message.
        own: what it sets besides its own options.

    Returns:
        The changes to a run's options.

    Raises:
        UserError: if an option is set by the command.
    """
    options = written_options(texts)
    kept = [name for name in options if name in own or hasattr(asked, name)]
    if kept:
        raise UserError(f"{kept[0]} can't be given in --options, because {command} sets it itself")
    return options


def listed(text: str, what: str) -> list[str]:
    """The entries of a list separated by commas.

    Returns:
        The entries, all different.

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
    """The value; raises `UserError` if it is smaller than `least`, or no sensible number."""
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {shown(value)}")
    if value > _MOST:
        raise UserError(f"{name} must be at most {_MOST:,}, got {shown(value)}")
    return value
