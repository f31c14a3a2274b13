"""Loads saved models of a run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from grawa.errors import UserError


def put_state(model: nn.Module, state: Mapping[str, Tensor], path: Path, task: str) -> None:
    """Loads saved parameters and buffers into a model.

    Args:
        model: the task's model.
        state: the saved state dict.
        path: the file from which it was read, for the message.
        task: the task's name.

    Raises:
        UserError: if they don't fit the task's model.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is not a model of {task}: {why}") from None
