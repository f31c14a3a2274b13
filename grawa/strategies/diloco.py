"""DiLoCo: workers restart from a center that takes outer Nesterov steps."""

from dataclasses import dataclass, field

from torch import Tensor

from grawa.math.leaves import Leaves, Stack
from grawa.strategies.center import (
    Outer,
    OuterNesterov,
    first_center,
    outer_of,
    restart_from_center,
)
from grawa.strategies.protocol import Communicator, State, Strategy


@dataclass(frozen=True, kw_only=True)
class DiLoCo(Strategy):
    """An outer optimizer on the pseudo-gradient: the center minus the workers' mean.

    Args:
        outer: the outer optimizer, such as `grawa.OuterNesterov(momentum=0.5)`, or one of torch's:
            `functools.partial(torch.optim.AdamW, lr=0.1)`.

    Source: Douillard et al. (2023), "DiLoCo", algorithm 1. The paper's inner optimizer is AdamW
    with some 500 local steps a round.
    """

    outer: Outer = field(default_factory=OuterNesterov)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outer", outer_of(self.outer))

    def init(self, params: Stack) -> State:
        """The common initial parameters are the first center, the outer state is zero."""
        return first_center(params, self.outer)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        restart_from_center(params, state, comm, self.outer, round)
        return None

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The center."""
        return state["center"]
