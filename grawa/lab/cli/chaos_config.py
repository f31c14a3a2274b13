"""The options of `grawa chaos`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from grawa.lab.chaos.plan import KINDS


@dataclass(frozen=True, kw_only=True)
class ChaosConfig:
    """The options of `grawa chaos`.

    Attributes:
        HEADINGS: the first option of each part of the help -> the heading of that part.
    """

    HEADINGS: ClassVar[Mapping[str, str]] = {
        "what": "the job and its faults",
        "hosts": "where it runs",
        "strategy": "how it trains",
        "timeout": "what must hold",
        "elastic": "workers that come and go",
        "options": "options",
    }

    what: Annotated[str, "TASK"]
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
        "KIND,KIND",
        "The kinds of faults, separated by commas; by default all. "
        f"{'; '.join(f'{kind}: {what}' for kind, what in KINDS.items())}.",
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

    checkpoint_every: Annotated[int | str, "ROUNDS|TIME"] = 10
    """How often a checkpoint is saved, as in `grawa train`."""

    timeout: Annotated[float, "SECONDS"] = 15.0
    """Seconds that a message may wait for the other workers. For a function of your own, what it
    gives to grawa.distributed(): this command only has to know it."""

    within: Annotated[float, "SECONDS"] = 90.0
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

    options: Annotated[tuple[str, ...], "NAME=VALUE..."] = ()
    """Any other options of `grawa train`: lr=0.05 overlap_steps=8 max_restarts=0."""

    out: Annotated[Path | None, "FOLDER"] = None
    """The folder for both runs, all logs and results.json, which must not exist yet; by default a
    new one in runs/."""

    overwrite: bool = False
    """Replace a finished `grawa chaos` in that folder."""
