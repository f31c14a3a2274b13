"""The options of `grawa wells`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar


@dataclass(frozen=True, kw_only=True)
class WellsConfig:
    """The options of `grawa wells`.

    Attributes:
        HEADINGS: the first option of each part of the help -> the heading of that part.
    """

    HEADINGS: ClassVar[Mapping[str, str]] = {
        "strategies": "what is compared",
        "workers": "each run",
        "animate": "results",
    }

    strategies: Annotated[str, "METHOD,METHOD"] = (
        "mgrawa,lgrawa,uniform,easgd,lsgd,local_sgd,diloco,dp_sgd"
    )
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

    options: Annotated[tuple[str, ...], "NAME=VALUE..."] = ()
    """Any other options of `grawa train`, for all runs: guard=true optimizer=adamw."""

    animate: bool = True
    """Also draw paths.gif."""

    out: Annotated[Path, "FOLDER"] = Path("runs") / "wells"
    """The folder for the files; those of an earlier command are replaced."""
