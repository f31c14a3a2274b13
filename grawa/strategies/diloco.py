"""DiLoCo: workers restart from a center that takes outer Nesterov steps."""

from dataclasses import dataclass, field

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.strategies.center import OuterNesterov, first_center, restart_from_center
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class DiLoCo(Strategy):
    """An outer optimizer on the pseudo-gradient: the center minus the workers' mean.

    Args:
        outer: the outer optimizer.

    Source: Douillard et al. (2023), "DiLoCo", algorithm 1. The paper's inner optimizer is AdamW
    with some 500 local steps a round.
    """

    outer: OuterNesterov = field(default_factory=OuterNesterov)

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center; the outer momentum is zero."""
        return first_center(params, self.outer)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        restart_from_center(params, state, comm, self.outer)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
