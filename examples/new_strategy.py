"""A strategy of your own with four workers; run it with plain Python, or with torchrun."""

from dataclasses import dataclass, field

from torch import Tensor

import grawa
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from grawa.math.motion import pull_
from grawa.math.weights import inverse_loss, uniform
from grawa.process_group import is_first_process
from grawa.strategies.protocol import Communicator, Leaves, Score, Stack, State, Strategy


@dataclass(frozen=True, kw_only=True)
class LossWeighted(Strategy):
    """Pull to an average with weights proportional to 1 / (mean of the last training losses)."""

    pull: float = 0.5
    score: Score = field(default=grawa.TrainingLoss(window=16))

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """Moves the hosted workers; `scores` is (N, 1)."""
        assert scores is not None, "the driver gathers what `score` asks for"
        weights = inverse_loss(scores, active=comm.active)
        pull_(params, comm.weighted_mean(params, weights), self.pull)
        return weights

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers' current parameters."""
        return comm.weighted_mean(params, uniform(comm.num_workers))


settings = TrainConfig(task="digits", workers=4).settings()
with grawa.distributed() as device:
    *_, end = train(Digits(), lambda *_: LossWeighted(), settings, device=device)
if is_first_process() and isinstance(end, Finished):
    print(f"{LossWeighted()}: test error {end.error:.2%} after {end.step} local steps")
