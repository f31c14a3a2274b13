"""`grawa compare`: methods against each other, on the same seeds and under the same conditions."""

from grawa.lab.cli import names
from grawa.lab.cli.grids import beyond, grid
from grawa.lab.cli.methods import method, named
from grawa.lab.cli.studies import run, study_of
from grawa.lab.cli.study_config import COMPARED, QUICK, StudyConfig, listed
from grawa.lab.experiments.study import Arm


def compare_command(asked: StudyConfig) -> None:
    """Runs `grawa compare`.

    Args:
        asked: the study.
    """
    usual = 1 if asked.quick else 2
    tune = usual if asked.tune is None else asked.tune
    tried = asked.grid_size(4 if asked.quick else 12, tune=tune)
    usual_methods = QUICK if asked.quick else COMPARED
    texts = usual_methods if asked.strategies is None else listed(asked.strategies, "strategies")
    methods = named(texts)
    arms = [arm_of(name, text, asked.lr, *tried) for name, text in methods.items()]
    baseline = arms[0].name if asked.baseline is None else asked.baseline
    run(study_of(asked, "compare", arms, tune, baseline=baseline), asked)


def arm_of(name: str, text: str, lr: float, settings: int, further: int) -> Arm:
    """A method, as an arm of the comparison.

    Args:
        name: the method, or its alias.
        text: the method, as on the command line.
        lr: the learning rate in the middle of the grid.
        settings: number of settings to try.
        further: most learning rates to try beyond each edge of these.

    Returns:
        The arm.
    """
    chosen = method(text)
    return Arm(
        name=name,
        method=name,
        alias_of="" if name == text else text,
        settings=tuple(grid(chosen, lr, settings)),
        beyond=tuple(beyond(chosen, lr, settings, further)),
        shares_gradients=names.strategy(chosen.strategy).shares_gradients(10**9),
    )
