"""What scores, and the guard, may see of the hosted workers at a round."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from grawa.errors import UserError
from grawa.rounds.fragment import Fragment
from grawa.rounds.plan import RoundPlan
from grawa.scores.protocol import Loss
from grawa.workers.gradients import Gradients


class Hosted:
    """The hosted workers, as `grawa.scores.protocol.Observed`.

    Args:
        gradients: of their models.
        fragments: of the model, in the order of the parameters.
        plan: how rounds are run.

    Raises:
        UserError: if displacements are needed, and the strategy keeps no center.
    """

    def __init__(
        self, gradients: Gradients, fragments: Sequence[Fragment], plan: RoundPlan
    ) -> None:
        self._gradients, self._fragments = gradients, fragments
        for needs, what in _needs_of(plan):
            if needs and not all(fragment.has_center for fragment in fragments):
                raise UserError(
                    f"{what} compares workers with the last center, and "
                    f"{type(plan.strategy).__name__} keeps none in its state: use a method that "
                    "does, as GRAWA, LocalSGD, EASGD, LSGD, DiLoCo, SlowMo, DPPF, EDiT and RDA do"
                )

    def gradient_norms_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `Observed.gradient_norms_on`."""
        return self._gradients.gradient_norms_on(batch, loss)

    def losses_on(self, batch: Any, loss: Loss) -> Tensor:
        """See `Observed.losses_on`."""
        return self._gradients.losses_on(batch, loss)

    def displacement_norms(self, fragment: int = 0) -> Tensor:
        """See `Observed.displacement_norms`."""
        own = self._fragments[fragment].displacement_norms()
        sizes = [len(part.params) for part in self._fragments]
        norms = own.new_zeros(len(own), sum(sizes))
        first = sum(sizes[:fragment])
        norms[:, first : first + sizes[fragment]] = own
        return norms


def needs_displacements(plan: RoundPlan) -> bool:
    """Whether the guard looks at them."""
    return plan.guard is not None and plan.guard.displacement_ratio < float("inf")


def _needs_of(plan: RoundPlan) -> list[tuple[bool, str]]:
    score = plan.strategy.score
    # A score of a user's own may lack the attribute: then it needs no center.
    return [
        (getattr(score, "needs_center", False), f"the score {type(score).__name__}"),
        (needs_displacements(plan), "the guard's displacement_ratio"),
    ]
