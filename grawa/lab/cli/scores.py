"""Makes the score that `--score` names for a run's strategy."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.score import ScoreChoice
from grawa.lab.tasks import Data, Task
from grawa.seeding import generator
from grawa.strategies.protocol import Strategy


def check(config: TrainConfig, strategy: Strategy) -> None:
    """Refuses a score that does not exist, or that the strategy can't use."""
    score = config.used_score()
    if score is not None:
        ScoreChoice.parse(score).check(strategy, config.strategy)


def with_score(strategy: Strategy, config: TrainConfig, task: Task, data: Data) -> Strategy:
    """The strategy with the score that a configuration has for it.

    Args:
        strategy: the strategy with its default score.
        config: the configuration.
        task: the run's task.
        data: the data of all workers, from which probe batches are drawn.

    Returns:
        The strategy to use.
    """
    score = config.used_score()
    if score is None:
        return strategy
    choice = ScoreChoice.parse(score)
    choice.check(strategy, config.strategy)
    batches = ProbeBatches(data=data, size=choice.size, seed=config.seed)
    return replace(strategy, score=choice.bound(batches, ProbeTask(task=task)))


@dataclass(frozen=True, kw_only=True)
class ProbeBatches:
    """Random batches that depend on a seed only, so that they are the same for all workers.

    Args:
        data: the data from which they are drawn.
        size: samples in a batch.
        seed: the seed of the draws.
    """

    data: Data = field(repr=False, compare=False)
    size: int
    seed: int

    def __call__(self, index: int) -> tuple[Tensor, Tensor]:
        """The batch with this number."""
        inputs, targets = self.data.train_inputs, self.data.train_targets
        random = generator(self.seed, "probe", index)
        picked = torch.randperm(len(inputs), generator=random)[: self.size].to(inputs.device)
        return inputs[picked], targets[picked]


@dataclass(frozen=True, kw_only=True)
class ProbeTask:
    """A task's loss on a batch of inputs and targets.

    Args:
        task: the task.
    """

    task: Task

    def __call__(self, model: nn.Module, samples: tuple[Tensor, Tensor]) -> Tensor:
        """The loss."""
        return self.task.loss(model, *samples)
