"""What `grawa chaos` can do with its options on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.chaos.hosts import why_no_hosts
from grawa.lab.chaos.own import function
from grawa.lab.chaos.plan import KINDS
from grawa.lab.cli import names
from grawa.lab.cli.chaos_config import ChaosConfig
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import at_least, listed, other_options
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.options import changed
from grawa.lab.train.interval import Interval

_ROUNDS_PER_FAULT = 40
_OF_ELASTIC = 600
"""The same for elastic workers, who go on meanwhile."""

_KEPT = ("task", "workers", "processes", "clock", "fault", "stack_workers")
"""Options of a run that this command sets itself, besides those that it has under the same name."""

_OF_TASKS = (
    *("strategy", "steps", "sync_every", "checkpoint_every", "elastic", "min_workers", "options"),
)
"""Options that say nothing to a function of the user's own."""

_LONGEST_SECONDS = 86_400.0

_NAMESPACES = ("host", "link", "disk")
"""Kinds that need namespaces."""

_OF_LAB = ("nan", "labels")
"""Kinds that only a run of the laboratory can be asked for."""


def is_own(asked: ChaosConfig) -> bool:
    """Whether a function of the user's own is trained."""
    return own.is_own(asked.what, names.known_tasks())


def check_asked(asked: ChaosConfig) -> None:
    """Checks the options, except for those of a run.

    Args:
        asked: the options.

    Raises:
        UserError: if one has no sense.
    """
    at_least(asked.faults, 1, "faults")
    at_least(asked.seed, 0, "seed")
    at_least(asked.hosts, 1, "hosts")
    if at_least(asked.workers, 2, "workers") % asked.hosts:
        raise UserError(f"{asked.workers} workers can't be spread evenly over {asked.hosts} hosts")
    for name in ("timeout", "within"):
        value = getattr(asked, name)
        if not 0.0 < value <= _LONGEST_SECONDS:
            raise UserError(f"{name} must be positive, and at most a day, got {value:g} s")
    if asked.noise is not None and not asked.noise >= 0.0:
        raise UserError(f"noise must not be negative, got {asked.noise}")
    for kind in listed(asked.kinds, "kinds"):
        if kind not in KINDS:
            close = own.meant(kind, KINDS)
            known = ", ".join(KINDS)
            raise UserError(f"there is no kind of fault {kind!r}{close}; there are {known}")
    if is_own(asked):
        function(asked.what)
        usual = {field.name: field.default for field in fields(asked)}
        given = [name for name in _OF_TASKS if getattr(asked, name) != usual[name]]
        if given:
            raise UserError(f"{given[0]} is for tasks, and {asked.what} is your own function")


def possible(asked: ChaosConfig) -> "Possible":
    """What can be done on this machine."""
    reason, kinds = why_no_hosts(), listed(asked.kinds, "kinds")
    hosts = asked.hosts if reason is None else 1
    left_out = {kind: reason for kind in kinds if kind in _NAMESPACES and reason}
    if asked.elastic and "launcher" in kinds:
        left_out["launcher"] = "elastic workers have no launcher"
    if hosts == 1 and "link" in kinds and "link" not in left_out:
        left_out["link"] = "one host has no link"
    if is_own(asked):
        why = "workers of a function of your own can't be asked for it"
        left_out |= {kind: why for kind in kinds if kind in _OF_LAB}
    else:
        left_out |= _unfit(asked, kinds)
    chosen = [kind for kind in kinds if kind not in left_out]
    if not chosen:
        whys = "; ".join(f"{kind}: {why}" for kind, why in left_out.items())
        raise UserError(f"no kind of fault is left ({whys})")
    return Possible(hosts=hosts, namespaces=reason is None, kinds=chosen, left_out=left_out)


def _unfit(asked: ChaosConfig, kinds: Sequence[str]) -> dict[str, str]:
    """Kinds of faults that the run's options don't allow."""
    config, found = train_config(asked, ()), dict[str, str]()
    if names.task(config.task, config.data).num_classes < 2:
        found["labels"] = f"{config.task} has no labels"
    if not config.guard:
        found |= dict.fromkeys(_OF_LAB, "without the guard nothing keeps bad workers out")
    if config.checkpoint_interval() == Interval():
        found["checkpoint"] = "no checkpoints are saved"
    return {kind: why for kind, why in found.items() if kind in kinds}


def train_config(asked: ChaosConfig, kinds: Sequence[str]) -> TrainConfig:
    """The options of the run.

    Args:
        asked: the options of the command.
        kinds: of the faults that will be made.

    Returns:
        The options; with the faults for which workers can be asked. A `UserError` is raised if one
        is invalid, or set by this command itself.
    """
    options = other_options(asked.options, asked, "`grawa chaos`", _KEPT)
    faults = {"nan": "nan", "labels": "wrong-labels"}
    named = [faults[kind] for kind in kinds if kind in faults]
    ends = {"steps", "epochs", "budget"} & {*options}
    rounds = _OF_ELASTIC if asked.elastic else _ROUNDS_PER_FAULT
    usual = None if ends else rounds * (asked.faults + 1) * max(1, asked.sync_every)
    base = TrainConfig(
        task=asked.what,
        strategy=asked.strategy,
        workers=asked.workers,
        steps=usual if asked.steps is None else asked.steps,
        sync_every=asked.sync_every,
        checkpoint_every=asked.checkpoint_every,
        timeout=asked.timeout,
        seed=asked.seed,
        elastic=asked.elastic,
        min_workers=asked.min_workers,
        fault=tuple(f"{name}:{i}@asked" for name in named for i in range(asked.workers)),
    )
    return changed(base, options)


def checked_train_config(asked: ChaosConfig, kinds: Sequence[str]) -> TrainConfig:
    """As `train_config`; its values are checked, too."""
    config = train_config(asked, kinds)
    check(config)
    return replace(config, stack_workers="off")


@dataclass(frozen=True, kw_only=True)
class Possible:
    """What can be done.

    Attributes:
        hosts: number of hosts.
        namespaces: whether they are made of namespaces.
        kinds: of faults.
        left_out: other kinds that were asked for -> why they can't be made.
    """

    hosts: int
    namespaces: bool
    kinds: Sequence[str]
    left_out: dict[str, str]
