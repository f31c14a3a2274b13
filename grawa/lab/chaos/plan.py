"""Which faults come, to whom and when: drawn from a seed, before anything is started."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = {
    "kill": "SIGKILL of a worker",
    "stop": "SIGSTOP of a worker, which is continued after a while, or never",
    "launcher": "SIGKILL of a host's launcher",
    "host": "SIGKILL of all processes of a host at once, its memory and network gone with them",
    "link": "the link of a host is cut, and restored after a while",
    "disk": "the disk with the run's folder is full, and freed after a while",
    "checkpoint": "a bit of the newest checkpoint is flipped, then a worker gets SIGKILL",
    "nan": "a worker's parameters become NaN",
    "labels": "a worker's labels are wrong for a while",
    "clock": "a host's wall clock jumps, and jumps back after a while",
}
"""Kind of fault -> what is done."""

_FIRST, _LAST = 0.04, 0.94
"""The part of the run in which faults come, as fractions of its rounds."""

_WHILE_SECONDS = (1.0, 5.0)
_LASTING = 0.5
"""How many of the stops and cuts last longer than the timeout."""

_JUMPS_SECONDS = (-86_400.0, -90.0, 90.0, 3_600.0, 86_400.0)


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A fault that is to come.

    Attributes:
        number: from 1.
        kind: one of `KINDS`.
        worker: whom it hits, or
        host: where it hits.
        moment: after which fraction of the undisturbed run's rounds.
        within: the moment in that round, as a fraction of its duration.
        seconds: how long it lasts, if it lasts a while.
        lasting: whether it rather lasts longer than the job's timeout.
        jump: of a clock, in seconds.
        draw: a number for all else that is random.
    """

    number: int
    kind: str
    worker: int
    host: int
    moment: float
    within: float
    seconds: float
    lasting: bool
    jump: float
    draw: int


def plan(kinds: Sequence[str], faults: int, workers: int, hosts: int, seed: int) -> list[Planned]:
    """Draws the faults of a run.

    Each kind comes about equally often, in random order; moments are random within equal parts of
    the run, one for each fault.

    Args:
        kinds: of `KINDS`.
        faults: number of faults.
        workers: number of workers.
        hosts: number of hosts.
        seed: the same one gives the same faults.

    Returns:
        The faults, in the order in which they come.

    >>> [fault.kind for fault in plan(["kill", "stop"], 4, 4, 2, seed=1)]
    ['kill', 'stop', 'stop', 'kill']
    """
    chance = random.Random(seed)
    order: list[str] = []
    while len(order) < faults:
        order += chance.sample(kinds, len(kinds))
    part = (_LAST - _FIRST) / max(1, faults)
    return [
        Planned(
            number=number + 1,
            kind=kind,
            worker=chance.randrange(workers),
            host=chance.randrange(hosts),
            moment=_FIRST + part * (number + chance.random()),
            within=chance.random(),
            seconds=chance.uniform(*_WHILE_SECONDS),
            lasting=chance.random() < _LASTING,
            jump=chance.choice(_JUMPS_SECONDS),
            draw=chance.getrandbits(32),
        )
        for number, kind in enumerate(order[:faults])
    ]
