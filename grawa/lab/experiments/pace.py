"""The cost of steps and rounds on a study's axis, and how many steps each arm can afford."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from grawa.errors import UserError
from grawa.lab.experiments.study import Arm, Study
from grawa.lab.experiments.trial import Result


@dataclass(frozen=True, kw_only=True)
class Pace:
    """An arm's costs on an axis.

    Attributes:
        every: local steps between rounds; 1 if workers share gradients.
        step: cost of a local step.
        round: additional cost of a round.
        once: additional cost at the beginning.
    """

    every: int
    step: float
    round: float
    once: float = 0.0

    @classmethod
    def of(cls, result: Result, arm: Arm, axis: str) -> Self:
        """Computes costs from a pace trial, which has two rounds, and half a round if it has steps.

        Args:
            result: of the trial.
            arm: its arm.
            axis: a column of its curve.

        Returns:
            The costs; if rounds are not evenly spaced, the cost of a round is included in that of a
            step.

        Raises:
            UserError: if the trial failed, or made fewer than two rounds.
        """
        spent, steps = result.curve.column(axis), result.curve.steps
        if result.failure or len(steps) < 2 or steps[-1] <= steps[-2]:
            why = result.failure or "it makes fewer than two rounds"
            raise UserError(
                f"the cost of a step of {arm.name} can't be measured: {why}; use --axis steps"
            )
        whole = steps[-2] - steps[-3] if len(steps) > 2 else 0
        rest, for_rest = steps[-1] - steps[-2], spent[-1] - spent[-2]
        if arm.shares_gradients or rest >= whole:  # such as a schedule with growing intervals
            pace = cls(every=1, step=for_rest / rest, round=0.0)
        else:
            # A whole interval and a part of one differ only in their steps.
            for_whole = spent[-2] - spent[-3]
            step = min(max((for_whole - for_rest) / (whole - rest), 0.0), for_whole / whole)
            pace = cls(every=int(whole), step=step, round=for_whole - whole * step)
        return replace(pace, once=spent[-1] - pace.cost(int(steps[-1])))

    @property
    def of_round(self) -> float:
        """The cost of a round and the local steps before it."""
        return self.every * self.step + self.round

    def cost(self, steps: int) -> float:
        """The cost of so many local steps; a round follows the last ones, even if they are few."""
        return self.once + steps * self.step + -(-steps // self.every) * self.round

    def steps_for(self, spend: float, most: int) -> int:
        """The number of local steps whose cost is closest to an amount; the smaller one of two.

        If steps alone cost nothing, as on the axis of bytes, the number is one of whole rounds.

        Args:
            spend: the amount on the axis.
            most: the largest number of steps.

        Returns:
            The steps; 0 if no step at all is closest.
        """
        whole = self.of_round
        rounds = max(0, int((spend - self.once) / whole)) * self.every
        tried = [rounds, rounds + self.every]
        if self.step > 0.0:
            rest = round((spend - self.cost(rounds) - self.round) / self.step)
            tried += [rounds + min(max(rest, 1), self.every)]
        return min(most, min(tried, key=lambda n: (abs(self.cost(n) - spend), n)))


def affordable_steps(study: Study, paces: Sequence[Result]) -> dict[str, int]:
    """The number of local steps that each arm can make for the same amount on the axis.

    The amount is what the study's `steps` cost the cheapest arm.

    Args:
        study: the study.
        paces: results of `pace_trials`.

    Returns:
        Arm -> steps.

    Raises:
        UserError: if an arm can't make a step for that amount, or costs nothing on the axis.
    """
    most = study.base.steps
    assert most is not None, "a study ends its runs by steps"
    if study.axis == "steps":
        return {arm.name: most for arm in study.arms}
    found = {r.arm: Pace.of(r, study.arm(r.arm), study.axis) for r in paces}
    free = [name for name, pace in found.items() if not pace.of_round > 0.0]
    if free:
        raise UserError(
            f"methods can't be compared at equal {study.axis}, because {free[0]} uses none; use "
            "another --axis"
        )
    spend = min(pace.cost(most) for pace in found.values())
    steps = {name: pace.steps_for(spend, most) for name, pace in found.items()}
    short = [name for name, count in steps.items() if count < 1]
    if short:
        raise UserError(
            f"methods can't be compared at equal {study.axis}, because {short[0]} can't make a "
            f"round for what {most} steps cost the others; use more --steps or another --axis"
        )
    _check_overlap(study, found, steps)
    return steps


def _check_overlap(study: Study, paces: Mapping[str, Pace], steps: Mapping[str, int]) -> None:
    """Refuses a study in which one run would end before another is first measured."""
    firsts = {name: study.first_point(study.arm(name), count) for name, count in steps.items()}
    begins = {name: pace.cost(firsts[name]) for name, pace in paces.items()}
    ends = {name: pace.cost(steps[name]) for name, pace in paces.items()}
    late, short = max(begins, key=begins.__getitem__), min(ends, key=ends.__getitem__)
    if begins[late] > ends[short]:
        raise UserError(
            f"methods can't be compared at equal {study.axis}: {late} would first be measured at "
            f"{begins[late]:.9g}, and {short} with {steps[short]} steps would end at "
            f"{ends[short]:.9g}; use more --steps or another --axis"
        )
