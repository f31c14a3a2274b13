"""Two hundred faults: runs `grawa chaos` over several jobs, and sums up what came of each kind.

Each job is a command line of `grawa chaos`. It is run in a process of its own, and what it leaves
in results.json becomes a sample. Jobs on two hosts need root or namespaces of users.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from command import Benchmark, Results
from common import Spread, read_json, show
from grawa.errors import UserError
from grawa.lab.chaos.plan import KINDS
from samples import Sample, Samples

_TEXT = "text:model=transformer_small:context=32 --sync-every 8 --options batch_size=4 lr=0.3"
_COMPUTING_THE_SAME = ",".join(kind for kind in KINDS if kind not in {"nan", "labels"})

JOBS = (
    *(f"digits --seed {seed}" for seed in (0, 2, 3)),
    f"digits --seed 1 --kinds {_COMPUTING_THE_SAME}",
    *(f"{_TEXT} --seed {seed}" for seed in (0, 1, 2)),
    "digits --hosts 1 --seed 5",
    f"{_TEXT} --hosts 1 --seed 6",
    "digits --elastic --min-workers 2 --faults 12 --seed 4",
    f"{_TEXT} --elastic --min-workers 2 --faults 12 --seed 7",
)
"""Command lines of `grawa chaos`: 204 faults."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    jobs: tuple[str, ...] = JOBS
    """Command lines of `grawa chaos`, without --out."""


TOY = Config(jobs=("digits --hosts 1 --workers 2 --faults 1 --kinds kill --steps 1600",))


def measure(config: Config, samples: Samples) -> None:
    """Runs the jobs of which there is no sample yet."""
    _, found, _ = samples.read()
    there = {sample["job"] for sample in found}
    for job in config.jobs:
        if job not in there:
            print(f"grawa chaos {job}", file=sys.stderr, flush=True)
            samples.add(job=job, **played(job))


def played(job: str) -> dict[str, Any]:
    """What came of a job."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        words = ["-m", "grawa", "chaos", *shlex.split(job), "--out", str(out)]
        subprocess.run([sys.executable, *words], check=False, stdout=sys.stderr)
        left = read_json(out / "results.json")
    if not left:
        raise UserError(f"`grawa chaos {job}` has left no results: its last line says why")
    return {"seconds": time.monotonic() - start, "load": os.getloadavg()[2], **digest(left)}


def digest(left: Results) -> dict[str, Any]:
    """What is kept of a job's results.json."""
    ends = {name: left[name] for name in ("undisturbed", "disturbed")}
    return {
        "commit": left["environment"]["git"],
        "hosts": left["hosts"],
        "elastic": left["asked"]["elastic"],
        "timeout": left["timeout"],
        "metric": left["metric"],
        "noise": left["noise"],
        "exact": left["exact"],
        "rounds": len(ends["disturbed"]["rounds"]),
        "errors": {name: end["error"] for name, end in ends.items()},
        "same_bits": len({end["digest"] for end in ends.values()}) == 1,
        "broken": left["broken"],
        "outcomes": left["outcomes"],
    }


def resume(
    config: Config, earlier: Config, samples: Sequence[Sample]
) -> tuple[Config, Sequence[Sample]]:
    """Keeps the samples of all jobs that are asked for."""
    return config, [sample for sample in samples if sample["job"] in config.jobs]


def merge(config: Config, samples: Sequence[Sample]) -> Results:
    """The jobs; and arrangement -> kind -> what came of its faults."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for sample in samples:
        kinds = found.setdefault(arrangement(sample), {})
        for outcome in sample["outcomes"]:
            kinds.setdefault(_kind(outcome, sample["timeout"]), []).append(outcome)
    sums = {
        name: {kind: _sums(kinds[kind]) for kind in sorted(kinds)} for name, kinds in found.items()
    }
    jobs = [{k: v for k, v in s.items() if k != "outcomes"} for s in samples]
    for job, sample in zip(jobs, samples, strict=True):
        job["faults"] = len(sample["outcomes"])
    return {"jobs": jobs, "faults": sum(job["faults"] for job in jobs), "found": sums}


def arrangement(sample: Sample) -> str:
    """How a job's workers were arranged."""
    hosts = f"{sample['hosts']} host{'s' if sample['hosts'] > 1 else ''}"
    return f"elastic, {hosts}" if sample["elastic"] else hosts


def _kind(outcome: Sample, timeout: float) -> str:
    """The kind of a fault, apart by whether it lasts longer than the timeout."""
    kind, victim = outcome["kind"], outcome["victim"]
    if kind == "stop":
        for_good = "never" in victim or "killed" in victim  # an elastic worker is killed then
        return "stop, for good" if for_good else "stop, for 1 to 5 s"
    if kind == "link":
        lasts = float(re.findall(r"for ([\d.]+) s", victim)[0])
        return "link, longer than the timeout" if lasts > timeout else "link, for 1 to 5 s"
    return str(kind)


def _sums(outcomes: Sequence[Sample]) -> dict[str, Any]:
    """Number, and median and most of what was measured; nothing of what need not be noticed."""
    sums: dict[str, Any] = {"faults": len(outcomes)}
    for name in ("noticed_seconds", "recovered_seconds", "steps_lost"):
        values = [outcome[name] for outcome in outcomes if outcome[name] is not None]
        sums[name] = [Spread.of(values).median, max(values)] if values else None
    return sums


def display(config: Config, results: Results) -> None:
    """Prints a table of the jobs, and one for each arrangement."""
    jobs = list(enumerate(results["jobs"], start=1))
    for number, job in jobs:
        print(f"{number}: grawa chaos {job['job']}")
    names = ["", "hosts", "faults", "rounds", "error", "undisturbed", "noise", "same bits", "min"]
    show("Jobs", names, [[str(number), *_job(job)] for number, job in jobs])
    for name, kinds in results["found"].items():
        rows = [[kind, str(sums["faults"]), *_cells(sums)] for kind, sums in kinds.items()]
        heads = ["faults", "noticed, s", "most", "recovered, s", "most", "steps lost", "most"]
        show(name, ["kind", *heads], rows)
    wrong = [(job["job"], text) for job in results["jobs"] for text in job["broken"]]
    print(f"{results['faults']} faults, {len(wrong)} violations of what must hold")
    for job, text in wrong:
        print(f"grawa chaos {job}: {text}")


def _job(job: Sample) -> list[str]:
    def valued(value: float | None) -> str:
        if value is None:
            return "none"
        return f"{value:.2%}" if job["metric"].endswith("error") else f"{value:.3f}"

    errors = (job["errors"]["disturbed"], job["errors"]["undisturbed"], job["noise"])
    ends = [valued(error) for error in errors]
    minutes = f"{job['seconds'] / 60.0:.0f}"
    counts = [str(job[name]) for name in ("hosts", "faults", "rounds")]
    return [*counts, *ends, "yes" if job["same_bits"] else "no", minutes]


def _cells(sums: dict[str, Any]) -> Iterator[str]:
    for name, form in (("noticed", ".1f"), ("recovered", ".1f"), ("lost", ",.0f")):
        pair = sums["steps_lost" if name == "lost" else f"{name}_seconds"]
        yield from ("-", "-") if pair is None else (f"{value:{form}}" for value in pair)


BENCHMARK = Benchmark(
    name="chaos_runs",
    text=__doc__,
    takes="one and a half hours",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=display,
    resume=resume,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
