"""All flatness measurements of one model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grawa.errors import UserError
from grawa.flatness.curvature import Estimate, hessian_trace, top_eigenvalues
from grawa.flatness.sharpness import gradient_norm, sam_sharpness
from grawa.flatness.surface import Surface
from grawa.math.finite import finite_or_none


@dataclass(frozen=True, kw_only=True)
class Flatness:
    """The measurements around one model, all over the same samples.

    Args:
        loss: of the model.
        gradient_norm: L2, over all parameters.
        sharpness: radius -> largest rise of the loss.
        eigenvalues: the largest ones of the Hessian; `None` if not measured.
        trace: of the Hessian; `None` if not measured.
    """

    loss: float
    gradient_norm: float
    sharpness: Mapping[float, float]
    eigenvalues: tuple[Estimate, ...] | None
    trace: Estimate | None

    @property
    def trace_over_loss(self) -> Estimate | None:
        """The trace divided by the loss; `None` if not measured, or if the loss is zero.

        Near a minimum of a cross entropy the Hessian shrinks with the loss, so the trace alone
        mostly shows which model has trained longer.
        """
        if self.trace is None or not self.loss:
            return None
        return Estimate(self.trace.value / self.loss, self.trace.standard_error / abs(self.loss))

    def as_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become `None`."""
        many = None if self.eigenvalues is None else [_plain(e) for e in self.eigenvalues]
        return {
            "loss": finite_or_none(self.loss),
            "gradient_norm": finite_or_none(self.gradient_norm),
            "sharpness": {
                str(radius): finite_or_none(rise) for radius, rise in self.sharpness.items()
            },
            "eigenvalues": many,
            "trace": _plain(self.trace),
            "trace_over_loss": _plain(self.trace_over_loss),
        }


def _plain(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {name: finite_or_none(value) for name, value in estimate._asdict().items()}


def _silence(part: str) -> None:
    """The default callback, which shows no progress."""


def measure(
    surface: Surface,
    *,
    eigenvalues: int = 3,
    radii: Sequence[float] = (0.05, 0.5),
    ascent_steps: int = 1,
    seed: int = 0,
    before_part: Callable[[str], object] = _silence,
) -> Flatness:
    """Measures the loss, its gradient, sharpness and curvature at the model's parameters.

    Args:
        surface: the loss.
        eigenvalues: number of eigenvalues of the Hessian; with 0 neither they nor the trace are
            measured, and curvlinops is not needed.
        radii: of the balls in which the largest rise of the loss is searched.
        ascent_steps: gradient ascent steps of that search.
        seed: for the first vector of the Lanczos iteration, and the signs for the trace.
        before_part: called with the name of each part before it is measured.

    Returns:
        The measurements.

    Raises:
        UserError: if the loss is not finite, or an option is out of range.
    """
    before_part("loss")
    loss = surface.value()
    if not math.isfinite(loss):
        raise UserError(f"the loss is {loss}, so flatness can't be measured")
    before_part("gradient")
    norm = gradient_norm(surface)
    rises: dict[float, float] = {}
    for radius in radii:
        before_part(f"sharpness at radius {radius:g}")
        rises[radius] = sam_sharpness(surface, radius, ascent_steps)
    top, trace = None, None
    if eigenvalues:
        before_part("eigenvalues")
        top = tuple(top_eigenvalues(surface, eigenvalues, seed))
        before_part("trace")
        trace = hessian_trace(surface, seed)
    return Flatness(loss=loss, gradient_norm=norm, sharpness=rises, eigenvalues=top, trace=trace)
