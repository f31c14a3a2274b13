"""The options of the virtual clock, with which time is modelled instead of measured."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from grawa.durations import seconds
from grawa.errors import UserError
from grawa.lab.experiments.schedules import speeds_of
from grawa.lab.experiments.score import probe_samples
from grawa.lab.simulate.clock import VirtualClock
from grawa.lab.simulate.network import Link, network_of
from grawa.lab.train.faults import Fault
from grawa.lab.train.optimizers import OptimizerChoice

_ONLY = ("step_time", "speeds", "jitter", "link", "topology", "hosts", "inner_link")
"""Options that mean nothing with the wall clock."""


def modelled_time(
    options: Mapping[str, Any], defaults: Mapping[str, Any], faults: Sequence[Fault]
) -> Callable[[], VirtualClock] | None:
    """The virtual clock of a run.

    Args:
        options: of the run, name -> value.
        defaults: of the same options.
        faults: of all workers, some of which may be speeds.

    Returns:
        A function that makes the clock; `None` for the wall clock.

    Raises:
        UserError: if an option is invalid, or options don't go together.
    """
    if options["clock"] == "wall":
        for name in _ONLY:
            if options[name] != defaults[name]:
                raise UserError(f"{name} needs --clock virtual")
        return None
    step = seconds(options["step_time"], "step_time")
    link, inner_link = (
        None if options[name] is None else Link.parse(options[name])
        for name in ("link", "inner_link")
    )
    make = partial(
        VirtualClock,
        step * OptimizerChoice.parse(options["optimizer"]).passes,
        score_time=step
        * probe_samples(options["strategy"], options["score"])
        / max(1, options["batch_size"]),
        speeds=_speeds(options, faults),
        jitter=options["jitter"],
        link=link,
        topology=options["topology"],
        hosts=options["hosts"],
        inner_link=inner_link,
        seed=options["seed"],
    )
    make()
    if options["hosts"] is not None or inner_link is not None:
        if link is None:
            raise UserError("hosts have links between them: give --link too, such as 100mbit:20ms")
        network_of(link, options["topology"], options["workers"], options["hosts"], inner_link)
    return make


def _speeds(options: Mapping[str, Any], faults: Sequence[Fault]) -> list[float] | None:
    """Each worker's speed, from the option or the faults."""
    if options["speeds"] is not None:
        return speeds_of(options["speeds"], options["workers"])
    own = {fault.worker: fault.amount for fault in faults if fault.kind == "speed"}
    return [own.get(i, 1.0) for i in range(options["workers"])] if own else None
