"""Makes a trial's task and strategy, in each process that runs trials."""

from functools import partial

from grawa.lab.cli import names
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.trial import Prepared


def prepare(config: TrainConfig) -> Prepared:
    """The task and the strategy that a configuration names."""
    return Prepared(
        names.task(config.task, config.data),
        partial(strategy_for, config),
        names.strategy(config.strategy).shares_gradients,
    )
