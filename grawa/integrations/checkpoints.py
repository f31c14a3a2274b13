"""What trainers' checkpoints lack if they were saved without an `Averager`."""

import warnings


def warn_of_no_workers(checkpoint: object) -> None:
    """Says that a checkpoint has a model, but not what each worker needs to go on."""
    warnings.warn(
        f"{checkpoint} has no states of workers, as if it was saved by another trainer: all "
        "workers start from its model, and with its optimizer state",
        stacklevel=3,
    )
