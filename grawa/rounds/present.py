"""The guard's verdict where some workers are absent, or have just come."""

from collections.abc import Callable

import torch

from grawa.rounds.guard import Health, Verdict
from grawa.rounds.purposes import PASSIVE, Purpose
from grawa.rounds.roll_call import Roll

_WHY = {Purpose.ABSENT: "absent", Purpose.JOINING: "has just come"}


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
    scores, steps = health.scores, health.new_steps
    among = health._replace(
        sizes=health.sizes[taking],
        losses=health.losses[taking],
        scores=None if scores is None else scores[taking],
        new_steps=None if steps is None else steps[taking],
    )
    verdict = judge(among)
    active, reset = torch.zeros_like(taking), torch.zeros_like(taking)
    active[taking], reset[taking] = verdict.active, verdict.reset
    found = None
    if verdict.scores is not None:
        found = verdict.scores.new_zeros(len(taking), verdict.scores.shape[1])
        found[taking] = verdict.scores
    left_out = {i: _WHY[p] for i, p in enumerate(roll.purposes) if p in PASSIVE}
    left_out.update((numbers[i], why) for i, why in verdict.left_out.items())
    return Verdict(active, found, reset, left_out)
