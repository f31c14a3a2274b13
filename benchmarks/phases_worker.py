"""A worker of `benchmarks/phases.py`, which is killed in one phase of its training."""

import hashlib
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import grawa
from grawa.checkpoints.writing import Writing
from grawa.comm.distributed import DistributedCommunicator
from grawa.comm.levels import TwoLevels
from grawa.comm.mailboxes import Mailboxes
from grawa.comm.sockets import Sockets
from grawa.rounds.engine import Engine
from grawa.rounds.giving import Giving
from grawa.rounds.quorums import Quorums
from grawa.rounds.roll_call import RollCall
from processes import begin

WORKERS, STEPS, SYNC_EVERY, SAVE_EVERY = 4, 32, 4, 2
HOSTS = [[0, 1], [2, 3]]
TIMEOUT = timedelta(seconds=10)

Owners = tuple[tuple[type, str], ...]

HOOKS: Mapping[str, Owners] = {
    "start": ((DistributedCommunicator, "gather"), (Quorums, "join")),
    "local step": ((torch.optim.SGD, "step"),),
    "roll call": ((RollCall, "call"),),
    "inner exchange": ((Mailboxes, "rows"), (Mailboxes, "sections")),
    "outer exchange": ((Sockets, "rows"), (Sockets, "sections")),
    "overlapped round": ((TwoLevels, "weighted_mean"),),
    "checkpoint write": ((Writing, "_write"), (Writing, "_complete")),
    "joining": ((Giving, "give"),),
    "leaving": ((Engine, "leave"), (Engine, "_release")),
}
"""Phase -> the functions before or after whose calls a worker is killed."""

_BEGUN = Event()
"""Whether local steps have begun in this process."""


@dataclass(frozen=True, kw_only=True)
class Death:
    """When a worker dies.

    Args:
        phase: in which.
        call: before or after which call of its functions in this process, from 0.
        after: whether after it.
    """

    phase: str
    call: int
    after: bool


@dataclass(frozen=True, kw_only=True)
class Life:
    """What a worker is told.

    Args:
        worker: its number.
        place: "host:port" of the lighthouse of elastic workers, or the file where others meet.
        elastic: whether workers come and go.
        folder: for checkpoints.
        overlap_steps: of the Averager.
        seconds: how long a local step takes at least.
        death: when it dies, if it does.
    """

    worker: int
    place: str
    elastic: bool
    folder: Path
    overlap_steps: int = 0
    seconds: float = 0.0
    death: Death | None = None


def live(pipe: Connection, life: Life) -> None:
    """Trains to the end, to its death, or until the others are lost; says so."""
    begin()
    counts: Counter[str] = Counter()
    # What starts once is hooked for all; it also says how often each phase is met.
    for phase, owners in HOOKS.items():
        for owner, name in owners:
            setattr(owner, name, _deadly(getattr(owner, name), phase, counts, life, pipe))
    try:
        _train(pipe, life)
    except grawa.CommunicationError as error:
        pipe.send({"lost": str(error), "at": time.monotonic()})
    pipe.send({"counts": dict(counts)})


def _deadly(
    function: Callable[..., Any], phase: str, counts: Counter[str], life: Life, pipe: Connection
) -> Callable[..., Any]:
    death = life.death

    def called(*args: Any, **kwargs: Any) -> Any:
        if phase == "start" and _BEGUN.is_set():
            return function(*args, **kwargs)
        number = counts[phase]
        counts[phase] += 1
        dies = death is not None and (death.phase, death.call) == (phase, number)
        if dies and death is not None and not death.after:
            _die(pipe)
        found = function(*args, **kwargs)
        if dies:
            _die(pipe)
        return found

    return called


def _die(pipe: Connection) -> None:
    pipe.send({"dies": True, "at": time.monotonic()})
    os.kill(os.getpid(), signal.SIGKILL)


def _train(pipe: Connection, life: Life) -> None:
    torch.manual_seed(life.worker)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    draw = torch.Generator().manual_seed(life.worker)
    inputs = torch.randn(STEPS, 16, 8, dtype=torch.float64, generator=draw)
    made = 0

    def told(report: grawa.RoundReport) -> None:
        out = sorted(report.left_out)
        pipe.send({"round": report.round, "out": out, "made": made, "at": time.monotonic()})
        if report.round % SAVE_EVERY == 0:
            averager.save(life.folder, wait=False)

    options: dict[str, Any] = {}
    if life.elastic:
        options["elastic"] = grawa.Elastic(
            min_workers=2,
            lighthouse=life.place,
            worker=life.worker,
            num_workers=WORKERS,
            timeout=TIMEOUT,
        )
    else:
        dist.init_process_group("gloo", f"file://{life.place}", TIMEOUT, WORKERS, life.worker)
    averager = grawa.Averager(
        model,
        optimizer,
        grawa.LGRAWA(),
        sync_every=SYNC_EVERY,
        overlap_steps=life.overlap_steps,
        hosts=HOSTS,
        timeout=TIMEOUT,
        on_round=[told],
        **options,
    )
    averager.restore(life.folder, fall_back=True)
    pipe.send({"restored": averager.step})
    with averager:
        pipe.send({"joined": averager.step})
        _BEGUN.set()
        while averager.step < STEPS:
            step = averager.step
            optimizer.zero_grad()
            loss = (model(inputs[step]) - inputs[step].sum(1, keepdim=True).sin()).square().mean()
            loss.backward()
            averager.record_loss(loss)
            optimizer.step()
            made += 1
            time.sleep(life.seconds)
    values = torch.cat([p.detach().flatten() for p in model.parameters()])
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()
    pipe.send({"digest": digest, "made": made, "finite": bool(values.isfinite().all())})
