"""Random weights: a soft pull in which chance decides how much a worker counts."""

from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.comm.protocol import Communicator
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.scores import Presence
from grawa.scores.protocol import Score
from grawa.seeding import generator
from grawa.strategies.protocol import Round, State
from grawa.strategies.soft_pull import SoftPull

_LEAST_WEIGHT = 1e-9  # so that those who take part can always share out the whole


@dataclass(frozen=True, kw_only=True)
class RandomWeights(SoftPull):
    """Pull to an average with weights drawn anew each round, the control for all weights.

        w ~ Dirichlet(concentration, ..., concentration)

    The draw of round t follows from (seed, t) alone and is the same on every process.

    Args:
        pull: as in GRAWA.
        prox: as in GRAWA.
        outer: as in GRAWA.
        seed: of the draws; where there is none, 0, and in `grawa train` the run's.
        concentration: 1 draws evenly from all weights that sum to 1; more draws more equal ones.

    Source: ours, a control for the weights of Dimlioglu and Choromanska (2024).
    """

    seed: int | None = None
    concentration: float = 1.0

    def __post_init__(self) -> None:
        SoftPull.__post_init__(self)
        if not 0.0 < self.concentration < float("inf"):
            raise UserError(f"concentration must be positive and finite, got {self.concentration}")

    @property
    def score(self) -> Score:
        """Who takes part."""
        return Presence()

    def init(self, params: Stack, comm: Communicator) -> State:
        """The common initial parameters are the first center."""
        rounds = Leaves.copy_of({"rounds": torch.zeros(1)})
        return {**SoftPull.init(self, params, comm), "rounds": rounds}

    def sync(self, params: Stack, scores: Tensor | None, state: State, comm: Communicator) -> Round:
        """See `Strategy.sync`."""
        done = SoftPull.sync(self, params, scores, state, comm)
        state["rounds"]["rounds"] += 1
        return done

    def weights(self, scores: Tensor, state: State) -> Tensor:
        """Drawn for this round, of those who take part."""
        drawn = self.draw(len(scores), int(state["rounds"]["rounds"])).unsqueeze(1)
        present = torch.where(torch.isinf(scores), 0.0, drawn)
        return present / present.sum(dim=0)

    def draw(self, num_workers: int, rounds: int) -> Tensor:
        """The weights of the round after so many others, if all take part.

        Returns:
            (N,), float64, positive; they sum to 1.
        """
        random = generator(self.seed or 0, "random weights", rounds)
        concentrations = torch.full((num_workers,), self.concentration, dtype=torch.float64)
        drawn: Tensor = torch._sample_dirichlet(concentrations, generator=random)
        least = drawn.clamp_min(_LEAST_WEIGHT)
        return least / least.sum()
