"""LocalSGD: workers are replaced by their mean."""

from dataclasses import dataclass

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import pull_
from grawa.math.weights import uniform
from grawa.strategies.center import first_center, mean_of_workers, next_center
from grawa.strategies.checks import check_fraction, check_not_negative
from grawa.strategies.protocol import Communicator, State
from grawa.strategies.prox import Proximal


@dataclass(frozen=True, kw_only=True)
class LocalSGD(Proximal):
    """Pull to the plain mean: x_i <- (1 - pull) x_i + pull mean(x).

    Args:
        pull: 1 is LocalSGD; less is a soft pull, GRAWA with equal weights.
        prox: as in GRAWA, toward the last mean.
        prox_probability, prox_seed: as in GRAWA.
        warmup_steps: in this many first steps gradients are averaged, as in data-parallel training
            (post-local SGD).

    Source: Stich (2019), "Local SGD Converges Fast and Communicates Little", algorithm 1; Lin et
    al. (2020), "Don't Use Large Mini-Batches, Use Local SGD", for post-local SGD.
    """

    pull: float = 1.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        Proximal.__post_init__(self)
        check_fraction("pull", self.pull)
        check_not_negative("warmup_steps", self.warmup_steps)

    def shares_gradients(self, step: int) -> bool:
        """During the warm-up."""
        return step < self.warmup_steps

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first mean."""
        return first_center(params)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        center = next_center(params, uniform(comm.num_workers), state, comm)
        pull_(params, center, self.pull)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers' current parameters."""
        return mean_of_workers(params, comm)
