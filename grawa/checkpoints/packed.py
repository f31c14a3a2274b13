"""The entries of a checkpoint in the form in which torch.distributed.checkpoint saves them.

It saves a nested dict. A tensor is read into one of the same form, which must be there before; so
what has the same form in a fresh job (parameters, the center, an outer optimizer's momentum) stays
a tensor. Anything else (states of optimizers, which a fresh one does not have) is packed: it is
saved as bytes, and read whatever its form.
"""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from grawa.checkpoints.contents import copied
from grawa.checkpoints.entries import Entries
from grawa.saving.part import CheckpointError

Tree = dict[str, Any]
"""A nested dict of tensors and of what is packed."""

_REST = "rest"


class Packed:
    """Plain values and tensors that are saved as bytes, with the tensors on the CPU.

    They are copied when they are saved, one `Packed` after another, and not before. Files hold the
    name of this class, and are read by it.

    Args:
        value: any.
    """

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> tuple[type[Self], tuple[Any]]:
        return type(self), (copied(self.value),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Packed":
        return Packed(copied(self.value))


def name_of(file: str) -> str:
    """The name of a file's entries in a tree, such as "worker-3"."""
    return file.removesuffix(".pt")


def pack(entries: Entries) -> Tree:
    """The tree of a file's entries, which shares memory with them."""
    rest = dict(entries)
    tree: Tree = {name: dict(rest.pop(name)) for name in ("parameters", "frozen") if name in rest}
    if "strategy" in rest:
        tree["strategy"] = {str(i): part for i, part in enumerate(rest.pop("strategy"))}
    if "optimizers" in rest:
        each = enumerate(rest.pop("optimizers"))
        tree["optimizers"] = {str(i): _pack_optimizer(entry) for i, entry in each}
    return {**tree, _REST: Packed(rest)}


def unpack(file: str, trees: object) -> Entries:
    """The entries of a file.

    Args:
        file: its name.
        trees: what has been read: trees by name, or something else.

    Returns:
        What was given to `pack`.

    Raises:
        CheckpointError: if there is no such tree.
    """
    try:
        tree = dict(trees[name_of(file)])  # type: ignore[index]
        entries = dict(tree.pop(_REST).value)
        for name in ("strategy", "optimizers"):
            if name in tree:
                tree[name] = [tree[name][str(i)] for i in range(len(tree[name]))]
        if "optimizers" in tree:
            tree["optimizers"] = [_unpack_optimizer(entry) for entry in tree["optimizers"]]
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"its entries {name_of(file)} are damaged") from None
    return {**entries, **tree}


def blank(tree: Tree) -> Tree:
    """A tree of the same form, into which another one can be read."""
    return {
        name: torch.empty_like(value, device="cpu")
        if isinstance(value, Tensor)
        else (blank(value) if isinstance(value, dict) else Packed(None))
        for name, value in tree.items()
    }


def _pack_optimizer(entry: Mapping[str, Any]) -> Tree:
    """An optimizer's state, packed by parameters, so that not all of it is copied at once."""
    state = dict(entry["state"])
    numbers = range(sum(len(group["params"]) for group in state.get("param_groups", ())))
    left = dict(state.get("state", {}))
    packed = {str(i): Packed(left.pop(i, None)) for i in numbers}
    return {"state": packed, _REST: Packed({**entry, "state": {**state, "state": left}})}


def _unpack_optimizer(tree: Mapping[str, Any]) -> Entries:
    entry = tree[_REST].value
    state = entry["state"]
    each = {int(i): packed.value for i, packed in tree["state"].items()}
    own = {i: value for i, value in each.items() if value is not None}
    return {**entry, "state": {**state, "state": {**state["state"], **own}}}
