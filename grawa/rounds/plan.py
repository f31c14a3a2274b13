"""How rounds are made, and which ways of making them go together."""

from dataclasses import dataclass
from typing import Any, get_args

from grawa.errors import UserError
from grawa.math.codec import Precision
from grawa.rounds.guard import Guard
from grawa.rounds.schedule import Every, Schedule
from grawa.strategies.protocol import Strategy


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """How rounds are made.

    Args:
        strategy: how workers are pulled together.
        schedule: when rounds are due.
        guard: who takes part; `None` for everyone.
        buffers: "average" or "local".
        measure_distance: whether consensus distances are measured.
        overlap_steps: d, local steps for which a round may go on in the background.
        fragments: P, parts of the model that are synchronised in turn.
        comm_dtype: in what parameters travel; `None` for their own dtype.
        hook_every: local steps between those after which norms are noted and `drift` is made.
        individually: whether each hosted worker steps by itself.

    Raises:
        UserError: if something is out of range, or does not go together.
    """

    strategy: Strategy
    schedule: Schedule
    guard: Guard | None
    buffers: str
    measure_distance: bool
    overlap_steps: int
    fragments: int
    comm_dtype: Precision | None
    hook_every: int
    individually: bool

    @classmethod
    def of(cls, schedule: Schedule | None, sync_every: int, **options: Any) -> "RoundPlan":
        """The plan, with a round every `sync_every` local steps where there is no schedule.

        Returns:
            The plan.
        """
        return cls(schedule=Every(sync_every) if schedule is None else schedule, **options)

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, Strategy):
            raise UserError(f"strategy must be a value, grawa.LGRAWA() say, got {self.strategy!r}")
        if not isinstance(self.schedule, Schedule):
            raise UserError(
                f"schedule must be a value, grawa.SharedCount(32) say, got {self.schedule!r}"
            )
        if self.buffers not in ("average", "local"):
            raise UserError(f'buffers must be "average" or "local", got {self.buffers!r}')
        if self.comm_dtype not in (None, *get_args(Precision)):
            known = ", ".join(map(repr, get_args(Precision)))
            raise UserError(f"comm_dtype must be None or one of {known}, got {self.comm_dtype!r}")
        for name in ("overlap_steps", "fragments", "hook_every"):
            if not isinstance(getattr(self, name), int):
                raise UserError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        self._check_times()
        self._check_sharing()

    def _check_times(self) -> None:
        tau = self.schedule.sync_every
        if not 1 <= self.fragments <= tau:
            raise UserError(
                f"{self.fragments} fragments can't take turns in {tau} local steps: fragments must "
                "be at least 1 and at most sync_every"
            )
        if not 1 <= self.hook_every <= tau:
            raise UserError(
                f"hook_every must be at least 1 and at most sync_every ({tau}), got "
                f"{self.hook_every}"
            )
        between = tau // self.fragments
        if not 0 <= self.overlap_steps < between:
            raise UserError(
                f"overlap_steps must be at least 0 and below the {between} local steps between "
                f"rounds (sync_every {tau}, {self.fragments} fragments), got {self.overlap_steps}"
            )
        if self.individually and self.overlap_steps:
            raise UserError(
                "hosted workers whose steps are counted together join a round one after another, "
                "so it can't overlap with their steps: take overlap_steps=0, or a process for each"
            )

    def _check_sharing(self) -> None:
        if self.strategy.shares_gradients(0) and self.schedule.counts_together:
            raise UserError(
                f"{type(self.strategy).__name__} shares gradients, which needs the same number of "
                "steps on every worker; a schedule that counts all workers' steps together can't "
                "promise that"
            )
