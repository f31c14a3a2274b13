"""What all processes must know of each other before they measure or train together."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from grawa.comm.messages import contact
from grawa.errors import UserError

Value = TypeVar("Value")


def is_one_of_many() -> bool:
    """Whether this process has others."""
    return dist.is_initialized() and dist.get_world_size() > 1


def everyones(own: Value, purpose: str) -> list[Value]:
    """A value of every process, by rank; collective.

    Args:
        own: of this process.
        purpose: what it is for, for an error's message.

    Returns:
        The same on every process.
    """
    if not is_one_of_many():
        return [own]
    found = [own] * dist.get_world_size()
    with contact(purpose):
        dist.all_gather_object(found, own)
    return found


def on_all(make: Callable[[], Value]) -> Value:
    """Calls a function on every process, and raises on all what is wrong on one; collective.

    Args:
        make: the function.

    Returns:
        What it returned here.

    Raises:
        UserError: if it raised one anywhere; it names the rank, unless all say the same.
    """
    errors: list[str | None]
    try:
        value = make()
    except UserError as error:
        errors = everyones(str(error), "compare errors")
    else:
        errors = everyones(None, "compare errors")
        if not any(errors):
            return value
    if len(set(errors)) == 1:
        raise UserError(str(errors[0]))
    rank, text = next((rank, text) for rank, text in enumerate(errors) if text is not None)
    raise UserError(f"rank {rank}: {text}")


def check_same(own: object, what: str) -> None:
    """Checks that a value is the same on every process; collective.

    Args:
        own: of this process.
        what: it is, in the plural.

    Raises:
        UserError: if it is not; it names ranks.
    """
    found = everyones(repr(own), f"compare {what}")
    others = [rank for rank, its in enumerate(found) if its != found[0]]
    if others:
        raise UserError(
            f"{what} must be the same on every rank; those of ranks {others} differ from rank 0's"
        )
