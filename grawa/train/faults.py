"""Faults that can be given to a worker, to see what a method and its guard make of them."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.seeding import generator

_DATA = ("wrong-labels", "batch-of-one")
_FACTOR = ("lr-x", "scale-x")
_AT_STEP = ("nan", "dead", "scale-x")
_FORM = re.compile(r"(?P<kind>[a-z-]+?)(?P<factor>[0-9.]+)?:(?P<worker>\d+)(?:@(?P<step>\d+))?")

FAULTS_HELP = (
    "wrong-labels:W (all labels of worker W wrong), batch-of-one:W, lr-xF:W (learning rate times "
    "F), and, before local step S: nan:W@S (parameters not a number), scale-xF:W@S (parameters "
    "times F), dead:W@S (parameters zero)"
)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that goes wrong with one worker.

    Args:
        kind: one of the names in `FAULTS_HELP`, without its factor.
        worker: which of the N workers.
        factor: for "lr-x" and "scale-x".
        step: for what happens once: before which local step, counted from 1.
    """

    kind: str
    worker: int
    factor: float = 1.0
    step: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Fault":
        """Reads a fault as it is written on the command line.

        Returns:
            The fault.

        Raises:
            UserError: if it is not one of `FAULTS_HELP`.

        >>> Fault.parse("lr-x6:3")
        Fault(kind='lr-x', worker=3, factor=6.0, step=None)
        >>> Fault.parse("nan:0@100").step
        100
        """
        found = _FORM.fullmatch(text)
        kind = found["kind"] if found else ""
        known = kind in (*_DATA, *_FACTOR, *_AT_STEP)
        if (
            not found
            or not known
            or (found["factor"] is not None) != (kind in _FACTOR)
            or (found["step"] is not None) != (kind in _AT_STEP)
            or int(found["step"] or 1) < 1
        ):
            raise UserError(f"there is no fault {text!r}; there are {FAULTS_HELP}")
        try:
            factor = float(found["factor"] or 1.0)
        except ValueError:
            raise UserError(f"the factor of {text!r} is not a number") from None
        step = int(found["step"]) if found["step"] else None
        return cls(kind=kind, worker=int(found["worker"]), factor=factor, step=step)

    def labels(self, targets: Tensor, num_classes: int, seed: int) -> Tensor:
        """The worker's labels: all wrong, at random, if that is the fault.

        Returns:
            (n,), for all samples.
        """
        if self.kind != "wrong-labels":
            return targets
        random = generator(seed, "wrong-labels", self.worker)
        shift = torch.randint(1, num_classes, targets.shape, generator=random)
        return (targets + shift.to(targets.device)) % num_classes

    def batch_size(self, size: int) -> int:
        """The worker's batch size."""
        return 1 if self.kind == "batch-of-one" else size

    def scale_lr(self, optimizer: Optimizer) -> None:
        """Raises the worker's learning rate."""
        if self.kind == "lr-x":
            for group in optimizer.param_groups:
                group["lr"] *= self.factor

    def strike(self, model: nn.Module, step: int) -> None:
        """What happens to the parameters before local step `step`."""
        if self.step != step:
            return
        factor = {"nan": float("nan"), "dead": 0.0}.get(self.kind, self.factor)
        with torch.no_grad():
            torch._foreach_mul_(list(model.parameters()), factor)
