"""The hosted models' buffers: which have changed, and how those are averaged."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from grawa.comm.protocol import Communicator
from grawa.errors import UserError
from grawa.math.leaves import Rows, names_by_kind
from grawa.math.weights import uniform
from grawa.workers.changes import BufferState, Changes, has_means, joined, split
from grawa.workers.stack import is_strided, local, stack_of

Gather = Callable[[Tensor], Tensor]
"""Gathers all workers' rows on every process: (K, C) -> (N, C)."""

_FLAGS = 8
"""More than there are states of a buffer: a mark is its state plus this times a hash of its form
(shape and dtype)."""

_FORM_BITS = 48  # so that float64 represents hash and state exactly


class Buffers:
    """The persistent buffers of hosted models; those that are not in state dicts stay local.

    A buffer is sent only if it has changed on some worker since the last round, so constant masks
    and tables cost nothing. A module may assign a new tensor to a buffer at any time.

    Args:
        models: K models with the same buffers.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.names = persistent_names(models[0])
        self._found = [_Places(model, self.names) for model in models]
        self._rows = Rows()
        self._addresses: list[list[int]] = []
        self._changes = Changes()

    def rows(self) -> Rows:
        """The current buffers, name -> (K, *shape), in their own dtypes; complex ones as real."""
        addresses = [[_address(buffer) for buffer in own.buffers()] for own in self._found]
        if addresses != self._addresses:
            tables = [dict(zip(self.names, own.buffers(), strict=True)) for own in self._found]
            for table in tables[1:]:
                self._check_form(tables[0], table)
            self._rows = stack_of(tables, self.names)
            self._addresses = [[_address(b) for b in own.buffers()] for own in self._found]
        return self._rows

    def _check_form(self, first: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        for name in self.names:
            if _form(first[name]) != _form(other[name]):
                raise UserError(
                    f"buffer {name!r} has another shape or dtype on one hosted worker than on "
                    f"another: {_form(first[name])} and {_form(other[name])}"
                )

    def remember(self, names: Sequence[str] | None = None) -> None:
        """Copies the buffers' values, with which the next round compares them.

        Args:
            names: the buffers that may have changed; all by default.
        """
        rows = self.rows()
        self._changes.remember(rows if names is None else Rows((n, rows[n]) for n in names))

    def forget(self, names: Sequence[str]) -> None:
        """Lets these buffers count as changed since the last round."""
        self._changes.forget(names)

    def states(self, rows: Rows, device: torch.device) -> Tensor:
        """See `Changes.states`, of the buffers from `rows`."""
        return self._changes.states(rows, device)

    def changed(self) -> dict[str, bool]:
        """Whether each buffer has changed on a hosted worker since the last round."""
        rows = self.rows()
        if not rows:
            return {}
        changed = BufferState.changed(self.states(rows, torch.device("cpu"))).any(dim=0).tolist()
        return dict(zip(rows, changed, strict=True))

    def put(self, agreed: Mapping[str, Tensor], workers: Sequence[int] | None = None) -> None:
        """Copies new values into the buffers.

        Args:
            agreed: name -> values, (*shape), the same on every process.
            workers: hosted workers; all by default.
        """
        if not agreed:
            return
        own = self.rows()
        for k in range(len(self._found)) if workers is None else workers:
            torch._foreach_copy_([own[name][k] for name in agreed], list(agreed.values()))

    def follow(self, agreed: Mapping[str, Tensor], before: Rows) -> None:
        """Applies a round that ran in the background to buffers that have changed meanwhile.

        Floating-point buffers are moved by the round's result minus their values when it began;
        integers and booleans become the larger of the result and the current value.

        Args:
            agreed: the round's result, name -> (*shape).
            before: the buffers when it began, name -> (K, *shape).
        """
        own = self.rows()
        for name, new in agreed.items():
            live = own[name]
            if live.shape[1:] != new.shape:
                continue  # a module has replaced it meanwhile
            if not live.is_floating_point():
                live.copy_(torch.maximum(live, new) if live.dtype != torch.bool else live | new)
                continue
            moved = live + (new - before[name])
            live.copy_(torch.where(moved.isfinite(), moved, new))


def average(
    rows: Rows, states: Tensor, active: Tensor, comm: Communicator, gather: Gather
) -> dict[str, Tensor]:
    """Combines the buffers that have changed over all workers; collective.

    Args:
        rows: the hosted workers' buffers, name -> (K, *shape).
        states: all workers' states of each, (N, B).
        active: (N,), bool: which workers count.
        comm: takes means over the active workers.
        gather: gathers all workers' rows: (K, C) -> (N, C), in their dtype.

    Returns:
        New values, name -> (*shape), the same on every process; only of changed buffers.
    """
    moved = BufferState.changed(states).any(dim=0).tolist()
    changed = [name for name, has_changed in zip(rows, moved, strict=True) if has_changed]
    odd = dict(zip(rows, (states > BufferState.CHANGED).any(dim=0).tolist(), strict=True))
    plain = Rows((n, rows[n]) for n in changed if has_means(rows[n]) and not odd[n])
    agreed: dict[str, Tensor] = {}
    if plain:
        agreed.update(comm.weighted_mean(plain, uniform(comm.num_workers)))
    rest = {name: rows[name] for name in changed if name not in agreed}
    for names in names_by_kind(rest).values():
        forms = [rest[name] for name in names]
        combined = combine(gather(joined(forms)), active).to(forms[0].device, non_blocking=True)
        agreed.update(zip(names, split(combined, forms), strict=True))
    return agreed


def forms_of(rows: Rows) -> Tensor:
    """A hash of the shape and dtype of each buffer, times `_FLAGS`: (B,), float64, on the CPU."""
    marks = [_form_mark(row.shape[1:], row.dtype) for row in rows.values()]
    return torch.tensor(marks, dtype=torch.float64, device="cpu")


def states_of(marks: Tensor) -> Tensor:
    """The `BufferState`s in all workers' marks, which are forms plus states: (N, B) -> (N, B)."""
    return marks.remainder(_FLAGS)


def check_forms(names: Sequence[str], marks: Tensor) -> None:
    """Refuses buffers whose shapes or dtypes differ between workers.

    Args:
        names: B buffers.
        marks: (N, B).

    Raises:
        UserError: the same on every process, with the name of the buffer and a worker.
    """
    forms = marks.div(_FLAGS, rounding_mode="floor")
    different = (forms != forms[:1]).nonzero()
    if len(different):
        worker, buffer = different[0].tolist()
        raise UserError(
            f"buffer {names[buffer]!r} has another shape or dtype on worker {worker} than on "
            "worker 0, so it can't be averaged: give it the same shape everywhere, register it "
            'with persistent=False, or use buffers="local"'
        )


def combine(everyone: Tensor, active: Tensor) -> Tensor:
    """Combines all workers' values of a buffer.

    Entries that are equal on all active workers stay as they are, also infinite ones. Other
    floating-point entries become the mean of the finite ones; integers and booleans the maximum.

    Args:
        everyone: (N, *shape).
        active: (N,), bool: which workers count.

    Returns:
        (*shape).

    >>> combine(torch.tensor([[1.0, -torch.inf], [3.0, -torch.inf]]), torch.tensor([True, True]))
    tensor([2., -inf])
    """
    rows = everyone[active.to(everyone.device)]
    if not rows.is_floating_point():
        return rows.amax(dim=0) if rows.dtype != torch.bool else rows.any(dim=0)
    wide = rows.to(torch.float64)
    finite = wide.isfinite()
    total = torch.where(finite, wide, 0.0).sum(dim=0)
    mean = torch.where(finite.any(dim=0), total / finite.sum(dim=0).clamp_min(1), wide[0])
    same = ((wide == wide[:1]) | (wide.isnan() & wide[:1].isnan())).all(dim=0)
    return torch.where(same, rows[0], mean.to(rows.dtype))


def persistent_names(model: nn.Module) -> list[str]:
    """The names of the buffers that a state dict has, each once; not of sparse or packed ones."""
    skipped = {
        f"{prefix}{'.' if prefix else ''}{name}"
        for prefix, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    return [n for n, b in model.named_buffers() if n not in skipped and is_strided(b)]


class _Places:
    """Where a model's buffers are, so that they are found again without a walk through the model.

    Args:
        model: the model.
        names: of the buffers.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._model, self._names = model, names
        self._search()

    def _search(self) -> None:
        links: dict[tuple[int, str], tuple[dict[str, nn.Module | None], str, nn.Module]] = {}
        self._slots = []
        for name in self._names:
            *path, key = name.split(".")
            module = self._model
            for part in path:
                parent, module = module, module.get_submodule(part)
                links[id(parent), part] = (parent._modules, part, module)
            self._slots.append((module._buffers, key))
        self._links = list(links.values())

    def buffers(self) -> list[Tensor]:
        """The current buffers, also if modules were replaced.

        Returns:
            One for each name.

        Raises:
            UserError: if one is gone.
        """
        if any(children.get(part) is not module for children, part, module in self._links):
            self._search()
        found = [own.get(key) for own, key in self._slots]
        present = [buffer for buffer in found if buffer is not None]
        if len(present) < len(found):
            raise UserError(
                f"the model no longer has the buffer {self._names[found.index(None)]!r}, which is "
                'averaged: keep it, register it with persistent=False, or use buffers="local"'
            )
        return present


def _address(buffer: Tensor) -> int:
    return local(buffer).data_ptr()


def _form(buffer: Tensor) -> str:
    return f"{tuple(buffer.shape)} {buffer.dtype}"


@lru_cache(maxsize=1024)  # buffers may grow at every step
def _form_mark(shape: torch.Size, dtype: torch.dtype) -> float:
    """A hash of a buffer's shape and dtype, times `_FLAGS`."""
    digest = hashlib.sha256(f"{tuple(shape)} {dtype}".encode()).digest()
    return float((int.from_bytes(digest[:8]) >> (64 - _FORM_BITS)) * _FLAGS)
