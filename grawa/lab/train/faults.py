"""Faults that can be given to a worker, to test how methods and the guard handle them."""

import re
from dataclasses import dataclass
from decimal import Decimal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.lab.own import meant
from grawa.lab.train.asked import Asked
from grawa.lab.train.forms import FAULTS_HELP
from grawa.lab.train.noise import add_gradient_noise_, noisy
from grawa.lab.units import number
from grawa.seeding import generator

_PLAIN = ("wrong-labels", "batch-of-one", "nan", "dead")
_FACTOR = ("lr-x", "batch-x", "scale-x")
_VALUE = ("noisy-labels", "input-noise", "gradient-noise", "batch", "speed")
_AT_STEP = ("nan", "dead", "scale-x")
_WHEN_ASKED = ("nan", "wrong-labels")
_MOST = 1e6
"""The largest amount, far beyond what any training survives."""

_FORM = re.compile(
    r"(?P<kind>[a-z-]+?)(?P<equals>=)?(?P<amount>[0-9.]{1,400}%?)?:"
    r"(?P<worker>[0-9]{1,9})(?:@(?:(?P<step>[0-9]{1,12})|(?P<asked>asked)))?"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong with one worker, or makes it different from the others.

    Args:
        kind: one of the names in `FAULTS_HELP`, without its amount.
        worker: the worker's number.
        amount: the number after `x` or `=`.
        step: the local step, from 1, before which it happens; `None` for a lasting fault.
        asked: whether it happens only when it is asked for: see `grawa.lab.train.asked`.
    """

    kind: str
    worker: int
    amount: float = 1.0
    step: int | None = None
    asked: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "noisy-labels": (0.0 <= self.amount <= 1.0, "lie in [0, 1]"),
            "batch": (
                self.amount >= 1.0 and self.amount.is_integer(),
                "be a whole number, 1 or more",
            ),
            "batch-x": (self.amount > 0.0, "be positive"),
            "speed": (self.amount > 0.0, "be positive"),
        }
        fits, limits = allowed.get(self.kind, (True, ""))
        if self.amount > _MOST:
            fits, limits = False, f"be at most {_MOST:,.0f}"
        if not fits:
            raise UserError(f"the amount of fault {self} must {limits}, got {self.amount:g}")

    def __str__(self) -> str:
        amount = format(Decimal(repr(float(self.amount))), "f").removesuffix(".0")
        written = {**dict.fromkeys(_PLAIN, ""), **dict.fromkeys(_VALUE, f"={amount}")}
        when = "@asked" if self.asked else "" if self.step is None else f"@{self.step}"
        return f"{self.kind}{written.get(self.kind, amount)}:{self.worker}{when}"

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Reads a fault as it is written on the command line, and by `str`.

        Returns:
            The fault.

        Raises:
            UserError: if it is not one of `FAULTS_HELP`.

        >>> Fault.parse("lr-x6:3")
        Fault(kind='lr-x', worker=3, amount=6.0, step=None, asked=False)
        >>> str(Fault.parse("noisy-labels=0.40:0"))
        'noisy-labels=0.4:0'
        """
        found = _FORM.fullmatch(text)
        kind = found["kind"] if found else ""
        if (
            not found
            or kind not in (*_PLAIN, *_FACTOR, *_VALUE)
            or (found["amount"] is not None) != (kind not in _PLAIN)
            or (found["equals"] is not None) != (kind in _VALUE)
            or not _fits_moment(kind, found["step"], found["asked"])
        ):
            close = meant(re.split(r"[0-9=:]", text)[0], (*_PLAIN, *_FACTOR, *_VALUE))
            raise UserError(f"there is no fault {text!r}{close}; there are {FAULTS_HELP}")
        try:
            amount = number(found["amount"] or "1")
        except ValueError:
            raise UserError(f"the amount of {text!r} is not a number") from None
        step = int(found["step"]) if found["step"] else None
        asked = found["asked"] is not None
        return cls(kind=kind, worker=int(found["worker"]), amount=amount, step=step, asked=asked)

    @property
    def needs_labels(self) -> bool:
        """Whether the task's targets must be labels."""
        return self.kind in {"wrong-labels", "noisy-labels"}

    def labels(self, targets: Tensor, num_classes: int, seed: int) -> Tensor:
        """The worker's labels, of which all or some are wrong if that is the fault.

        Returns:
            Labels for all samples, in the targets' shape.
        """
        if not self.needs_labels:
            return targets
        random = generator(seed, "wrong-labels", self.worker)
        shift = torch.randint(1, num_classes, targets.shape, generator=random)
        share = 1.0 if self.kind == "wrong-labels" else self.amount
        wrong = torch.rand(targets.shape, generator=random) < share
        spoiled = (targets + (shift * wrong).to(targets.device)) % num_classes
        return spoiled.to(targets.dtype)

    def batch_size(self, size: int) -> int:
        """The worker's batch size."""
        if self.kind == "batch-x":
            return max(1, round(size * self.amount))
        return {"batch-of-one": 1, "batch": int(self.amount)}.get(self.kind, size)

    def scale_lr(self, optimizer: Optimizer) -> None:
        """Multiplies the worker's learning rate, if that is the fault."""
        if self.kind == "lr-x":
            for group in optimizer.param_groups:
                group["lr"] *= self.amount

    def blur(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Adds noise to a batch's inputs, (B, ...), if that is the fault."""
        return noisy(inputs, self.amount, random) if self.kind == "input-noise" else inputs

    def shake(self, model: nn.Module, random: torch.Generator) -> None:
        """Adds noise to the gradients, if that is the fault."""
        if self.kind == "gradient-noise":
            add_gradient_noise_(model, self.amount, random)

    def strike(self, model: nn.Module, step: int, asked: Asked = Asked.NOTHING) -> None:
        """Changes the parameters before a local step, if that is the fault.

        Args:
            model: whose parameters change.
            step: the local step, from 1.
            asked: what is asked of the worker.
        """
        if self.step != step and not (self.asked and self.kind == "nan" and asked is Asked.NAN):
            return
        factor = {"nan": float("nan"), "dead": 0.0}.get(self.kind, self.amount)
        with torch.no_grad():
            torch._foreach_mul_(list(model.parameters()), factor)


def _fits_moment(kind: str, step: str | None, asked: str | None) -> bool:
    """Whether a fault of this kind may be written with this step, or when it is asked for."""
    if asked is not None:
        return kind in _WHEN_ASKED
    return (step is not None) == (kind in _AT_STEP) and int(step or 1) >= 1
