"""Which options make a run what it is: with others, it can't continue."""

from dataclasses import fields

from grawa.lab.experiments.config import TrainConfig

_FREE = {
    "data",
    "workers",
    "processes",
    "device",
    "timeout",
    "checkpoint_every",
    "keep_checkpoints",
    "max_restarts",
    "min_workers",
    "grace",
    "address",
    "stop_within",
    "stack_workers",
    "keep_workers",
    "keep_rounds",
    "tensorboard",
}
"""Options that may change when a run is resumed, or of which its checkpoints know more."""


def identity(config: TrainConfig) -> dict[str, object]:
    """The options of a run that must stay the same, as far as they are not the defaults.

    Returns:
        Name -> value.

    >>> identity(TrainConfig(task="digits", lr=0.3, timeout=5.0))
    {'task': 'digits', 'lr': 0.3}
    """
    return {
        field.name: getattr(config, field.name)
        for field in fields(config)
        if field.name not in _FREE and getattr(config, field.name) != field.default
    }
