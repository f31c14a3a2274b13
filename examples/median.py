"""A median of four workers, one of which learns too fast: `python examples/median.py`."""

from dataclasses import dataclass

from torch import Tensor

import grawa
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Digits
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from grawa.math.motion import put_
from grawa.math.order import median
from grawa.process_group import is_first_process
from grawa.strategies.protocol import Communicator, Leaves, Stack, State, Strategy


@dataclass(frozen=True, kw_only=True)
class Median(Strategy):
    """Replace every parameter by the median of its values on all workers."""

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> None:
        """Moves the hosted workers."""
        put_(params, self.consensus(params, state, comm))

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The median of the workers' current parameters."""
        return comm.reduce_rows(params, median)


if __name__ == "__main__":
    config = TrainConfig(task="digits", workers=4, fault=("lr-x6:1",), guard=False)
    with grawa.distributed() as device:
        *_, end = train(Digits(), lambda *_: Median(), config.settings(), device=device)
    if is_first_process() and isinstance(end, Finished):
        print(f"{Median()}: test error {end.error:.2%} after {end.step} local steps")
