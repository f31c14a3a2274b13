"""The state of the hosted workers' optimizers: what of it can be averaged, and clearing it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.optim import Optimizer

from grawa.errors import UserError
from grawa.math.host import on_host
from grawa.math.leaves import Rows
from grawa.workers.stack import is_strided, values

MOMENTS = (
    *("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf"),
    *("square_avg", "grad_avg", "acc_delta", "sum"),
)
"""The M entries that are averages or sums of gradients or of their squares, in torch's optimizers
and in those that follow them: the mean of several workers' entries is again one."""

_BETAS = {"exp_avg": 0, "exp_avg_sq": 1, "max_exp_avg_sq": 1}
"""Those that a step divides by 1 - beta^steps -> which of the optimizer's betas."""

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Slot(NamedTuple):
    """The state that one of a model's optimizers has for a parameter."""

    name: str
    """Of the parameter."""
    parameter: int
    """Its number in the model."""
    optimizer: int
    """The optimizer's number."""


class Entry(NamedTuple):
    """A tensor in the optimizers' state, of the parameter's shape."""

    slot: Slot
    key: str
    dtype: torch.dtype


class Held(NamedTuple):
    """Which entries all workers have, in S slots."""

    forms: Tensor
    """(N, S, M): zero for none; otherwise 1 + the number of its dtype, negative if a value in it is
    not finite."""
    steps: Tensor
    """(N, S), the steps that the optimizer has counted; 0 if it counts none."""

    @classmethod
    def of(cls, rows: Tensor) -> "Held":
        """From all workers' rows of `OptimizerStates.report`; those of absent workers are NaN."""
        whole = rows.nan_to_num().view(len(rows), -1, len(MOMENTS) + 1)
        return cls(whole[..., :-1], whole[..., -1])

    def entry(self, slots: Sequence[Slot], s: int, m: int) -> Entry:
        """What some worker has.

        Args:
            slots: S of them.
            s: which of these.
            m: which of `MOMENTS`.

        Returns:
            The entry.

        Raises:
            UserError: if another worker has it in another dtype.
        """
        forms = {int(form) for form in self.forms[:, s, m].abs().tolist()} - {0}
        found = [_DTYPES[form - 1] for form in sorted(forms)]
        if len(found) > 1:
            raise UserError(
                f"{MOMENTS[m]!r} in the optimizers' state of parameter {slots[s].name!r} is "
                f"{found[0]} on some workers and {found[1]} on others: load checkpoints in the "
                'same way on all, or use optimizer_state="local"'
            )
        return Entry(slots[s], MOMENTS[m], found[0])


class OptimizerStates:
    """The states of the hosted workers' optimizers.

    Args:
        names: of the parameters that are trained, L.
        params: these, K lists of L.
        optimizers: of each of the K workers.
    """

    def __init__(
        self,
        names: Sequence[str],
        params: Sequence[Sequence[nn.Parameter]],
        optimizers: Sequence[Sequence[Optimizer]],
    ) -> None:
        self._params, self._optimizers = params, optimizers
        held = [{id(p) for g in o.param_groups for p in g["params"]} for o in optimizers[0]]
        self._slots = [
            Slot(name, parameter, optimizer)
            for parameter, name in enumerate(names)
            for optimizer, ids in enumerate(held)
            if id(params[0][parameter]) in ids
        ]

    def slots(self, names: Sequence[str]) -> list[Slot]:
        """Those of some parameters, S of them; the same on every process."""
        wanted = set(names)
        return [slot for slot in self._slots if slot.name in wanted]

    def _state(self, k: int, slot: Slot) -> dict[str, Any]:
        """Empty before the first step, and as long as the worker has not trained the parameter."""
        parameter = self._params[k][slot.parameter]
        found: dict[str, Any] = self._optimizers[k][slot.optimizer].state.get(parameter, {})
        return found

    def check(self) -> None:
        """Refuses a state of which it is not known what can be averaged.

        Raises:
            UserError: naming the optimizer and the entry.
        """
        for k, optimizers in enumerate(self._optimizers):
            for optimizer in optimizers:
                kept: Mapping[Any, Any] = optimizer.state
                for of, value in kept.items():
                    if not isinstance(of, Tensor) and value:
                        raise UserError(_unknown(optimizer, repr(of)))
            for slot in self._slots:
                parameter = self._params[k][slot.parameter]
                for key, value in self._state(k, slot).items():
                    if not (_is_moment(key, value, parameter) or _is_number(key, value, parameter)):
                        told = f"{key!r} for parameter {slot.name!r}"
                        raise UserError(_unknown(optimizers[slot.optimizer], told))

    def report(self, slots: Sequence[Slot]) -> Tensor:
        """What the hosted workers have in these slots.

        Returns:
            (K, S (M + 1)), float64, on the CPU, for `Held.of`.
        """
        shape = len(self._params), len(slots), len(MOMENTS) + 1
        rows = torch.zeros(shape, dtype=torch.float64, device="cpu")
        forms: list[tuple[int, int, int, float]] = []
        told: list[Tensor] = []
        for k, s, m, tensor in self._tensors(slots):
            forms.append((k, s, m, _DTYPES.index(tensor.dtype) + 1.0))
            told.append(vector_norm(tensor, torch.inf) if tensor.numel() else tensor.new_zeros(()))
        counted = [
            (k, s, torch.as_tensor(self._state(k, slot)["step"]).float())
            for k in range(len(self._params))
            for s, slot in enumerate(slots)
            if "step" in self._state(k, slot)
        ]
        found = on_host([*told, *(steps for _, _, steps in counted)])
        for (k, s, m, form), largest in zip(forms, found, strict=False):
            rows[k, s, m] = form if largest.isfinite() else -form
        for (k, s, _), steps in zip(counted, found[len(told) :], strict=True):
            rows[k, s, -1] = float(steps)
        return rows.flatten(1)

    def _tensors(self, slots: Sequence[Slot]) -> list[tuple[int, int, int, Tensor]]:
        """Worker, slot, number in `MOMENTS`, and values of all entries."""
        return [
            (k, s, m, values(state[key]))
            for k in range(len(self._params))
            for s, state in enumerate(self._state(k, slot) for slot in slots)
            for m, key in enumerate(MOMENTS)
            if state.get(key) is not None
        ]

    def rows(self, entries: Sequence[Entry]) -> Rows:
        """Entries as stacks, name -> (K, *shape), with zeros for workers that have none."""
        found = Rows()
        for entry in entries:
            tensors = [self._tensor(k, entry) for k in range(len(self._params))]
            name = f"{entry.slot.optimizer} {entry.slot.name} {entry.key}"
            found[name] = tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tensors)
        return found

    def _tensor(self, k: int, entry: Entry) -> Tensor:
        held = self._state(k, entry.slot).get(entry.key)
        if held is not None:
            return values(held)
        parameter = values(self._params[k][entry.slot.parameter])
        return torch.zeros_like(parameter, dtype=entry.dtype)

    def put(
        self, k: int, entries: Sequence[Entry], new: Sequence[Tensor], scales: Sequence[float]
    ) -> None:
        """Gives a hosted worker new values for entries; those that it has not, it does not get.

        Args:
            k: which.
            entries: E of them.
            new: the values, E tensors.
            scales: by which they are multiplied.
        """
        held = [
            (values(own), value, scale)
            for (slot, key, _), value, scale in zip(entries, new, scales, strict=True)
            if (own := self._state(k, slot).get(key)) is not None
        ]
        if held:
            own, found, by = map(list, zip(*held, strict=True))
            torch._foreach_copy_(own, found)
            torch._foreach_mul_(own, by)

    def betas(self, entries: Sequence[Entry]) -> list[float]:
        """The decay by which a step corrects each entry for its start at zero; 0 if it does not."""
        groups = [_groups(optimizer) for optimizer in self._optimizers[0]]
        found = []
        for slot, key, _ in entries:
            group = groups[slot.optimizer][id(self._params[0][slot.parameter])]
            has = key in _BETAS and "betas" in group
            found.append(float(group["betas"][_BETAS[key]]) if has else 0.0)
        return found

    def clear(self, names: Sequence[str]) -> None:
        """Clears all that the hosted workers' optimizers have for these parameters."""
        for slot in self.slots(names):
            for params, optimizers in zip(self._params, self._optimizers, strict=True):
                clear_state(optimizers[slot.optimizer], [params[slot.parameter]])


def clear_state(optimizer: Optimizer, keys: Sequence[Any] | None = None) -> None:
    """Clears an optimizer's state, as it was before the first step.

    Args:
        optimizer: any.
        keys: the parameters whose state it is; all that there is by default.
    """
    for key in list(optimizer.state) if keys is None else keys:
        state = optimizer.state.pop(key, None)
        start = optimizer.defaults.get("initial_accumulator_value")
        if state and start is not None:  # Adagrad expects to find what its constructor has made
            state["step"].zero_()
            state["sum"].fill_(start)
            optimizer.state[key] = state


def _groups(optimizer: Optimizer) -> dict[int, Mapping[str, Any]]:
    """The id of a parameter -> its group."""
    return {id(p): group for group in optimizer.param_groups for p in group["params"]}


def _is_moment(key: str, value: object, parameter: Tensor) -> bool:
    return (
        key in MOMENTS
        and isinstance(value, Tensor)
        and is_strided(value)
        and value.shape == parameter.shape
        and values(value).dtype in _DTYPES
    )


def _is_number(key: str, value: object, parameter: Tensor) -> bool:
    """Whether an entry is a count or another number, which each worker keeps for itself."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and (key == "step" or parameter.numel() > 1)
    return value is None or isinstance(value, int | float | str)


def _unknown(optimizer: Optimizer, what: str) -> str:
    return (
        f"{type(optimizer).__name__} keeps {what} in its state, and it is not known whether a mean "
        f"of it makes sense: of {', '.join(MOMENTS)} it does, if they have the parameter's shape. "
        'Use optimizer_state="local" or "reset", or another optimizer'
    )
