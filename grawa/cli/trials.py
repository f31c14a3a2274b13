"""From a trial's configuration to objects; in each process that runs trials."""

from functools import partial

from grawa.cli import names
from grawa.cli.run import strategy_for
from grawa.experiments.config import TrainConfig
from grawa.experiments.trial import Prepared


def prepare(config: TrainConfig) -> Prepared:
    """The task and the strategy that a configuration names."""
    return Prepared(
        names.task(config.task, config.data),
        partial(strategy_for, config),
        names.strategy(config.strategy).shares_gradients,
    )
