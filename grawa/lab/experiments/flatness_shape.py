"""What a measurement of flatness holds in a file: in `flatness.json`, and in a study's trials."""

from collections.abc import Mapping
from typing import Any

from grawa.lab.experiments.flatness import CONSENSUS
from grawa.lab.shapes import (
    Shape,
    listed,
    mapping,
    number,
    optional,
    same_lengths,
    table,
    text,
    whole,
)

_NUMBER = optional(number())
_ESTIMATE = table({"value": _NUMBER, "standard_error": _NUMBER})

_MODEL = table(
    {
        "train_error": _NUMBER,
        "test_error": _NUMBER,
        "loss": _NUMBER,
        "gradient_norm": _NUMBER,
        "sharpness": mapping(_NUMBER),
        "eigenvalues": optional(listed(_ESTIMATE)),
        "trace": optional(_ESTIMATE),
        "trace_over_loss": optional(_ESTIMATE),
    },
    {"gap": _NUMBER},
)


def _same_number(valley: Mapping[str, Any]) -> str | None:
    return same_lengths(valley, "worker_distances", "border_distances")


_VALLEY = optional(
    table(
        {
            "kappa": number(),
            "worker_distances": listed(number(0.0)),
            "border_distances": listed(_NUMBER),
            "inverse_mean": _NUMBER,
        },
        then=_same_number,
    )
)


def _check_models(found: Mapping[str, Any]) -> str | None:
    """The consensus comes first, all have the same radii, and the valley has all workers."""
    first, *workers = found["models"]
    if first != CONSENSUS:
        return f"the first of models must be {CONSENSUS}, got {first!r:.60}"
    if len({tuple(one["sharpness"]) for one in found["models"].values()}) > 1:
        return "all models must have the same radii in sharpness"
    if found["valley"] is not None and len(found["valley"]["worker_distances"]) != len(workers):
        return "valley must have a distance for each worker among the models"
    return None


_SHARE = optional(number(0.0))

_DISAGREEMENT = optional(
    table({
        "rounds": whole(1),
        "gaps": whole(2),
        "singular_values": listed(number(0.0), least=1),
        "effective_rank": number(0.0),
        "chance": number(0.0),
        "gradient_share": _SHARE,
        "eigenvector_shares": listed(_SHARE),
        "dominant_share": _SHARE,
    })
)

_MODELS: Mapping[str, Shape] = {"models": mapping(_MODEL, least=1), "valley": _VALLEY}

RUN_SHAPE = table(
    {
        **_MODELS,
        "metric": text,
        "no_valley": text,
        "samples": whole(),
        "of_samples": whole(),
        "gap_samples": whole(),
        "parameters": whole(),
    },
    {"disagreement": _DISAGREEMENT, "no_disagreement": text},
    then=_check_models,
)
"""Of `flatness.json`."""

_OF_CONSENSUS = table(
    {**_MODELS, "models": table({CONSENSUS: _MODEL})},
)


def trial_shape(value: object, name: str) -> str | None:
    """The shape of a trial's measurement: of the consensus, or only why there is none."""
    if isinstance(value, dict) and "failure" in value:
        return text(value["failure"], f"{name}.failure")
    return _OF_CONSENSUS(value, name)
