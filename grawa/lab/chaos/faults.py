"""How each kind of fault is made, and undone."""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

from grawa.checkpoints.places import being_written, checkpoints
from grawa.lab.chaos.clock_hook import put
from grawa.lab.chaos.hosts import Host
from grawa.lab.chaos.job import Job
from grawa.lab.chaos.plan import Planned
from grawa.lab.chaos.programs import send
from grawa.lab.train.asked import Asked, Requests

_BEYOND_SECONDS = 10.0
"""How much longer than the timeout a lasting cut of a link is."""

_FILL_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Arena:
    """What faults are done to.

    Attributes:
        job: the job.
        hosts: its hosts; none if it runs on this machine as it is.
        run: the folder with its checkpoints and record, as seen from here.
        saved: the folder with its checkpoints.
        clocks: for each host, the file that shifts its wall clock.
        requests: what workers are asked to do wrong; `None` if they can't be asked.
        timeout: of the job's messages, in seconds.
    """

    job: Job
    hosts: Sequence[Host]
    run: Path
    saved: Path
    clocks: Sequence[Path]
    requests: Requests | None
    timeout: float


@dataclass(kw_only=True)
class Struck:
    """A fault that has been made.

    Attributes:
        victim: who or what was hit, in words.
        ended: processes that the fault itself ended.
        undo: ends the fault; `None` if it has no end of its own.
        after: seconds until then; `None` for as soon as it was noticed.
        worker: the worker that should be left out of rounds, if that is how it is noticed.
    """

    victim: str
    ended: set[int] = field(default_factory=set)
    undo: Callable[[], None] | None = None
    after: float | None = None
    worker: int | None = None


class NotNowError(Exception):
    """The fault can't be made at this moment."""


def strike(planned: Planned, arena: Arena) -> Struck:
    """Makes a fault; `NotNowError` if whom it should hit is not there at this moment."""
    return _MAKERS[planned.kind](planned, arena)


def _kill(planned: Planned, arena: Arena) -> Struck:
    pid = _worker(planned, arena)
    send(pid, SIGKILL)
    return Struck(victim=f"worker {planned.worker}", ended={pid})


def _stop(planned: Planned, arena: Arena) -> Struck:
    pid = _worker(planned, arena)
    send(pid, SIGSTOP)
    if planned.lasting and not arena.job.launchers():
        return Struck(
            victim=f"worker {planned.worker}, then killed",  # nobody else would end it
            undo=lambda: send(pid, SIGKILL),
            after=arena.timeout + _BEYOND_SECONDS,
        )
    if planned.lasting:
        return Struck(victim=f"worker {planned.worker}, never continued")
    return Struck(
        victim=f"worker {planned.worker}, for {planned.seconds:.1f} s",
        undo=lambda: send(pid, SIGCONT),
        after=planned.seconds,
    )


def _launcher(planned: Planned, arena: Arena) -> Struck:
    pid = arena.job.launchers().get(planned.host)
    if pid is None:
        raise NotNowError
    send(pid, SIGKILL)
    return Struck(
        victim=f"launcher of host {planned.host}",
        ended={pid},
        undo=_unseen(arena.job),
        after=planned.seconds,
    )


def _host(planned: Planned, arena: Arena) -> Struck:
    workers = {worker.pid for worker in arena.job.workers().values() if worker.host == planned.host}
    launchers = {pid for host, pid in arena.job.launchers().items() if host == planned.host}
    if not workers:
        raise NotNowError
    arena.hosts[planned.host].kill()
    # Elastic workers are started again at once; and on one host there is nobody else to notice.
    undo = _unseen(arena.job) if launchers and len(arena.hosts) > 1 else None
    return Struck(victim=f"host {planned.host}", ended=launchers | workers, undo=undo)


def _unseen(job: Job) -> Callable[[], None]:
    """The scheduler sees nothing, so that the rest of the job must notice by itself.

    Returns:
        What makes it look again.
    """
    job.hold = True

    def look() -> None:
        job.hold = False

    return look


def _link(planned: Planned, arena: Arena) -> Struck:
    host = arena.hosts[planned.host]
    host.link(up=False)
    seconds = arena.timeout + _BEYOND_SECONDS if planned.lasting else planned.seconds
    return Struck(
        victim=f"link of host {planned.host}, for {seconds:.1f} s",
        undo=lambda: host.link(up=True),
        after=seconds,
    )


def _disk(planned: Planned, arena: Arena) -> Struck:
    """Fills the disk; the scheduler continues the job when it has been freed."""
    filler, look = arena.run.parent / "filler", _unseen(arena.job)
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(_FILL_BYTES)):
            pass

    def free() -> None:
        filler.unlink()
        look()

    return Struck(victim="the run's folder", undo=free)


def _checkpoint(planned: Planned, arena: Arena) -> Struck:
    """Flips a bit of the newest checkpoint, and kills a worker, so that it is needed."""
    pid = _worker(planned, arena)
    everyone = [worker.pid for worker in arena.job.workers().values()]
    for other in everyone:
        send(other, SIGSTOP)  # so that nobody begins a newer one before the kill
    try:
        own = arena.saved / f"worker-{planned.worker}"
        folder = own if own.is_dir() else arena.saved  # of elastic workers each has one
        damaged = _flip_bit(folder, random.Random(planned.draw))
        send(pid, SIGKILL)
    finally:
        for other in everyone:
            send(other, SIGCONT)
    return Struck(victim=f"{damaged}, worker {planned.worker}", ended={pid})


def _flip_bit(folder: Path, chance: random.Random) -> str:
    """Flips a random bit of the newest checkpoint in a folder; says in which file."""
    found = list(checkpoints(folder).values())
    if not found or being_written(folder):
        raise NotNowError
    sizes = {path: path.stat().st_size for path in sorted(found[-1].iterdir())}
    path = chance.choice([path for path, size in sizes.items() if size])
    bit = chance.randrange(8 * sizes[path])
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (old,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([old ^ 1 << bit % 8]))
    return f"{path.parent.name}/{path.name}"


def _nan(planned: Planned, arena: Arena) -> Struck:
    assert arena.requests is not None, "the kind is left out where nothing can be asked"
    arena.requests.ask(planned.worker, Asked.NAN)
    return Struck(victim=f"worker {planned.worker}", worker=planned.worker)


def _labels(planned: Planned, arena: Arena) -> Struck:
    requests = arena.requests
    assert requests is not None, "the kind is left out where nothing can be asked"
    requests.ask(planned.worker, Asked.WRONG_LABELS)
    return Struck(
        victim=f"worker {planned.worker}",
        undo=lambda: requests.ask(planned.worker, Asked.NOTHING),
        worker=planned.worker,
    )


def _clock(planned: Planned, arena: Arena) -> Struck:
    path = arena.clocks[planned.host]
    put(str(path), planned.jump)
    return Struck(
        victim=f"host {planned.host}, by {planned.jump:+,.0f} s for {planned.seconds:.1f} s",
        undo=lambda: put(str(path), 0.0),
        after=planned.seconds,
    )


def _worker(planned: Planned, arena: Arena) -> int:
    found = arena.job.workers().get(planned.worker)
    if found is None:
        raise NotNowError
    return found.pid


_MAKERS: dict[str, Callable[[Planned, Arena], Struck]] = {
    "kill": _kill,
    "stop": _stop,
    "launcher": _launcher,
    "host": _host,
    "link": _link,
    "disk": _disk,
    "checkpoint": _checkpoint,
    "nan": _nan,
    "labels": _labels,
    "clock": _clock,
}
