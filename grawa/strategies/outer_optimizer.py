"""An outer optimizer that is one of torch's, or any other that keeps its state per parameter."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from grawa.counts import check_count
from grawa.errors import UserError
from grawa.math.leaves import Leaves
from grawa.math.outer import pseudo_gradient_
from grawa.strategies.protocol import State

Make = Callable[..., Optimizer]
"""Makes an optimizer from a list of tensors: a class such as `torch.optim.AdamW`, or a partial."""

_PREFIX = "outer."
"""Of the optimizer's entries among those of the strategy's state."""

_NUMBERS: Mapping[type, str] = {int: "int", float: "float"}
"""What names of entries end with, after a colon, that the optimizer keeps as numbers."""


@dataclass(frozen=True)
class OuterOptimizer:
    """Any optimizer of `torch.optim` as outer optimizer: its gradient is the center minus the mean.

    Wherever there is an `outer=`, the class or the `functools.partial` alone will do; it is written
    out for `restart_every`:

        grawa.DiLoCo(outer=functools.partial(torch.optim.AdamW, lr=0.1))
        grawa.DiLoCo(outer=grawa.OuterOptimizer(partial(torch.optim.AdamW, lr=0.1),
                                                restart_every=8))

    It steps once a round, on every process alike, and its state is saved, restored and given to
    workers that join as the center is. Weight decay draws the center to zero at every round. Where
    a worker's parameters are sharded over processes (FSDP2), each process steps its own shard: use
    optimizers that treat each element alone (SGD, Adam), not Muon or Adafactor.

    Args:
        make: makes the optimizer from a list of tensors. Options that are given to a
            `functools.partial` by name become `options`.
        options: names and values of the options of `make`.
        restart_every: the optimizer forgets its state after so many rounds; `None` for never.

    Raises:
        UserError: if it can't be made, or needs a closure, or keeps what is neither a tensor nor a
            number per parameter.

    >>> from functools import partial
    >>> OuterOptimizer(partial(torch.optim.SGD, lr=0.7, momentum=0.9)).options
    (('lr', 0.7), ('momentum', 0.9))

    Source: Reddi et al. (2021), "Adaptive Federated Optimization", algorithm 2, for adaptive outer
    optimizers.
    """

    make: Make
    options: tuple[tuple[str, object], ...] = ()
    restart_every: int | None = None

    def __post_init__(self) -> None:
        make: Any = self.make
        given = dict(self.options)
        if isinstance(make, partial):  # which is flat, however many there are in each other
            if make.args:
                raise UserError(f"give an outer optimizer's options by name, got {make.args}")
            make, given = make.func, {**make.keywords, **given}
        if not callable(make):
            raise UserError(
                "outer must be an optimizer such as grawa.OuterNesterov(), or make one of torch's, "
                f"such as functools.partial(torch.optim.AdamW, lr=0.1), got {make!r}"
            )
        object.__setattr__(self, "make", make)
        object.__setattr__(self, "options", tuple(sorted(given.items())))
        if self.restart_every is not None:
            check_count("restart_every", self.restart_every)
        self.first_state(Leaves.copy_of({"x": torch.zeros(1, 2, 2, device="cpu")}))

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(getattr(self.make, "__qualname__", type(self.make).__qualname__))

    def first_state(self, center: Leaves) -> State:
        """The entries of a strategy's state that this optimizer needs, all zero.

        Args:
            center: that it will move, in at least 32 bits.

        Returns:
            One entry for each of its own, "outer.exp_avg" and so on; a `UserError` if it can't be
            an outer optimizer of these parameters.
        """
        tried = center.zeros_like()  # a step without gradient shows what it keeps
        optimizer = self._optimizer(tried)
        before = _options_of(optimizer)
        try:
            _step(optimizer, tried, tried.zeros_like())
        except Exception as error:
            raise self._refusal(f"its step() without a closure fails: {error}") from error
        if _options_of(optimizer) != before or set(optimizer.state) - set(tried.values()):
            raise self._refusal(
                "it keeps a state that belongs to no parameter, which would be lost between rounds"
            )
        found: dict[str, dict[str, Tensor]] = {}
        for name, parameter in tried.items():
            for key, value in self._tensors(optimizer.state[parameter]):
                zero = torch.zeros_like(value, device=parameter.device)
                found.setdefault(key, {})[name] = zero.unsqueeze(0)
        return {_PREFIX + key: Leaves.copy_of(stack) for key, stack in found.items()}

    def move_(self, center: Leaves, mean: Leaves, began: Leaves, state: State, round: int) -> None:
        """Steps the center in place.

        Args:
            center: in at least 32 bits, moved in place.
            mean: of the workers; overwritten.
            began: the center from which the workers started, in their own dtype.
            state: of the strategy, with the entries of `first_state`; changed in place.
            round: number of earlier rounds.
        """
        gradient = pseudo_gradient_(mean, began)
        optimizer = self._optimizer(center)
        kept = {k.removeprefix(_PREFIX): v for k, v in state.items() if k.startswith(_PREFIX)}
        if not is_restarted(round, self.restart_every):
            _put_state(optimizer, center, kept, self._on_cpu(center.flats[0].device))
        _step(optimizer, center, gradient.as_wide_as(center))
        for name, parameter in center.items():
            for key, value in self._tensors(optimizer.state[parameter]):
                if key not in kept:
                    raise self._refusal(f"it keeps {key!r} from a later step on only")
                if value.data_ptr() != kept[key][name].data_ptr():
                    kept[key][name].copy_(value)

    def _optimizer(self, center: Leaves) -> Optimizer:
        try:
            made = self.make(list(center.values()), **dict(self.options))
        except Exception as error:  # a user's own may raise anything
            raise self._refusal(str(error)) from error
        if not isinstance(made, Optimizer):
            raise self._refusal(f"it must make an optimizer, and made a {type(made).__name__}")
        return made

    def _on_cpu(self, device: torch.device) -> set[str]:
        """Which entries it keeps on the CPU, as torch's do with numbers of steps, elsewhere."""
        if device.type == "cpu":
            return set()
        tried = Leaves.copy_of({"x": torch.zeros(1, 2, 2, device=device)})
        optimizer = self._optimizer(tried)
        _step(optimizer, tried, tried.zeros_like())
        entries = self._tensors(optimizer.state[tried["x"]])
        return {key for key, value in entries if value.device.type == "cpu"}

    def _tensors(self, entries: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
        """What an optimizer keeps for a parameter, as tensors; numbers are marked in the name.

        Yields:
            Name and tensor of each entry.
        """
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                yield key, value
            elif type(value) in _NUMBERS:
                yield f"{key}:{_NUMBERS[type(value)]}", torch.tensor(value, dtype=torch.float64)
            elif value is not None:
                what = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise self._refusal(
                    f"it keeps {key!r} as {what}, which is neither a number nor a floating-point "
                    "tensor"
                )

    def _refusal(self, why: str) -> UserError:
        return UserError(f"{self.name} can't be the outer optimizer: {why}")


def is_restarted(round: int, restart_every: int | None) -> bool:
    """Whether an outer optimizer begins anew at this round, the number of earlier ones."""
    return round == 0 if restart_every is None else round % restart_every == 0


def _step(optimizer: Optimizer, center: Leaves, gradient: Leaves) -> None:
    for name, parameter in center.items():
        parameter.grad = gradient[name]
    optimizer.step()
    for parameter in center.values():
        parameter.grad = None


def _put_state(
    optimizer: Optimizer, center: Leaves, kept: Mapping[str, Leaves], on_cpu: Collection[str]
) -> None:
    """Gives an optimizer its state of the last round, as it keeps it itself.

    Args:
        optimizer: of the center's tensors.
        center: that it moves.
        kept: its entries, on the center's device.
        on_cpu: those that it keeps on the CPU.
    """
    optimizer.state.clear()
    for key, leaves in kept.items():
        name, _, kind = key.partition(":")
        number = {"int": int, "float": float}.get(kind)
        if key in on_cpu:
            leaves = Leaves([flat.cpu() for flat in leaves.flats], leaves.places)
        for parameter, value in leaves.items():
            state = optimizer.state[center[parameter]]
            state[name] = value if number is None else number(value.item())


def _options_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    groups = optimizer.param_groups
    return [{name: v for name, v in group.items() if name != "params"} for group in groups]
