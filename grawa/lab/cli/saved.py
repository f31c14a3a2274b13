"""Models of a run that was kept."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from grawa.errors import UserError


def put_state(model: nn.Module, state: Mapping[str, Tensor], path: Path, task: str) -> None:
    """Gives a model the parameters and buffers that were saved.

    Args:
        model: of the task.
        state: its state dict.
        path: of the file that it was read from.
        task: the task's name.

    Raises:
        UserError: if they are not a model of the task.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()
        raise UserError(f"{path} is not a model of {task}: {why}") from None
