"""What kills cost: one of four workers is killed again and again, at random moments.

    python benchmarks/kills.py
    python benchmarks/kills.py --kills 5 --engines grawa

A job is undisturbed until its workers have begun; then, at random moments, a random worker is
killed with -9 and started again at once. Measured are how long rounds stood still, how soon the
worker that was started again took part, since the kill ("back") and since its program had begun
("joined"), the local steps that survivors made in vain, and the error at the end, beside that of an
undisturbed job.
"""

import argparse
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import grawa
from common import Spread, show, write_results

RESULTS = Path(__file__).parent / "results" / "kills.json"
WORKER = Path(__file__).with_name("kills_worker.py")
WORKERS, SECONDS_PER_STEP = 4, 0.01
PATIENCE_SECONDS = 60.0

Line = dict[str, Any]


class Job:
    """Four workers, whose lines are read as they come.

    Args:
        engine: "grawa" or "torchft".
        lighthouse: "host:port".
        steps: local steps of each.
    """

    def __init__(self, engine: str, lighthouse: str, steps: int) -> None:
        self._told = engine, lighthouse
        self._steps = steps
        self.lines: list[tuple[int, Line]] = []
        self._queue: Queue[tuple[int, Line]] = Queue()
        self.processes = {i: self.start(i) for i in range(WORKERS)}

    def start(self, worker: int) -> subprocess.Popen[str]:
        """Starts a worker."""
        numbers = map(str, (worker, WORKERS, self._steps, SECONDS_PER_STEP))
        process = subprocess.Popen(
            [sys.executable, str(WORKER), *self._told, *numbers],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        Thread(target=self._read, args=(worker, process), daemon=True).start()
        return process

    def _read(self, worker: int, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            if line.startswith("{"):
                self._queue.put((worker, json.loads(line)))

    def run(self, seconds: float) -> None:
        """Reads lines for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.lines.append(self._queue.get(timeout=left))
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
        for process in self.processes.values():
            process.kill()
            process.wait()


def killed(job: Job, worker: int) -> Line:
    """Kills a worker and starts it again; what that cost."""
    moment = time.monotonic()
    job.processes[worker].kill()
    job.processes[worker].wait()
    job.processes[worker] = job.start(worker)
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
        pairs = zip((*before, *after), after, strict=False)
        in_vain += sum(max(0, (b["made"] - a["made"]) - (b["step"] - a["step"])) for a, b in pairs)
    begun = [x["at"] for who, x in job.lines if who == worker and "begins" in x][-1]
    return {
        "stalled": max(stalls),
        "back": back - moment,
        "joined": back - begun,
        "in_vain": in_vain,
    }


def measure(engine: str, kills: int, steps: int, seed: int) -> Line:
    """A job with so many kills, to its end."""
    chance = random.Random(seed)
    costs: list[Line] = []
    with ExitStack() as stack:
        job = Job(engine, stack.enter_context(_lighthouse(engine)), steps)
        stack.callback(job.close)
        for worker in range(WORKERS):
            job.until(worker, 0.0)
        for i in range(kills):
            job.run(chance.uniform(0.2, 2.0))
            costs.append(killed(job, chance.randrange(WORKERS)))
            print(f"{engine}, kill {i + 1} of {kills}: {costs[-1]}", file=sys.stderr, flush=True)
        return {"kills": costs, "errors": job.errors()}


def _lighthouse(engine: str) -> Any:
    return grawa.lighthouse(grawa.Elastic(min_workers=2))


def row(engine: str, kills: int, found: Line) -> Sequence[str]:
    """A row of the table."""
    errors = f"{sum(found['errors']) / WORKERS:.2f}"
    if not found["kills"]:
        return [f"{engine}, undisturbed", *[""] * 5, errors]
    stalled = Spread.of([x["stalled"] for x in found["kills"]])
    back = max(x["back"] for x in found["kills"])
    joined = max(x["joined"] for x in found["kills"])
    worst = max(x["stalled"] for x in found["kills"])
    in_vain = str(sum(x["in_vain"] for x in found["kills"]))
    name = f"{engine}, {kills} kills"
    times = (stalled.median, worst, back, joined)
    return [name, *(f"{seconds:.1f}" for seconds in times), in_vain, errors]


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--engines", nargs="+", default=["grawa", "torchft"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    found: dict[str, Line] = {}
    rows = []
    for engine in args.engines:
        for kills in (args.kills, 0):
            name = f"{engine} {kills}"
            found[name] = measure(engine, kills, args.steps, args.seed)
            rows.append(row(engine, kills, found[name]))
    names = ["", "stalled, s", "at most", "back within", "joined within", "in vain", "error, %"]
    show("Kills of one of four workers", names, rows)
    environment = {"workers": WORKERS, "steps": args.steps, "seconds_per_step": SECONDS_PER_STEP}
    write_results(args.out, {"found": found}, environment)


if __name__ == "__main__":
    main()
