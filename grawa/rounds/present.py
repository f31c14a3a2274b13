"""The guard's verdict where some workers are absent, or have just come."""

from collections.abc import Callable

import torch

from grawa.rounds.attendance import ABSENT, HAS_COME
from grawa.rounds.guard import Health, Verdict
from grawa.rounds.purposes import PASSIVE, Purpose
from grawa.rounds.roll_call import Roll

_WHY = {Purpose.ABSENT: ABSENT, Purpose.JOINING: HAS_COME}


def judged(roll: Roll, health: Health, judge: Callable[[Health], Verdict]) -> Verdict:
    """The verdict on those who take part; the others are left out, and nothing is done to them.

    Args:
        roll: what the workers have come for.
        health: of all of them.
        judge: gives the verdict on all workers whose health it gets.

    Returns:
        The verdict on all N.
    """
    taking = torch.tensor([purpose not in PASSIVE for purpose in roll.purposes])
    if bool(taking.all()):
        return judge(health)
    numbers = torch.where(taking)[0].tolist()
    by_worker = ("sizes", "losses", "scores", "new_steps", "fit_steps", "dropped", "displacements")
    known = {name: getattr(health, name) for name in by_worker}
    among = {name: x[taking] for name, x in known.items() if x is not None}
    verdict = judge(health._replace(**among))
    active, reset, unfit = (torch.zeros_like(taking) for _ in range(3))
    active[taking], reset[taking], unfit[taking] = verdict.active, verdict.reset, verdict.unfit
    found = None
    if verdict.scores is not None:
        found = verdict.scores.new_zeros(len(taking), verdict.scores.shape[1])
        found[taking] = verdict.scores
    left_out = {i: _WHY[p] for i, p in enumerate(roll.purposes) if p in PASSIVE}
    left_out.update((numbers[i], why) for i, why in verdict.left_out.items())
    return Verdict(active, found, reset, unfit, left_out)
