"""The options of a run whose workers may die and come back while the others go on."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from grawa.comm.elastic import Elastic
from grawa.errors import UserError

_LONGEST_SILENCE = 30.0
"""Seconds for which a worker that others wait for may be silent, unless --timeout is shorter."""

_PATIENCE = 10
"""So many times longer a run waits for workers that are missing."""

_ONLY = ("min_workers", "grace", "address")
"""Options that mean nothing without --elastic."""

_REFUSED = {
    "processes": "every worker is a process of its own",
    "budget": "a worker that comes late has another clock",
    "until_error": "workers that come and go can't all measure at the same rounds",
    "evaluate_every": "workers that come and go can't all measure at the same rounds",
    "swa": "a worker that comes late has not seen the consensuses before",
    "keep_rounds": "a worker that comes late has missed rounds that the others have kept",
    "tensorboard": "its files are written by one process, which may die",
}
"""Options that don't work with --elastic, and why."""


def elastic_of(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Elastic | None:
    """Who may come and go.

    Args:
        options: of a run, name -> value.
        defaults: of the same options.

    Returns:
        The library's options; `None` for a run whose workers are all there always.

    Raises:
        UserError: if options don't go together.
    """
    if not options["elastic"]:
        for name in _ONLY:
            if options[name] != defaults[name]:
                raise UserError(f"{name} needs --elastic")
        return None
    workers = options["workers"]
    if workers < 2:
        raise UserError(f"elastic needs at least 2 workers, got {workers}")
    if options["clock"] == "virtual":
        raise UserError("elastic can't be used with --clock virtual, where no worker can die")
    if options["stack_workers"] == "on":
        raise UserError("elastic can't be used with stack_workers: every worker is a process")
    for name, why in _REFUSED.items():
        allowed = (defaults[name], workers) if name == "processes" else (defaults[name],)
        if options[name] not in allowed:
            raise UserError(f"{name} can't be used with --elastic: {why}")
    timeout = timedelta(seconds=min(options["timeout"], _LONGEST_SILENCE))
    least = options["min_workers"]
    return Elastic(
        min_workers=workers // 2 if least is None else least,
        num_workers=workers,
        address=options["address"],
        timeout=timeout,
        grace=options["grace"],
        wait=_PATIENCE * timeout,
        start_after=2 * timeout,
    )
