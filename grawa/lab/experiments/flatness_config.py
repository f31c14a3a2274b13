"""The options of `grawa flatness`."""

from dataclasses import dataclass

from grawa.errors import UserError
from grawa.lab.shapes import MOST_WHOLE, shown

_MOST = 10**9
"""Of each number in `FlatnessConfig`; a larger one counts as not finite."""


@dataclass(frozen=True, kw_only=True)
class FlatnessConfig:
    """What is measured, and on which samples."""

    samples: int = 512
    """Number of training samples for the loss, drawn from all of them; without faults."""

    gap_samples: int = 10_000
    """Number of training samples for the training error in the generalisation gap, drawn in the
    same way."""

    eigenvalues: int = 3
    """Number of eigenvalues of the Hessian; with 0, the trace is left out too. Both need
    grawa[flatness]."""

    radii: tuple[float, ...] = (0.05, 0.5)
    """L2 radii of the balls around a model in which the largest rise of the loss is searched."""

    ascent_steps: int = 1
    """Gradient ascent steps of that search; 1 is SAM's."""

    kappa: float = 2.0
    """The valley's border is where the loss is this many times the consensus's."""

    seed: int = 0
    """Seed of the samples and of everything else that is random."""

    def check(self) -> None:
        """Checks all values, before anything is measured.

        Raises:
            UserError: if a value is out of range.
        """
        for name, least in (
            ("samples", 2),
            ("gap_samples", 1),
            ("eigenvalues", 0),
            ("ascent_steps", 1),
        ):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}")
            if getattr(self, name) > _MOST:
                raise UserError(
                    f"{name} must be at most {_MOST:,}, got {shown(getattr(self, name))}"
                )
        if not abs(self.seed) <= MOST_WHOLE:
            raise UserError(f"seed must lie within 2^53 of zero, got {shown(self.seed)}")
        for radius in self.radii:
            if not 0.0 < radius <= _MOST:
                raise UserError(f"radii must be positive and finite, got {radius}")
        if not 1.0 < self.kappa <= _MOST:
            raise UserError(f"kappa must be larger than 1 and finite, got {self.kappa}")
