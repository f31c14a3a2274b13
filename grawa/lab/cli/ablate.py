"""`grawa ablate`: the effect of one option."""

from typing import Any

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.methods import grid, method
from grawa.lab.cli.studies import run, study_of
from grawa.lab.cli.study_config import OWN, AblateConfig, at_least, listed
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
    knob, equals, values = asked.knob.partition("=")
    if not equals:
        raise UserError(f"write a knob as name=value,value, such as prox=0,0.1, got {asked.knob!r}")
    if knob in OWN:
        raise UserError(f"{knob} can't be the knob, because the study sets it itself")
    settings = at_least(4 if asked.grid is None else asked.grid, 1, "grid")
    settings = settings if asked.tune else 1
    tried = listed(values, knob)
    arms = [
        arm_at(text, knob, value, asked.lr, settings)
        for text in listed(asked.strategies, "strategies")
        for value in tried
    ]
    baseline = tried[0] if asked.baseline is None else asked.baseline
    study = study_of(asked, "ablate", arms, asked.tune or 0, baseline=baseline, knob=knob)
    run(study, asked)


def arm_at(text: str, knob: str, value: str, lr: float, settings: int) -> Arm:
    """A method with one value of a knob.

    Args:
        text: the method, as on the command line.
        knob: an option of `grawa train`, or of the strategy.
        value: its value.
        lr: the learning rate in the middle of the grid.
        settings: number of settings to try.

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
    return Arm(
        name=f"{text} {knob}={value}",
        method=text,
        value=value,
        settings=tuple({**setting, **changes} for setting in grid(chosen, lr, settings)),
        shares_gradients=names.strategy(chosen.strategy).shares_gradients(10**9),
    )
