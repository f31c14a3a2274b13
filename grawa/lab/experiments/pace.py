"""What steps and rounds cost on a study's axis, and how many steps of each arm fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from grawa.errors import UserError
from grawa.lab.experiments.study import Arm, Study
from grawa.lab.experiments.trial import Result


@dataclass(frozen=True, kw_only=True)
class Pace:
    """What an arm spends on an axis.

    Attributes:
        every: local steps between rounds; 1 where workers share gradients.
        step: what a local step costs.
        round: what a round costs besides.
        once: what is spent besides, at the beginning.
    """

    every: int
    step: float
    round: float
    once: float = 0.0

    @classmethod
    def of(cls, result: Result, arm: Arm, axis: str) -> Self:
        """From a pace trial: two rounds, and half of a third where steps come in rounds.

        Args:
            result: of the trial.
            arm: its arm.
            axis: a column of its curve.

        Returns:
            The pace; what a round costs is part of a step where rounds are not evenly spaced.

        Raises:
            UserError: if it failed or made less than two rounds.
        """
        spent, steps = result.curve.column(axis), result.curve.steps
        if result.failure or len(steps) < 2:
            why = result.failure or "it makes less than two rounds"
            raise UserError(f"can't tell what a step of {arm.name} costs: {why}; take --axis steps")
        whole = steps[-2] - steps[-3] if len(steps) > 2 else 0
        rest, for_rest = steps[-1] - steps[-2], spent[-1] - spent[-2]
        if arm.shares_gradients or rest >= whole:  # as with a schedule whose rounds grow apart
            pace = cls(every=1, step=for_rest / rest, round=0.0)
        else:
            # Whole rounds and a part of one differ by steps alone.
            for_whole = spent[-2] - spent[-3]
            step = min(max((for_whole - for_rest) / (whole - rest), 0.0), for_whole / whole)
            pace = cls(every=int(whole), step=step, round=for_whole - whole * step)
        return replace(pace, once=spent[-1] - pace.cost(int(steps[-1])))

    def cost(self, steps: int) -> float:
        """Of so many local steps; the last ones are followed by a round, even if they are few."""
        return self.once + steps * self.step + -(-steps // self.every) * self.round

    def steps_for(self, spend: float, most: int) -> int:
        """How many local steps cost the nearest to this; the fewer of two that are as near.

        Where a step costs nothing by itself, as where bytes are counted, rounds are whole.

        Args:
            spend: on the axis.
            most: steps, in any case.

        Returns:
            The steps; 0 where nothing is nearest.
        """
        whole = self.every * self.step + self.round
        rounds = max(0, int((spend - self.once) / whole)) * self.every
        tried = [rounds, rounds + self.every]
        if self.step > 0.0:
            rest = round((spend - self.cost(rounds) - self.round) / self.step)
            tried += [rounds + min(max(rest, 1), self.every)]
        return min(most, min(tried, key=lambda n: (abs(self.cost(n) - spend), n)))


def affordable_steps(study: Study, paces: Sequence[Result]) -> dict[str, int]:
    """How many local steps each arm can make for the same amount on the axis.

    The arm that spends least on `steps` of them makes as many, and what it spends is what each may.

    Args:
        study: what is asked.
        paces: results of `pace_trials`.

    Returns:
        Arm -> steps.

    Raises:
        UserError: if some arm can't make a step, or nothing is spent at all.
    """
    most = study.base.steps
    assert most is not None, "a study ends its runs by steps"
    if study.axis == "steps":
        return {arm.name: most for arm in study.arms}
    found = {r.arm: Pace.of(r, study.arm(r.arm), study.axis) for r in paces}
    free = [name for name, pace in found.items() if not pace.cost(most) > 0.0]
    if free:
        raise UserError(
            f"no common axis: {free[0]} spends no {study.axis} at all; take another --axis"
        )
    spend = min(pace.cost(most) for pace in found.values())
    steps = {name: pace.steps_for(spend, most) for name, pace in found.items()}
    short = [name for name, count in steps.items() if count < 1]
    if short:
        raise UserError(
            f"no common axis: {short[0]} can't make a round for the {study.axis} that the others "
            f"spend on {most} steps; take more --steps or another --axis"
        )
    _check_overlap(study, found, steps)
    return steps


def _check_overlap(study: Study, paces: Mapping[str, Pace], steps: Mapping[str, int]) -> None:
    """Refuses runs of which some would end before others are first measured."""
    firsts = {name: study.first_point(study.arm(name), count) for name, count in steps.items()}
    begins = {name: pace.cost(firsts[name]) for name, pace in paces.items()}
    ends = {name: pace.cost(steps[name]) for name, pace in paces.items()}
    late, short = max(begins, key=begins.__getitem__), min(ends, key=ends.__getitem__)
    if begins[late] > ends[short]:
        raise UserError(
            f"no common axis: {late} would first be measured at {begins[late]:.9g} {study.axis}, "
            f"and {short} with {steps[short]} steps end at {ends[short]:.9g}; take more --steps or "
            "another --axis"
        )
