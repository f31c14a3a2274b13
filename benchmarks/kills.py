"""Measures what kills cost: one of four workers is killed again and again, at random moments.

A job is undisturbed until its workers have begun; then, at random moments, a random worker is
killed with -9 and started again at once: alone, with elastic workers of grawa and of torchft; or
with all others from the last checkpoint ("restart"), as `grawa train` and `torchrun --max-restarts`
do. Measured are how long rounds stood still, how soon the worker that was started again took part,
since the kill ("back") and since its program had begun ("joined"), the local steps that survivors
wasted, and the error at the end, beside that of an undisturbed job.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import grawa
from command import Benchmark, Results
from common import Spread, show
from grawa.errors import UserError
from samples import Sample, Samples

WORKER = "kills_worker"
PATH = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
WORKERS, SECONDS_PER_STEP = 4, 0.01
PATIENCE_SECONDS = 60.0

ENGINES = ("grawa", "torchft", "restart")

LAUNCH = """
import sys
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch import launch
command = Command("kills_worker", sys.argv[2:], ["grawa", "torch._dynamo"])
launch(command, int(sys.argv[1]), max_restarts=10_000)
"""

Line = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    kills: int = 20
    """Kills of a job."""
    steps: int = 12000
    """Local steps of each worker; enough for all kills, since the others train on meanwhile."""
    engines: tuple[str, ...] = ENGINES
    """Those that are compared."""
    seed: int = 0
    """Of the moments, and of who is killed."""


TOY = Config(kills=1, steps=600, engines=("grawa",))


class Job:
    """Four workers, whose lines are read as they come.

    Args:
        engine: one of `ENGINES`.
        place: "host:port" of the lighthouse; or the folder of the checkpoints.
        steps: local steps of each.
    """

    def __init__(self, engine: str, place: str, steps: int) -> None:
        numbers = map(str, (WORKERS, steps, SECONDS_PER_STEP))
        arguments = [engine, place, *numbers]
        self._command = ["-m", WORKER, *arguments]
        self.lines: list[tuple[int, Line]] = []
        self._queue: Queue[Line] = Queue()
        self._is_whole = engine == "restart"
        self._processes: dict[int, subprocess.Popen[str]] = {}
        if self._is_whole:
            self._start(0, ["-c", LAUNCH, str(WORKERS), *arguments])
        else:
            for worker in range(WORKERS):
                self._start(worker, self._command)

    def _start(self, number: int, command: list[str]) -> None:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"RANK": str(number), "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
        )
        self._processes[number] = process
        Thread(target=self._read, args=(process,), daemon=True).start()

    def kill(self, worker: int) -> None:
        """Kills a worker, which is started again: by the job if all are, else here."""
        if self._is_whole:
            pid = [line["pid"] for who, line in self.lines if who == worker][-1]
            os.kill(pid, signal.SIGKILL)
            return
        self._processes[worker].kill()
        self._processes[worker].wait()
        self._start(worker, self._command)

    def _read(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            if line.startswith("{"):
                self._queue.put(json.loads(line))

    def run(self, seconds: float) -> None:
        """Reads lines for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._queue.get(timeout=left)
                self.lines.append((line["worker"], line))
            except Empty:
                return

    def until(self, worker: int, since: float) -> Line:
        """The worker's next round after this moment in which it counts."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            for who, line in reversed(self.lines):
                counts = "round" in line and worker not in line.get("out", ())
                if counts and who == worker and line["at"] > since:
                    return line
            if any("error" in line for _, line in self.lines):
                raise RuntimeError("the job was over before the last kill: give it more --steps")
            self.run(0.05)
        raise TimeoutError(f"worker {worker} did not take part for {PATIENCE_SECONDS:.0f} s")

    def errors(self) -> list[float]:
        """The workers' errors at the end."""
        end = time.monotonic() + 5 * PATIENCE_SECONDS
        while time.monotonic() < end:
            found = [line["error"] for _, line in self.lines if "error" in line]
            if len(found) == WORKERS:
                return found
            self.run(0.2)
        raise TimeoutError("not all workers came to their end")

    def close(self) -> None:
        """Ends what is left."""
        for process in self._processes.values():
            process.kill()  # a launcher's processes die with it
            process.wait()


def killed(job: Job, worker: int) -> Line:
    """Kills a worker and starts it again; what that cost."""
    moment = time.monotonic()
    job.kill(worker)
    back = job.until(worker, moment)["at"]
    job.run(0.5)
    survivors = [i for i in range(WORKERS) if i != worker]
    stalls, in_vain = [], 0
    for survivor in survivors:
        rounds = [x for who, x in job.lines if who == survivor and "round" in x]
        before = [x for x in rounds if x["at"] <= moment][-1:]
        after = [x for x in rounds if moment < x["at"] <= back + 0.5]
        times = [x["at"] for x in (*before, *after)]
        stalls.append(max((b - a for a, b in itertools.pairwise(times)), default=0.0))
        in_vain += lost(job, survivor, before, after)
    begun = [x["at"] for who, x in job.lines if who == worker and "begins" in x][-1]
    return {
        "stalled": max(stalls),
        "back": back - moment,
        "joined": back - begun,
        "in_vain": in_vain,
    }


def lost(job: Job, survivor: int, before: Sequence[Line], after: Sequence[Line]) -> int:
    """Local steps of a survivor that no round has taken; as far as its rounds tell."""
    restored = [x["restored"] for who, x in job.lines if who == survivor and "restored" in x]
    if before and before[0]["pid"] != after[0]["pid"]:  # it was started again, too
        return max(0, int(before[0]["step"] - restored[-1]))
    pairs = zip((*before, *after), after, strict=False)
    return sum(max(0, (b["made"] - a["made"]) - (b["step"] - a["step"])) for a, b in pairs)


def measure(config: Config, samples: Samples) -> None:
    """A job with kills and an undisturbed one of each engine, to their ends."""
    for engine in config.engines:
        for kills in (config.kills, 0):
            _job(config, engine, kills, samples)


def _job(config: Config, engine: str, kills: int, samples: Samples) -> None:
    chance = random.Random(config.seed)
    with ExitStack() as stack:
        if engine == "restart":
            place = stack.enter_context(TemporaryDirectory())
        else:
            place = stack.enter_context(grawa.lighthouse(grawa.Elastic(min_workers=2)))
        job = Job(engine, place, config.steps)
        stack.callback(job.close)
        for worker in range(WORKERS):
            job.until(worker, 0.0)
        for i in range(kills):
            job.run(chance.uniform(0.2, 2.0))
            cost = killed(job, chance.randrange(WORKERS))
            samples.add(engine=engine, kill=i, **cost)
            print(f"{engine}, kill {i + 1} of {kills}: {cost}", file=sys.stderr, flush=True)
        samples.add(engine=engine, kills=kills, errors=job.errors())


def check(config: Config) -> None:
    """Refuses other engines."""
    unknown = set(config.engines) - set(ENGINES)
    if unknown:
        raise UserError(f"there is no engine {min(unknown)!r}; there are {', '.join(ENGINES)}")


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The costs of each engine's kills, and the errors at the end, with kills and without."""
    found: Results = {}
    for engine in config.engines:
        own = [sample for sample in samples if sample["engine"] == engine]
        found[engine] = {
            "kills": [sample for sample in own if "kill" in sample],
            "errors": {str(s["kills"]): s["errors"] for s in own if "errors" in s},
        }
    return {"workers": WORKERS, "seconds_per_step": SECONDS_PER_STEP, "found": found}


def display(config: Config, results: Results) -> None:
    """Prints a row for each engine."""
    rows = [_row(engine, found) for engine, found in results["found"].items()]
    names = ["", "stalled, s", "at most", "back, s", "at most", "joined, at most", "wasted"]
    ends = ["error, %", "undisturbed"]
    show("Kills of one of four workers", [*names, *ends], rows)


def _row(engine: str, found: Results) -> Sequence[str]:
    kills, errors = found["kills"], found["errors"]
    cells = [f"{engine}, {len(kills)} kills"]
    if kills:
        for name in ("stalled", "back"):
            times = [kill[name] for kill in kills]
            cells += [f"{Spread.of(times).median:.1f}", f"{max(times):.1f}"]
        cells.append(f"{max(kill['joined'] for kill in kills):.1f}")
        cells.append(str(sum(kill["in_vain"] for kill in kills)))
    else:
        cells += [""] * 6
    for count in (str(len(kills)), "0"):
        known = errors.get(count)
        cells.append("" if known is None else f"{sum(known) / WORKERS:.2f}")
    return cells


BENCHMARK = Benchmark(
    name="kills",
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
