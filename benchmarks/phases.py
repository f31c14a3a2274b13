"""Kills one of four workers, in two hosts, in each phase of training, and sees how the job ends.

In every trial one worker dies by SIGKILL, before or after a random call of the functions that a
phase consists of. A job is either started again as a whole from its last checkpoint ("restart"),
when its survivors have noticed; it must end with the bits of an undisturbed one. Or its workers
come and go ("elastic"): the dead one is started again at once, and the others must go on within the
timeout and 5 s, and waste no local step. In the phase "joining" a worker has died before and
is given the state, when it or one of those that give it dies.
"""

import itertools
import random
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grawa
from command import Benchmark, Results
from common import Spread, show
from grawa.errors import UserError
from phases_worker import HOOKS, SAVE_EVERY, STEPS, SYNC_EVERY, TIMEOUT, WORKERS, Death, Life, live
from processes import fresh_processes
from samples import Sample, Samples

PATIENCE_SECONDS = 60.0
LIMIT_SECONDS = TIMEOUT.total_seconds() + 5.0
ELASTIC_SECONDS = 0.05
"""Of a local step of elastic workers, so that some are left when the dead one is back."""

MODES = ("restart", "elastic")
Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    kills: int = 20
    """Kills in each phase."""
    modes: tuple[str, ...] = MODES
    """How jobs go on."""
    phases: tuple[str, ...] = tuple(HOOKS)
    """In which workers die; "joining" is for elastic ones only."""
    seed: int = 0
    """Of who dies, and when."""


TOY = Config(kills=1, modes=("restart",), phases=("roll call",))


class Job:
    """Workers in processes of their own, and what they have said.

    Args:
        life: of every worker, but for its number.
        deaths: worker -> when it dies.
    """

    def __init__(self, life: Life, deaths: dict[int, Death]) -> None:
        self._life = life
        self.said: dict[int, list[Line]] = {i: [] for i in range(WORKERS)}
        self._pipes: dict[Connection, int] = {}
        self._processes: dict[int, ForkServerProcess] = {}
        for worker in range(WORKERS):
            self.start(worker, deaths.get(worker))

    def start(self, worker: int, death: Death | None = None) -> None:
        """Starts a worker, again perhaps."""
        context = fresh_processes()
        own, its = context.Pipe()
        life = replace(self._life, worker=worker, death=death)
        process = context.Process(target=live, args=(its, life), daemon=True)
        process.start()
        its.close()
        self._pipes[own], self._processes[worker] = worker, process

    def look(self, seconds: float) -> list[int]:
        """Reads what is said for so long at most.

        Returns:
            Those whose process has ended.
        """
        ended = []
        for pipe in wait(list(self._pipes), seconds):
            assert isinstance(pipe, Connection)
            worker = self._pipes[pipe]
            try:
                self.said[worker].append(pipe.recv())
            except EOFError:
                del self._pipes[pipe]
                self._processes[worker].join()
                ended.append(worker)
        return ended

    def last(self, worker: int, name: str) -> Any:
        """The last value of this name that a worker has said; `None` if there is none."""
        found = [line[name] for line in self.said[worker] if name in line]
        return found[-1] if found else None

    @property
    def is_over(self) -> bool:
        """Whether all processes have ended."""
        return not self._pipes

    def end(self) -> None:
        """Ends what is left."""
        for process in self._processes.values():
            process.kill()
            process.join()


@contextmanager
def running(life: Life, deaths: dict[int, Death]) -> Generator[Job]:
    """A job, which is over afterwards."""
    job = Job(life, deaths)
    try:
        yield job
    finally:
        job.end()


def until_over(job: Job) -> None:
    """Waits until all have ended."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not job.is_over:
        job.look(1.0)
        if time.monotonic() > end:
            raise TimeoutError(f"hangs: {job.said}")


def digests(job: Job) -> list[str]:
    """Of all workers' final parameters."""
    found = [job.last(worker, "digest") for worker in range(WORKERS)]
    if None in found:
        raise RuntimeError(f"not all came to their end: {job.said}")
    return found


def restarted(life: Life, death: Death, victim: int, whole: list[str]) -> Line:
    """A job that is started again from its checkpoints; what the kill has cost."""
    with running(life, {victim: death}) as job:
        until_over(job)
        at = job.last(victim, "at") if job.last(victim, "dies") else None
        if at is None:
            raise RuntimeError(f"nobody died: {death}, {job.said}")
        lost = [job.last(w, "at") - at for w in job.said if job.last(w, "lost")]
        rounds = max(job.last(w, "round") or 0 for w in job.said)
    with running(replace(life, place=f"{life.place}-again"), {}) as again:
        until_over(again)
        step = again.last(0, "restored")
        return {
            "noticed": max(lost, default=0.0),
            "steps_lost": rounds * SYNC_EVERY - step,
            "same": digests(again) == whole,
        }


def elastic(life: Life, death: Death, victim: int) -> Line:
    """A job whose workers come and go; what the kill has cost."""
    first = {}
    if death.phase == "joining":  # somebody must have died before, to join
        joiner = (victim + death.call) % WORKERS
        first = {joiner: Death(phase="local step", call=2 * SYNC_EVERY, after=True)}
        death = replace(death, call=0)
    deaths = {**{victim: death}, **first}
    with running(life, deaths) as job:
        end = time.monotonic() + PATIENCE_SECONDS
        back: list[int] = []
        while not job.is_over:
            for worker in job.look(1.0):
                done = any(job.last(w, "digest") for w in job.said)
                if job.last(worker, "digest") is None and not done:
                    back.append(worker)
                    job.start(worker, death if worker in first and worker == victim else None)
                    first.pop(worker, None)
            ended = [w for w in job.said if job.last(w, "counts")]
            if len(ended) == WORKERS - 1 and set(job.said) - set(ended) <= set(back):
                break  # one that was started again when the others were about to end is alone
            if time.monotonic() > end:
                raise TimeoutError(f"hangs: {job.said}")
        if not back and death.phase != "leaving":
            raise RuntimeError(f"nobody died: {death}, {job.said}")
        survivors = [w for w in job.said if not job.last(w, "dies")]
        return {
            "stalled": max(_stall(job.said[w]) for w in survivors),
            "in_vain": sum(max(0, job.last(w, "made") - STEPS) for w in survivors),
            "ended": all(job.last(w, "finite") for w in survivors),
            "back": len(back),
        }


def _stall(lines: Sequence[Line]) -> float:
    """The longest time between two rounds of a worker."""
    times = [line["at"] for line in lines if "round" in line]
    return max((b - a for a, b in itertools.pairwise(times)), default=0.0)


def measure(config: Config, samples: Samples) -> None:
    """All trials."""
    chance = random.Random(config.seed)
    for mode, phase in itertools.product(config.modes, config.phases):
        if (mode, phase) == ("restart", "joining"):
            continue
        counts, whole = _undisturbed(mode, phase)
        for kill in range(config.kills):
            victim = chance.randrange(WORKERS)
            calls = WORKERS if phase == "joining" else counts[victim]
            death = Death(phase=phase, call=chance.randrange(calls), after=chance.random() < 0.5)
            with _life(mode, phase) as life:
                if mode == "restart":
                    cost = restarted(life, death, victim, whole)
                else:
                    cost = elastic(life, death, victim)
            about = {"mode": mode, "phase": phase, "kill": kill, "victim": victim}
            samples.add(**about, call=death.call, after=death.after, **cost)
            print(f"{mode}, {phase}, kill {kill + 1}: {cost}", file=sys.stderr, flush=True)


def _undisturbed(mode: str, phase: str) -> tuple[list[int], list[str]]:
    """How often each worker meets a phase, and how they end."""
    with _life(mode, phase) as life, running(life, {}) as job:
        until_over(job)
        counts = [job.last(w, "counts").get(phase, 0) for w in job.said]
        return counts, digests(job)


@contextmanager
def _life(mode: str, phase: str) -> Generator[Life]:
    overlap = 2 if phase == "overlapped round" else 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        life = Life(
            worker=0,
            place=str(folder / "meet"),
            elastic=mode == "elastic",
            folder=folder / "checkpoints",
            overlap_steps=overlap,
            seconds=ELASTIC_SECONDS if mode == "elastic" else 0.0,
        )
        if mode == "restart":
            yield life
            return
        with grawa.lighthouse(grawa.Elastic(min_workers=2)) as at:
            yield replace(life, place=at)


def check(config: Config) -> None:
    """Refuses other modes and phases."""
    for kind, asked, known in (("mode", config.modes, MODES), ("phase", config.phases, HOOKS)):
        if unknown := set(asked) - set(known):
            raise UserError(f"there is no {kind} {min(unknown)!r}; there are {', '.join(known)}")


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The trials of each mode and phase."""
    found: Results = {}
    for sample in samples:
        found.setdefault(sample["mode"], {}).setdefault(sample["phase"], []).append(sample)
    about = {"workers": WORKERS, "steps": STEPS, "sync_every": SYNC_EVERY, "save_every": SAVE_EVERY}
    return {**about, "timeout": TIMEOUT.total_seconds(), "found": found}


def display(config: Config, results: Results) -> None:
    """Prints a table for each mode."""
    found = results["found"]
    rows = [
        [
            phase,
            str(len(trials)),
            str(sum(trial["same"] for trial in trials)),
            *_spread([trial["noticed"] for trial in trials]),
            f"{max(trial['steps_lost'] for trial in trials)}",
        ]
        for phase, trials in found.get("restart", {}).items()
    ]
    names = ["phase", "kills", "same bits", "noticed, s", "at most", "steps lost, at most"]
    show("Started again from the last checkpoint", names, rows)
    rows = [
        [
            phase,
            str(len(trials)),
            str(sum(trial["ended"] for trial in trials)),
            *_spread([trial["stalled"] for trial in trials]),
            str(sum(trial["stalled"] > LIMIT_SECONDS for trial in trials)),
            str(sum(trial["in_vain"] for trial in trials)),
        ]
        for phase, trials in found.get("elastic", {}).items()
    ]
    names = ["phase", "kills", "ended", "stalled, s", "at most", "over limit", "steps wasted"]
    show("Workers that come and go", names, rows)


def _spread(values: Sequence[float]) -> list[str]:
    return [f"{Spread.of(values).median:.2f}", f"{max(values):.2f}"]


BENCHMARK = Benchmark(
    name="phases",
    text=__doc__,
    takes="half an hour",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=display,
    check=check,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
