"""The optimizers of a training run, parsed from the command line."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from grawa.errors import UserError
from grawa.lab.own import meant, resolved
from grawa.lab.train.forms import OPTIMIZERS_HELP
from grawa.optim import SAM

_BASES: Mapping[str, tuple[str, ...]] = {
    "sgd": ("momentum", "weight_decay"),
    "adamw": ("weight_decay",),
    "adam": (),
}
"""Optimizer -> its options; Adam is AdamW without weight decay."""

_MOST = 1e6
"""Of weight decay and SAM's radius: with more, nothing is left of the parameters."""

_SGD_DECAY, _ADAMW_DECAY = 1e-4, 1e-2  # the second is torch's


@dataclass(frozen=True, kw_only=True)
class OptimizerChoice:
    """A worker's optimizer and its options.

    Args:
        base: "sgd" or "adamw".
        rho: the radius of SAM, with `base` as its base optimizer; `None` for no SAM.
        momentum: Nesterov momentum of "sgd"; 0 for none.
        weight_decay: as in torch; `None` for 1e-4 with "sgd" and torch's default with "adamw".
    """

    base: str = "sgd"
    rho: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None

    @property
    def passes(self) -> int:
        """Forward and backward passes in a local step; SAM makes two."""
        return 1 if self.rho is None else 2

    @classmethod
    def parse(cls, text: str) -> "OptimizerChoice":
        """Parses an optimizer as written on the command line.

        Returns:
            The choice.

        Raises:
            UserError: if it is not one of `OPTIMIZERS_HELP`.

        >>> OptimizerChoice.parse("sam:rho=0.1")
        OptimizerChoice(base='sgd', rho=0.1, momentum=0.9, weight_decay=None)
        """
        written, *options = text.split(":")
        name = resolved(written, {*_BASES, "sam"})
        if name not in {*_BASES, "sam"}:
            close = meant(name, {*_BASES, "sam"})
            raise UserError(f"there is no optimizer {name!r}{close}; there are {OPTIMIZERS_HELP}")
        given = dict(option.partition("=")[::2] for option in options)
        base = given.pop("base", "sgd") if name == "sam" else name
        if base not in _BASES:
            known = ", ".join(_BASES)
            raise UserError(f"base of optimizer {name} must be one of {known}, got {base!r}")
        allowed = (*_BASES[base], *(("rho",) if name == "sam" else ()))
        for key in given:
            if key not in allowed:
                has = ", ".join((*allowed, *(("base",) if name == "sam" else ()))) or "none"
                close = meant(key, allowed)
                raise UserError(f"optimizer {text!r} has no option {key!r}{close}; it has {has}")
        numbers = {key: _number(key, value) for key, value in given.items()}
        if base == "adam":
            base, numbers["weight_decay"] = "adamw", 0.0
        return cls(base=base, **({"rho": 0.05} if name == "sam" else {}) | numbers)

    def make(self, model: nn.Module, lr: float) -> Optimizer:
        """Makes the optimizer of one model.

        Args:
            model: the model, whose parameters it optimizes.
            lr: the initial learning rate.

        Returns:
            The optimizer; SAM if `rho` is set.
        """
        base = self._base_of(model, lr)
        return base if self.rho is None else SAM(model, base, rho=self.rho)

    def _base_of(self, model: nn.Module, lr: float) -> Optimizer:
        params, decay = model.parameters(), self.weight_decay
        if self.base == "adamw":
            return AdamW(params, lr=lr, weight_decay=_ADAMW_DECAY if decay is None else decay)
        return SGD(
            params,
            lr=lr,
            momentum=self.momentum,
            nesterov=self.momentum > 0.0,
            weight_decay=_SGD_DECAY if decay is None else decay,
        )


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number < (1.0 if key == "momentum" else _MOST):
        limits = "lie in [0, 1)" if key == "momentum" else "be a number, not negative"
        raise UserError(f"{key} of the optimizer must {limits}, got {text!r}")
    return number
