"""Where a run's strategy gets its norms and losses from."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Data, Task
from grawa.lab.train.worker import Worker
from grawa.scores import Delayed, NormTimesLoss, ProbeGradientNorms, ProbeLoss
from grawa.scores.protocol import Score
from grawa.seeding import generator
from grawa.strategies import GRAWA, LSGD, InverseLoss
from grawa.strategies.protocol import Strategy
from grawa.workers.probe import GradientProbe, LossProbe

_PROBED = ("probe", "probe-times-loss")


def check(config: TrainConfig, strategy: Strategy) -> None:
    """Finds what a configuration says of norms and losses that its strategy can't follow.

    Raises:
        UserError: if there is anything.
    """
    if config.norms not in _PROBED:
        if config.norms.partition(":")[0] not in names.NORMS:
            known = ", ".join((*names.NORMS, *_PROBED))
            raise UserError(f"there is no source of norms {config.norms!r}; there are {known}")
        names.norms(config.norms)
    if config.norms != "training" and not isinstance(strategy, GRAWA):
        raise UserError(
            f"--norms {config.norms} is for strategies with gradient norms, not {config.strategy}"
        )
    by_loss = isinstance(strategy, (InverseLoss, LSGD)) or "-times-loss" in config.norms
    if config.losses != "training" and not by_loss:
        raise UserError(
            f"--losses {config.losses} is for strategies that go by losses, not {config.strategy}"
        )
    if config.weights_from < 1:
        raise UserError(f"weights_from must be at least 1, got {config.weights_from}")
    if config.weights_from > 1 and not isinstance(strategy, (GRAWA, InverseLoss)):
        raise UserError(
            "--weights-from is for strategies that make weights of norms or losses, not "
            f"{config.strategy}"
        )


def with_scores(
    strategy: Strategy, config: TrainConfig, task: Task, data: Data, workers: list[Worker]
) -> Strategy:
    """The strategy, with the norms and losses that it is to have.

    Args:
        strategy: as it is by itself.
        config: says which.
        task: of the run.
        data: of all workers, from which probes are drawn.
        workers: those that live here.

    Returns:
        The strategy that is to be used.
    """
    probes = _Probes(config, task, data, workers)
    if isinstance(strategy, GRAWA):
        norms = strategy.norms if config.norms == "training" else _norms(config, probes)
        return replace(strategy, norms=_delayed(norms, config))
    if isinstance(strategy, (InverseLoss, LSGD)):
        loss = probes.losses() if config.losses == "probe" else strategy.loss
        return replace(strategy, loss=_delayed(loss, config))
    return strategy


def _delayed(score: Score, config: TrainConfig) -> Score:
    early = config.weights_from - 1
    return Delayed(score=score, rounds=early) if early else score


def _norms(config: TrainConfig, probes: "_Probes") -> Score:
    if config.norms == "probe":
        return probes.norms()
    if config.norms == "probe-times-loss":
        found: Score = NormTimesLoss(norms=probes.norms())
    else:
        found = names.norms(config.norms)
    if isinstance(found, NormTimesLoss) and config.losses == "probe":
        return replace(found, loss=probes.losses())
    return found


class _Probes:
    """What is found on batches that follow from the seed, the same for all workers.

    Args:
        config: says how large they are, and the seed.
        task: of the run.
        data: of all workers.
        workers: those that live here.
    """

    def __init__(
        self, config: TrainConfig, task: Task, data: Data, workers: Sequence[Worker]
    ) -> None:
        self._config = config
        self._task = task
        self._data = data
        self._models = [worker.model for worker in workers]
        self._optimizers = [worker.optimizer for worker in workers]

    def norms(self) -> ProbeGradientNorms:
        """Norms of the gradients on them."""
        return ProbeGradientNorms(
            probe=GradientProbe(self._models, self._optimizers, self._batch, self._loss)
        )

    def losses(self) -> ProbeLoss:
        """Losses on them."""
        return ProbeLoss(probe=LossProbe(self._models, self._batch, self._loss))

    def _batch(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self._data.train_inputs, self._data.train_targets
        random = generator(self._config.seed, "probe", index)
        picked = torch.randperm(len(inputs), generator=random)[: self._config.probe_size]
        picked = picked.to(inputs.device)
        return inputs[picked], targets[picked]

    def _loss(self, model: nn.Module, samples: tuple[Tensor, Tensor]) -> Tensor:
        return self._task.loss(model, *samples)
