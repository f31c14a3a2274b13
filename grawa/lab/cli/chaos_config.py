"""The options of `grawa chaos`, and what they make."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import tyro

from grawa.errors import UserError
from grawa.lab import own
from grawa.lab.chaos.hosts import why_no_hosts
from grawa.lab.chaos.own import function
from grawa.lab.chaos.plan import KINDS
from grawa.lab.cli import names
from grawa.lab.cli.run import check
from grawa.lab.cli.study_config import at_least, listed
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.options import changed, written_options
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


@dataclass(frozen=True, kw_only=True)
class ChaosConfig:
    """The options of `grawa chaos`."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """The task, as in `grawa train`; or module:function, or file.py:function, for a function of
    your own. It is called in every worker's process as function(folder, on_round), trains with an
    Averager that has on_round=[on_round] within grawa.distributed(), saves to and restores from the
    folder, and returns the final error. examples/chaos.py is one."""

    faults: int = 20
    """Number of faults."""

    seed: int = 0
    """Seed of the faults, their victims and moments, and of the training."""

    kinds: Annotated[
        str,
        tyro.conf.arg(
            help="The kinds of faults, separated by commas. "
            f"{'; '.join(f'{kind}: {what}' for kind, what in KINDS.items())}."
        ),
    ] = ",".join(KINDS)

    hosts: int = 2
    """Number of hosts, made of network namespaces; 1 where these can't be made."""

    workers: int = 4
    """Number of workers on all hosts together."""

    strategy: str = "lgrawa"
    """The averaging method, with options, as in `grawa train`."""

    steps: int | None = None
    """Local steps of each worker; by default 40 rounds for each fault, or 600 with --elastic, where
    workers go on meanwhile."""

    sync_every: int = 32
    """Local steps between rounds."""

    checkpoint_every: int | str = 10
    """How often a checkpoint is saved, as in `grawa train`."""

    timeout: float = 15.0
    """Seconds that a message may wait for the other workers. For a function of your own, what it
    gives to grawa.distributed(): this command only has to know it."""

    within: float = 90.0
    """How many seconds later than the timeout the job must make rounds again after a fault has
    ended; else it counts as hung. torchrun alone takes 30 s to end a worker that is stopped."""

    noise: float | None = None
    """The largest difference between the final error and that of the undisturbed run which counts
    as noise; by default three standard errors of an error rate, or 5% of another metric."""

    elastic: bool = False
    """Whether workers come and go, as in `grawa train --elastic`: each is started by itself, and
    again when it dies, while the others go on. Their lighthouse is on a host of its own."""

    min_workers: int | None = None
    """Elastic: with fewer workers the others wait; by default half of them."""

    options: tuple[str, ...] = ()
    """Any other options of `grawa train`: lr=0.05 overlap_steps=8 max_restarts=0."""

    out: Path | None = None
    """The folder for both runs, all logs and results.json, which must not exist yet; by default a
    new one in runs/."""

    @property
    def is_own(self) -> bool:
        """Whether a function of the user's own is trained."""
        return own.is_own(self.what, names.known_tasks())

    def check(self) -> None:
        """Checks the options, except for those of a run.

        Raises:
            UserError: if one has no sense.
        """
        at_least(self.faults, 1, "faults")
        at_least(self.seed, 0, "seed")
        at_least(self.hosts, 1, "hosts")
        if at_least(self.workers, 2, "workers") % self.hosts:
            raise UserError(
                f"{self.workers} workers can't be spread evenly over {self.hosts} hosts"
            )
        for name in ("timeout", "within"):
            value = getattr(self, name)
            if not 0.0 < value <= _LONGEST_SECONDS:
                raise UserError(f"{name} must be positive, and at most a day, got {value:g} s")
        if self.noise is not None and not self.noise >= 0.0:
            raise UserError(f"noise must not be negative, got {self.noise}")
        for kind in listed(self.kinds, "kinds"):
            if kind not in KINDS:
                raise UserError(f"there is no kind of fault {kind!r}; there are {', '.join(KINDS)}")
        if self.is_own:
            function(self.what)
            usual = {field.name: field.default for field in fields(self)}
            given = [name for name in _OF_TASKS if getattr(self, name) != usual[name]]
            if given:
                raise UserError(f"{given[0]} is for tasks, and {self.what} is your own function")

    def possible(self) -> "Possible":
        """What can be done on this machine."""
        reason, kinds = why_no_hosts(), listed(self.kinds, "kinds")
        hosts = self.hosts if reason is None else 1
        left_out = {kind: reason for kind in kinds if kind in _NAMESPACES and reason}
        if self.elastic and "launcher" in kinds:
            left_out["launcher"] = "elastic workers have no launcher"
        if hosts == 1 and "link" in kinds and "link" not in left_out:
            left_out["link"] = "one host has no link"
        if self.is_own:
            why = "workers of a function of your own can't be asked for it"
            left_out |= {kind: why for kind in kinds if kind in _OF_LAB}
        else:
            left_out |= self._unfit(kinds)
        chosen = [kind for kind in kinds if kind not in left_out]
        if not chosen:
            whys = "; ".join(f"{kind}: {why}" for kind, why in left_out.items())
            raise UserError(f"no kind of fault is left ({whys})")
        return Possible(hosts=hosts, namespaces=reason is None, kinds=chosen, left_out=left_out)

    def _unfit(self, kinds: Sequence[str]) -> dict[str, str]:
        """Kinds of faults that the run's options don't allow."""
        config, found = self.train_config(()), dict[str, str]()
        if names.task(config.task, config.data).num_classes < 2:
            found["labels"] = f"{config.task} has no labels"
        if not config.guard:
            found |= dict.fromkeys(_OF_LAB, "without the guard nothing keeps bad workers out")
        if config.checkpoint_interval() == Interval():
            found["checkpoint"] = "no checkpoints are saved"
        return {kind: why for kind, why in found.items() if kind in kinds}

    def train_config(self, kinds: Sequence[str]) -> TrainConfig:
        """The options of the run.

        Args:
            kinds: of the faults that will be made.

        Returns:
            The options; with the faults for which workers can be asked.

        Raises:
            UserError: if one is invalid, or set by this command itself.
        """
        options = written_options(self.options)
        own = [name for name in options if name in _KEPT or hasattr(self, name)]
        if own:
            raise UserError(f"{own[0]} can't be given in --options: `grawa chaos` sets it itself")
        asked = {"nan": "nan", "labels": "wrong-labels"}
        named = [asked[kind] for kind in kinds if kind in asked]
        ends = {"steps", "epochs", "budget"} & {*options}
        rounds = _OF_ELASTIC if self.elastic else _ROUNDS_PER_FAULT
        usual = None if ends else rounds * (self.faults + 1) * max(1, self.sync_every)
        base = TrainConfig(
            task=self.what,
            strategy=self.strategy,
            workers=self.workers,
            steps=usual if self.steps is None else self.steps,
            sync_every=self.sync_every,
            checkpoint_every=self.checkpoint_every,
            timeout=self.timeout,
            seed=self.seed,
            elastic=self.elastic,
            min_workers=self.min_workers,
            fault=tuple(f"{name}:{i}@asked" for name in named for i in range(self.workers)),
        )
        return changed(base, options)

    def checked_train_config(self, kinds: Sequence[str]) -> TrainConfig:
        """As `train_config`; its values are checked, too."""
        config = self.train_config(kinds)
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
