"""`grawa ablate`: the effect of one option."""

from typing import Any

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.grids import beyond, grid
from grawa.lab.cli.methods import method, named
from grawa.lab.cli.studies import run, study_of
from grawa.lab.cli.study_config import OWN, AblateConfig, listed
from grawa.lab.experiments.options import names_of_options, option_value
from grawa.lab.experiments.study import Arm

_ALIASES = {"decay": "score.decay", "ema": "score.decay", "norm_source": "score"}
"""Other names of knobs."""


def ablate_command(asked: AblateConfig) -> None:
    """Runs `grawa ablate`.

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
