"""The options of rounds, and which of them can be combined."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from grawa.errors import UserError
from grawa.math.codec import Precision, check_precision
from grawa.rounds.guard import Guard
from grawa.rounds.schedule import Every, Schedule
from grawa.scores.groups import Grouping
from grawa.strategies.protocol import Strategy


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """The options of rounds.

    Args:
        strategy: how workers are averaged.
        schedule: when rounds are due.
        guard: decides which workers take part; `None` for all of them.
        buffers: "average" or "local".
        measure_distance: whether consensus distances, moves of the center, and displacements are
            measured.
        overlap_steps: d, local steps for which a round may run in the background.
        alpha: how much of itself a worker keeps when a round that ran in the background is mixed
            in; `None` to add what the round has changed.
        fragments: P, parts of the model that are synchronised one after another; or a function
            that gives each parameter its part, until `for_parameters` has called it.
        fragment_of: the part of each parameter, if a function gave it.
        comm_dtype: how parameters are sent; `None` for their own dtype.
        center: "cpu" to keep the strategy's state on the CPU between rounds.
        optimizer_state: "local", "average" or "reset".
        optimizer_state_every: rounds of a fragment from one in which its optimizer state is
            averaged or reset to the next.
        weigh_by: "steps" or "samples": what each worker has made since the last round, by which
            its weight in means is multiplied; `None` to leave weights as they are.
        individually: whether each hosted worker steps at its own speed.
        elastic: whether workers come and go, so that rounds may fail and be run again.

    Raises:
        UserError: if an option is out of range, or two can't be combined.
    """

    strategy: Strategy
    schedule: Schedule = field(default_factory=lambda: Every(32))
    guard: Guard | None = field(default_factory=Guard)
    buffers: str = "average"
    measure_distance: bool = False
    overlap_steps: int = 0
    alpha: float | None = None
    fragments: int | Grouping = 1
    fragment_of: tuple[int, ...] | None = None
    comm_dtype: Precision | None = None
    center: str | None = None
    optimizer_state: str = "local"
    optimizer_state_every: int = 1
    weigh_by: str | None = None
    individually: bool = False
    elastic: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, Strategy):
            raise UserError(
                f"strategy must be an instance such as grawa.LGRAWA(), got {self.strategy!r}"
            )
        if not isinstance(self.schedule, Schedule):
            raise UserError(
                f"schedule must be an instance such as grawa.SharedCount(32), got {self.schedule!r}"
            )
        if self.buffers not in ("average", "local"):
            raise UserError(f'buffers must be "average" or "local", got {self.buffers!r}')
        check_precision(self.comm_dtype)
        self._check_optimizer_state()
        if self.center not in (None, "cpu"):
            raise UserError(f'center must be None or "cpu", got {self.center!r}')
        self._check_weighing()
        if self.center == "cpu" and self.strategy.drifts:
            raise UserError(
                f"{type(self.strategy).__name__} pulls workers to the center between rounds, so it "
                'must stay with the parameters: use prox=0, or leave out center="cpu"'
            )
        for name in ("overlap_steps", "fragments"):
            asked = getattr(self, name)
            if not isinstance(asked, int) and not (name == "fragments" and callable(asked)):
                raise UserError(f"{name} must be a whole number, got {asked!r}")
        if self.alpha is not None and not 0.0 <= self.alpha < 1.0:
            raise UserError(f"alpha must lie in [0, 1), got {self.alpha}")
        if isinstance(self.fragments, int):
            self._check_times()
        self._check_sharing()
        if self.elastic:
            self._check_elastic()

    @property
    def num_fragments(self) -> int:
        """P."""
        assert isinstance(self.fragments, int), "for_parameters has been called"
        return self.fragments

    def for_parameters(self, names: Sequence[str]) -> "RoundPlan":
        """The plan for a model with these parameters.

        Returns:
            One in which `fragments` is a number.

        Raises:
            UserError: if a function gives parts that are not neighbouring parameters, or too many.
        """
        if isinstance(self.fragments, int):
            return self
        found = tuple(self.fragments(names))
        steps = [b - a for a, b in pairwise((0, *found))]
        if len(found) != len(names) or not set(steps) <= {0, 1} or found[:1] != (0,):
            raise UserError(
                f"fragments must give each of the {len(names)} parameters the number of its "
                "fragment, from 0 in the order of the parameters, as grawa.by_block does, got "
                f"{found}"
            )
        return replace(self, fragments=found[-1] + 1, fragment_of=found)

    def _check_optimizer_state(self) -> None:
        kind, every = self.optimizer_state, self.optimizer_state_every
        if kind not in ("local", "average", "reset"):
            raise UserError(f'optimizer_state must be "local", "average" or "reset", got {kind!r}')
        if not isinstance(every, int) or every < 1:
            raise UserError(f"optimizer_state_every must be at least 1, got {every!r}")
        if kind == "local" and every > 1:
            raise UserError(
                f"optimizer_state_every={every} has no effect on a state that stays local: use "
                'optimizer_state="average" or "reset" with it'
            )
        if kind == "average" and self.overlap_steps:
            raise UserError(
                "a round that runs in the background would bring back the state of "
                f"{self.overlap_steps} steps ago: use overlap_steps=0 with "
                'optimizer_state="average", or leave the state local'
            )

    def _check_times(self) -> None:
        tau = self.schedule.sync_every
        if not 1 <= self.num_fragments <= tau:
            raise UserError(
                f"fragments must be at least 1 and at most sync_every ({tau}), since each needs a "
                f"local step of its own, got {self.fragments}"
            )
        between = tau // self.num_fragments
        if not 0 <= self.overlap_steps < between:
            raise UserError(
                f"overlap_steps must be at least 0 and below the {between} local steps between "
                f"rounds (sync_every {tau}, {self.fragments} fragments), got {self.overlap_steps}"
            )
        if self.alpha is not None and not self.overlap_steps:
            raise UserError(
                "alpha mixes workers with a round that ran in the background, so it needs "
                "overlap_steps, which is 0"
            )
        if self.individually and self.overlap_steps:
            raise UserError(
                "hosted workers whose steps are counted together join a round one after another, "
                "so it can't overlap with their steps: use overlap_steps=0, or a process for each"
            )

    def _check_weighing(self) -> None:
        if self.weigh_by not in (None, "steps", "samples"):
            raise UserError(f'weigh_by must be None, "steps" or "samples", got {self.weigh_by!r}')
        if self.weigh_by is not None and not self.strategy.averages:
            raise UserError(
                f"weigh_by weights the workers in a mean, and {type(self.strategy).__name__} takes "
                "no mean at its rounds: leave weigh_by out"
            )

    def _check_sharing(self) -> None:
        if self.strategy.shares_gradients(0) and self.schedule.counts_together:
            raise UserError(
                f"{type(self.strategy).__name__} shares gradients, which needs the same number of "
                "steps on every worker, so it can't be used with a schedule that counts all "
                "workers' steps together"
            )

    def _check_elastic(self) -> None:
        """Refuses what needs all workers, or what workers that come can't be given."""
        name = type(self.strategy).__name__
        if self.strategy.shares_gradients(0):
            raise UserError(
                f"{name} shares gradients at every step, for which all workers must be there, so "
                "it can't be elastic: use a method that averages parameters"
            )
        if self.strategy.team_sizes():
            raise UserError(
                f"{name} averages in teams of fixed workers, which would lose their members, so it "
                "can't be elastic: leave the teams out"
            )
        if self.schedule.counts_together:
            raise UserError(
                "elastic workers can't count their steps together, since the count would be lost "
                "with the worker that keeps it: use sync_every; grace= leaves out slow workers"
            )
        if self.comm_dtype is not None:
            raise UserError(
                f"comm_dtype={self.comm_dtype!r} sends differences from what all workers have, "
                "which one that comes has not, so it can't be elastic: leave comm_dtype out"
            )
