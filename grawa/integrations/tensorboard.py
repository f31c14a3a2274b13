"""Round reports as TensorBoard scalars; needs the extra [tensorboard]."""

from importlib.util import find_spec
from pathlib import Path

from grawa.errors import UserError
from grawa.integrations.log_rounds import LogRounds


def require_tensorboard() -> None:
    """Checks that TensorBoard is installed.

    Raises:
        UserError: if it is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "TensorBoard is not installed; install the extra: pip install 'grawa[tensorboard]'"
        )


class TensorBoardRounds(LogRounds):
    """A callback for `Averager(on_round=...)` that writes each round's numbers.

    The x axis is the local step. Weights and scores are means over groups.

    Args:
        folder: the folder for TensorBoard's files.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        super().__init__(self._writer, prefix="")

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()
