"""`grawa ablate`: the effect of one option."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.grids import beyond, grid
from grawa.lab.cli.methods import OWN, method, named
from grawa.lab.cli.studies import run, study_of
from grawa.lab.cli.study_config import StudyConfig, listed
from grawa.lab.experiments.options import names_of_options, option_value
from grawa.lab.experiments.study import Arm, Axis

_ALIASES = {"decay": "score.decay", "ema": "score.decay", "norm_source": "score"}
"""Other names of knobs."""


@dataclass(frozen=True, kw_only=True)
class AblateConfig(StudyConfig):
    """The options of `grawa ablate`, in addition to those that it shares with `grawa compare`."""

    knob: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="KNOB=VALUE,VALUE")]
    """The option that is varied, and its values: one of `grawa train`, or one of the strategy:
    workers=4,8,16, sync_every=1,4,16,64, pull=0.1,0.5,1, prox=0,0.01,0.1,
    score=training,rms,probe, ema=0.5,0.85,0.95 (the decay of averaged training norms)."""

    strategies: str = "lgrawa"
    """Methods, separated by commas, as in `grawa compare`; each is run with every value."""

    baseline: str | None = None
    """The value with which each method's other values are compared; by default the first."""

    axis: Axis = "steps"
    """What is equal for all values that are compared: time, rounds, bytes or steps."""

    tune: int | None = None
    """Number of validation seeds (from 1000) on which settings are chosen; by default 0: none."""


def ablate_command(asked: Annotated[AblateConfig, tyro.conf.arg(name="")]) -> None:
    """Measure the effect of one option: the same task, seeds and steps, with several values of it.

    Args:
        asked: the study.

    Raises:
        UserError: if there is no such knob.
    """
    knob, equals, written_values = asked.knob.partition("=")
    if not equals:
        raise UserError(f"write a knob as name=value,value, such as prox=0,0.1, got {asked.knob!r}")
    if knob in OWN:
        raise UserError(f"{knob} can't be the knob, because the study sets it itself")
    tried = asked.grid_size(4, tune=asked.tune or 0)
    values = listed(written_values, knob)
    arms = [
        arm_at(name, text, knob, value, asked.lr, *tried)
        for name, text in named(listed(asked.strategies, "strategies")).items()
        for value in values
    ]
    baseline = values[0] if asked.baseline is None else asked.baseline
    study = study_of(asked, "ablate", arms, asked.tune or 0, baseline=baseline, knob=knob)
    run(study, asked)


def arm_at(
    name: str, text: str, knob: str, value: str, lr: float, settings: int, further: int
) -> Arm:
    """A method with one value of a knob.

    Args:
        name: the method, or its alias.
        text: the method, as on the command line.
        knob: an option of `grawa train`, or of the strategy.
        value: its value.
        lr: the learning rate in the middle of the grid.
        settings: number of settings to try.
        further: most learning rates to try beyond each edge of these.

    Returns:
        The arm.
    """
    changes: dict[str, Any] = {}
    written, option = text, _ALIASES.get(knob, knob)
    if option in names_of_options():
        changes[option] = option_value(option, value)
    else:
        written = f"{text}:{option}={value}"
    chosen = method(written)
    inside, outside = grid(chosen, lr, settings), beyond(chosen, lr, settings, further)
    return Arm(
        name=f"{name} {knob}={value}",
        method=name,
        alias_of="" if name == text else text,
        value=value,
        settings=tuple({**setting, **changes} for setting in inside),
        beyond=tuple({**setting, **changes} for setting in outside),
        shares_gradients=names.strategy(chosen.strategy).shares_gradients(10**9),
    )
