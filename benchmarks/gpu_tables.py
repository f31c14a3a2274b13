"""The tables of `gpu.py`, and whether its targets are met."""

from collections.abc import Mapping
from typing import Any

from command import Results
from common import Spread, ratios, show, verdict
from gpu_config import Config
from gpu_rounds import BANDWIDTH
from gpu_steps import BARE

CARDS = "H100", "H200"
"""The cards for which there are targets in milliseconds."""

MOST_MS = {1: 2.0, 4: 4.5}
"""Most milliseconds of a round, by the number of hosted workers."""

MOST_KERNELS = 2.5
"""Most time of a round, in that of its kernels."""

MOST_STEP = 1.005
"""Most time of an attached local step, in that of a bare one."""

STAGES = {
    "take": ("state_dict()", "a copy of the parameters"),
    "write": ("torch.save", "of the parameters"),
    "read": ("torch.load", "of the parameters"),
    "give": ("load_state_dict()", "of the parameters"),
    "first round": ("the first round after", "a usual round"),
}
"""Stage of resuming -> what it is, and with what it is compared."""


def tables(config: Config, results: Results) -> None:
    """Prints a table for each part, what has failed, and whether targets are met."""
    parts, card = results["parts"], results["card"]
    print(f"on {card}")
    rounds = dict(parts.get("round", {}))
    bandwidth = rounds.pop(BANDWIDTH, {}).get("bytes_per_second")
    _rounds(rounds, bandwidth)
    _steps(config, parts.get("step", {}))
    _stacked(config, parts.get("stacked", {}))
    _resume(parts.get("resume", {}))
    for what, why in results["failed"].items():
        print(f"FAILED {what}: {why}")
    _judge_rounds(card, rounds)
    _judge_steps(card, parts.get("step", {}))


def limit_seconds(found: Mapping[str, Any], bytes_per_second: float) -> float:
    """How long the memory takes for what a round must read and write."""
    return float(found["passes"] * found["bytes"] / bytes_per_second)


def _rounds(found: Mapping[str, Mapping[str, Any]], bandwidth: float | None) -> None:
    rows = []
    for one in found.values():
        seconds, activity = Spread.of(one["seconds"]), one["activity"]
        kernels = activity.get("kernel_seconds")
        rows.append([
            one["method"],
            str(one["workers"]),
            f"{seconds.median * 1e3:.2f}",
            f"{seconds.low * 1e3:.2f} - {seconds.high * 1e3:.2f}",
            f"{kernels * 1e3:.2f}" if kernels is not None else "",
            f"{limit_seconds(one, bandwidth) * 1e3:.2f}" if bandwidth else "",
            str(activity["operators"]),
            *(str(activity.get(name, "")) for name in ("kernels", "copies", "waits")),
        ])
    columns = ["round of", "workers", "ms", "quartiles", "kernels' ms", "limit ms", "ops"]
    size = next((one["bytes"] // 4 for one in found.values()), 0)
    show(
        f"Blocking rounds, {size:,} float32 parameters",
        [*columns, "kernels", "copies", "waits"],
        rows,
    )
    if bandwidth:
        print(
            f"limit: to move the bytes at {bandwidth / 1e12:.3f} TB/s, as a large copy does. A "
            "round reads each worker for the guard's\nnorm and again for the mean, writes the "
            "center, reads both for the pull, and writes each worker."
        )
    if rows:
        print(
            "ops: operators of torch that the host calls, views too. copies: between host and GPU. "
            "waits: of the host for the GPU."
        )


def _steps(config: Config, found: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [model, name, f"{Spread.of(own).median * 1e3:.2f}", *_ratio(own, one["seconds"][BARE])]
        for model, one in found.items()
        for name, own in one["seconds"].items()
    ]
    dtype = next((one["dtype"] for one in found.values()), "")
    context = config.transformer[0]
    show(
        f"Local steps, {dtype}: {config.texts} x {context:,} symbols, {config.images} images",
        ["local step", "attached", "median ms", "ratio", "quartiles"],
        rows,
    )


def _ratio(own: list[float], bare: list[float]) -> list[str]:
    ratio = ratios(own, bare)
    return [f"{ratio.median:.3f}", f"{ratio.low:.3f} - {ratio.high:.3f}"]


def _stacked(config: Config, found: Mapping[str, Mapping[str, Any]]) -> None:
    looped = found.get("looped", {}).get("seconds")
    show(
        f"{config.fleet} workers of digits, {config.fleet_steps} local steps of each",
        ["workers", "s", "ratio to looped"],
        [
            [name, f"{one['seconds']:.2f}", f"{one['seconds'] / looped:.3f}" if looped else ""]
            for name, one in found.items()
        ],
    )


def _resume(found: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [
        [
            f"{method}: {what}",
            f"{one['seconds'][stage] * 1e3:.1f}",
            other,
            f"{one['of_model'][stage] * 1e3:.1f}",
            f"{one['seconds'][stage] / one['of_model'][stage]:.2f}",
        ]
        for method, one in found.items()
        for stage, (what, other) in STAGES.items()
    ]
    sizes = ", ".join(f"{method} {one['bytes'] / 1e6:.0f} MB" for method, one in found.items())
    show(
        f"Resuming an Averager of one worker ({sizes})",
        ["resuming", "ms", "beside", "its ms", "ratio"],
        rows,
    )


def _judge_rounds(card: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    for name, one in found.items():
        median = Spread.of(one["seconds"]).median
        most = MOST_MS.get(one["workers"])
        if most is not None and any(known in card for known in CARDS):
            print(verdict(f"ms of a round of {name}", median * 1e3, most))
        kernels = one["activity"].get("kernel_seconds")
        if kernels:
            print(verdict(f"round of {name}, in its kernels' time", median / kernels, MOST_KERNELS))


def _judge_steps(card: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    if card == "cpu":
        return
    for model, one in found.items():
        for name, own in one["seconds"].items():
            if name != BARE:
                ratio = ratios(own, one["seconds"][BARE]).median
                print(verdict(f"{model}, {name} attached", ratio, MOST_STEP))
