"""Training over a real slow network: four hosts, made of network namespaces on a bridge.

Run `python benchmarks/network.py` as root on Linux with iproute2; `--help` tells the options. Each
host has one process and a link of the given rate to the bridge, in each direction, by a token
bucket (`tc tbf`). Latency can't be shaped so: it is that of the machine, some tens of
microseconds. All hosts share the machine's cores, as they do without communication.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.progress import track

from common import show, verdict, write_results
from network_methods import ALL_REDUCE, DDP, METHODS, NO_COMMUNICATION, PLAN
from network_worker import Task
from pictures import network_picture

HOSTS = 4
PORT = 29_700
BURST = "1mb"
"""Of the token bucket; smaller ones throttle: at 256 kB TCP gets but 94% of 100 Mbit/s."""

BITS = {"1gbit": 1e9, "100mbit": 1e8, "20mbit": 2e7}

TARGETS = (
    ("100mbit", "LGRAWA, overlap", NO_COMMUNICATION, 0.95),
    ("100mbit", "LGRAWA, overlap", DDP, 20.0),
    ("20mbit", "LGRAWA, int8, overlap", NO_COMMUNICATION, 0.90),
)
"""At this rate, this method, against that one, at least so many times the samples per second."""

ROUNDS = (("1gbit", "LGRAWA"), ("1gbit", ALL_REDUCE), ("100mbit", "LGRAWA"))
"""At this rate, the time of a round of this method is judged."""

ROUND_TARGET = 0.95
"""Of the link's own limit, at 100 Mbit/s, for a blocking float32 round of LGRAWA: the time in
which the link can carry what the round sends, headers and all."""

SETUP_FAILED = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured."""

    rates: tuple[str, ...] = ("1gbit", "100mbit", "20mbit")
    """Of the links, as tc writes them. What the output holds of other rates is kept."""
    methods: tuple[str, ...] = ()
    """Which; all by default."""
    sync_every: int = 32
    """Local steps between rounds."""
    cycles: int = 2
    """Of so many steps each, that are timed after one that is not."""
    repeat: int = 3
    """Runs of a method that a target is about, else one; the one in the middle is shown."""
    batch: int = 96
    """Samples per step and host."""
    output: Path = Path("benchmarks/results/network.json")
    """Where everything goes; the picture beside it."""


def main(config: Config) -> None:
    """Measures, writes and prints."""
    _check_machine()
    results = _earlier(config)
    with tempfile.TemporaryDirectory() as folder, hosts() as names:
        for rate in config.rates:
            _shape(names, rate)
            wanted = config.methods or tuple(METHODS)
            plan = _on_hosts(PLAN, rate, names, config, Path(folder))
            results["planned"][rate] = plan if isinstance(plan, str) else plan[0]
            results["found"][rate] = {
                method: _measured(method, rate, names, config, Path(folder))
                for method in track(wanted, f"{rate:8}")
            }
            write_results(config.output, results)
    found, plans = results["found"], results["planned"]
    for rate, methods in found.items():
        _show(rate, methods, plans[rate])
    _judge(found, plans)
    picture = config.output.with_suffix(".png")
    network_picture(found, picture)
    print(f"all figures are in {config.output}, the picture is {picture}")


def _earlier(config: Config) -> dict[str, Any]:
    """What is to be written, with what an earlier run of the same kind found at other rates."""
    asked = {**asdict(config), "output": str(config.output)}
    del asked["rates"]
    if config.output.exists():
        before: dict[str, Any] = json.loads(config.output.read_text(encoding="utf-8"))
        if before["config"] == json.loads(json.dumps(asked)):
            return {key: before[key] for key in ("config", "found", "planned")}
    return {"config": asked, "found": {}, "planned": {}}


def _check_machine() -> None:
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        why = f"{' and '.join(missing)} (iproute2)" if missing else "root's rights"
        print(
            f"benchmarks/network.py needs {why} to make hosts of network namespaces; nothing was "
            "measured",
            file=sys.stderr,
        )
        sys.exit(SETUP_FAILED)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{' '.join(command)}: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(SETUP_FAILED)


@contextmanager
def hosts() -> Generator[list[str]]:
    """Four namespaces, each with a link to a bridge in one of its own; gone at the end."""
    tag = f"gw{os.getpid() % 10_000}"
    bridge = f"{tag}b"
    with ExitStack() as undo:
        for name in (bridge, *(f"{tag}h{i}" for i in range(HOSTS))):
            _run("ip", "netns", "add", name)
            undo.callback(_run, "ip", "netns", "del", name)
        _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "br0", "up")
        for i in range(HOSTS):
            host = f"{tag}h{i}"
            far = f"{tag}p{i}"
            _run("ip", "link", "add", far, "type", "veth", "peer", "name", "eth0", "netns", host)
            _run("ip", "link", "set", far, "netns", bridge)
            _run("ip", "-n", bridge, "link", "set", far, "master", "br0", "up")
            _run("ip", "-n", host, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
            _run("ip", "-n", host, "link", "set", "eth0", "up")
            _run("ip", "-n", host, "link", "set", "lo", "up")
        yield [f"{tag}h{i}" for i in range(HOSTS)]


def _shape(names: list[str], rate: str) -> None:
    """Limits what a host sends at its own end, and what it receives at the bridge's."""
    bridge = names[0][:-2] + "b"
    bucket = ("root", "tbf", "rate", rate, "burst", BURST, "latency", "400ms")
    for i, host in enumerate(names):
        far = host[:-2] + f"p{i}"
        _run("tc", "-n", host, "qdisc", "replace", "dev", "eth0", *bucket)
        _run("tc", "-n", bridge, "qdisc", "replace", "dev", far, *bucket)


def _measured(
    method: str, rate: str, names: list[str], config: Config, folder: Path
) -> dict[str, Any]:
    """One method over links of this rate, as often as asked: the run in the middle."""
    repeat = config.repeat if _is_judged(method, rate) else 1
    runs = [_on_hosts(method, rate, names, config, folder) for _ in range(repeat)]
    errors = [run for run in runs if isinstance(run, str)]
    if errors:
        return {"failed": errors[0]}
    merged = [_merge(run) for run in runs if not isinstance(run, str)]
    merged.sort(key=lambda run: run["share_of_limit"])
    shares = [run["share_of_limit"] for run in merged]
    return {**merged[len(merged) // 2], "shares_of_limit": shares}


def _is_judged(method: str, rate: str) -> bool:
    pairs = any(rate == at and method in (this, that) for at, this, that, _ in TARGETS)
    return pairs or (rate, method) in ROUNDS


def _on_hosts(
    method: str, rate: str, names: list[str], config: Config, folder: Path
) -> list[dict[str, Any]] | str:
    """One run on all hosts: what each found, or the first error."""
    global PORT
    PORT += 1
    task = Task(
        method=method,
        port=PORT,
        hosts=HOSTS,
        sync_every=config.sync_every,
        cycles=config.cycles,
        batch=config.batch,
        slow=BITS.get(rate, 1e8) < 5e8,
        output=str(folder / f"{method}-{rate}.json".replace(" ", "_").replace("/", "_")),
    )
    processes = [
        subprocess.Popen(
            [
                *("ip", "netns", "exec", name, sys.executable, "benchmarks/network_worker.py"),
                json.dumps(asdict(task)),
                str(rank),
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(names)
    ]
    errors = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        return next(e for p, e in zip(processes, errors, strict=True) if p.returncode)
    found: list[dict[str, Any]] = json.loads(Path(task.output).read_text(encoding="utf-8"))
    return found


def _merge(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples of all hosts in the time of the slowest; bytes of a host, on average."""
    seconds = max(rank["seconds"] for rank in ranks)
    step = seconds / ranks[0]["steps"]
    return {
        "share_of_limit": max(rank["plain_step_seconds"] for rank in ranks) / step,
        "samples_per_second": sum(rank["samples"] for rank in ranks) / seconds,
        "bytes_per_step": statistics.mean(rank["wire_bytes"] / rank["steps"] for rank in ranks),
        "round_seconds": max(rank["round_seconds"] for rank in ranks),
        "steps_per_round": ranks[0]["steps"] / max(1, ranks[0]["rounds"]),
        "exposed_seconds": max(rank["exposed_seconds"] for rank in ranks),
        "step_seconds": step,
    }


def _show(rate: str, methods: Mapping[str, Mapping[str, Any]], plan: Any) -> None:
    foreseen = {} if isinstance(plan, str) else plan["shares"]
    rows = []
    for method, found in methods.items():
        if "failed" in found:
            rows.append([method, "failed", "", "", "", "", ""])
            continue
        rows.append([
            method,
            f"{found['samples_per_second']:.0f}",
            f"{found['share_of_limit']:.1%}",
            f"{foreseen[method]:.1%}" if method in foreseen else "",
            f"{found['bytes_per_step'] / 1e6:.2f}",
            f"{found['round_seconds']:.2f}" if found["round_seconds"] else "",
            f"{found['exposed_seconds']:.2f}" if found["round_seconds"] else "",
        ])
    columns = [
        "method",
        "samples/s",
        "of the limit",
        "planned",
        "MB sent a step",
        "round s",
        "held up s",
    ]
    show(f"Four hosts, links of {rate}", columns, rows)
    print(
        "of the limit: the time of a step without communication, measured before and after in the "
        "same processes,\nover that of a step with it, rounds included;\n"
        "planned: what the planner foresees of it."
    )
    if isinstance(plan, str):
        print(f"the planner failed: {plan.strip().splitlines()[-1]}")
    else:
        rate_found, latency = plan["bandwidth"] * 8e-6, plan["latency"] * 1e3
        print(f"the planner found {rate_found:.1f} Mbit/s and {latency:.2f} ms")
    for method, found in methods.items():
        if "failed" in found:
            print(f"{method} failed: {found['failed'].strip().splitlines()[-1]}")


def _judge(found: Mapping[str, Mapping[str, Mapping[str, Any]]], plans: Mapping[str, Any]) -> None:
    for rate, method, against, least in TARGETS:
        pair = [found.get(rate, {}).get(name, {}) for name in (method, against)]
        if all("share_of_limit" in one for one in pair):
            ratio = pair[0]["share_of_limit"] / pair[1]["share_of_limit"]
            met = "meets" if ratio >= least else "MISSES"
            print(f"{rate}: {method} / {against}: {ratio:.3f} {met} the target of at least {least}")
    for rate, plan in plans.items():
        pairs = [
            (share, found[rate][method]["share_of_limit"], method)
            for method, share in ({} if isinstance(plan, str) else plan["shares"]).items()
            if "share_of_limit" in found[rate].get(method, {})
        ]
        if pairs:
            off, method = max((abs(planned / real - 1), method) for planned, real, method in pairs)
            print(verdict(f"{rate}: worst prediction of the planner, {method}, off by", off, 0.15))
    fast = found.get("1gbit", {})
    if all(fast.get(name, {}).get("round_seconds") for name in ("LGRAWA", ALL_REDUCE)):
        ratio = fast["LGRAWA"]["round_seconds"] / fast[ALL_REDUCE]["round_seconds"]
        print(verdict("1gbit: a blocking round of LGRAWA over a bare all-reduce", ratio, 1.05))
    blocking = found.get("100mbit", {}).get("LGRAWA", {})
    if "round_seconds" in blocking:
        limit = blocking["bytes_per_step"] * blocking["steps_per_round"] / (BITS["100mbit"] / 8)
        share = limit / blocking["round_seconds"]
        met = "meets" if share >= ROUND_TARGET else "MISSES"
        print(
            f"100mbit: a blocking round of LGRAWA goes at {share:.3f} of the link's limit, headers "
            f"counted ({met} the target of at least {ROUND_TARGET})"
        )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
