"""`grawa compare`: methods against each other, on the same seeds and under the same conditions."""

from grawa.lab.cli import names
from grawa.lab.cli.methods import grid, method
from grawa.lab.cli.studies import run, study_of
from grawa.lab.cli.study_config import StudyConfig, at_least, listed
from grawa.lab.experiments.study import Arm


def compare_command(asked: StudyConfig) -> None:
    """Runs `grawa compare`.

    Args:
        asked: the study.
    """
    usual = 1 if asked.quick else 2
    tune = usual if asked.tune is None else asked.tune
    settings = (4 if asked.quick else 12) if asked.grid is None else asked.grid
    at_least(settings, 1, "grid")
    methods = listed(asked.strategies, "strategies")
    arms = [arm_of(text, asked.lr, settings if tune else 1) for text in methods]
    baseline = methods[0] if asked.baseline is None else asked.baseline
    run(study_of(asked, "compare", arms, tune, baseline=baseline), asked)


def arm_of(text: str, lr: float, settings: int) -> Arm:
    """A method, as an arm of the comparison.

    Args:
        text: the method, as on the command line.
        lr: the learning rate in the middle of the grid.
        settings: number of settings to try.

    Returns:
        The arm.
    """
    chosen = method(text)
    return Arm(
        name=text,
        method=text,
        settings=tuple(grid(chosen, lr, settings)),
        shares_gradients=names.strategy(chosen.strategy).shares_gradients(10**9),
    )
