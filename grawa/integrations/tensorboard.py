"""Round reports as TensorBoard scalars; needs the extra [tensorboard]."""

from importlib.util import find_spec
from pathlib import Path

from grawa.errors import UserError
from grawa.rounds.report import RoundReport


def require_tensorboard() -> None:
    """Checks that TensorBoard is installed.

    Raises:
        UserError: if it is not installed.
    """
    if find_spec("tensorboard") is None:
        raise UserError(
            "TensorBoard is not installed; install the extra: pip install 'grawa[tensorboard]'"
        )


class TensorBoardRounds:
    """A callback for `Averager(on_round=[...])` that writes each round's numbers.

    The x axis is the local step. Weights and scores are means over groups.

    Args:
        folder: the folder for TensorBoard's files.
    """

    def __init__(self, folder: Path) -> None:
        require_tensorboard()
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __call__(self, report: RoundReport) -> None:
        """Writes a round."""
        for name in ("weights", "scores", "losses"):
            rows = getattr(report, name)
            if rows is None:
                continue
            for worker, row in enumerate(rows):
                self._scalar(f"{name}/worker{worker}", float(row.mean()), report.step)
        if report.consensus_distance is not None:
            self._scalar("consensus_distance", report.consensus_distance, report.step)
        self._scalar("left_out", len(report.left_out), report.step)
        for name in ("bytes_sent", "compute_seconds", "wait_seconds", "round_seconds"):
            self._scalar(f"cost/{name}", getattr(report, name), report.step)

    def close(self) -> None:
        """Writes what is still buffered."""
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
