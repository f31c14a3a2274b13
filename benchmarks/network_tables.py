"""Tables of the results of `network.py`, and whether they meet the targets."""

from collections.abc import Mapping
from typing import Any

from common import show, verdict
from namespaces import BITS
from network_methods import ALL_REDUCE, DDP, NO_COMMUNICATION

TARGETS = (
    ("100mbit", "LGRAWA, overlap", NO_COMMUNICATION, 0.95),
    ("100mbit", "LGRAWA, overlap", DDP, 20.0),
    ("20mbit", "LGRAWA, int8, overlap", NO_COMMUNICATION, 0.90),
)
"""Targets: rate, method, other method, least ratio of their samples per second."""

WAITING = ", steps that wait"

ROUNDS = (("1gbit", "LGRAWA"), ("1gbit", ALL_REDUCE), ("100mbit", "LGRAWA"))
"""Rate and method whose duration of a round has a target."""

ROUND_TARGET = 0.95
"""Least ratio, for a blocking float32 round of LGRAWA at 100 Mbit/s, of the time in which the link
can carry the round's bytes, including headers, to the time of the round."""


def is_judged(method: str, rate: str) -> bool:
    """Whether there is a target for this method at this rate."""
    pairs = any(rate == at and method in (this, that) for at, this, that, _ in TARGETS)
    return pairs or (rate, method) in ROUNDS


def tables(rates: Mapping[str, Any]) -> None:
    """Prints the results at each rate, and whether they meet the targets."""
    for rate, measured in rates.items():
        _show(rate, measured["found"], measured["planned"])
    found = {rate: measured["found"] for rate, measured in rates.items()}
    _judge_rates(found)
    for rate, measured in rates.items():
        _judge_plan(rate, measured["found"], measured["planned"]["shares"])
    _judge_rounds(found)


def _show(rate: str, methods: Mapping[str, Mapping[str, Any]], plan: Any) -> None:
    foreseen = plan["shares"]
    rows = []
    for method, found in methods.items():
        if "failed" in found:
            what = "not installed" if found["failed"] == "not installed" else "refused"
            rows.append([method, what, "", "", "", "", ""])
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
        "MB a step",
        "round s",
        "blocked s",
    ]
    show(f"Four hosts, links of {rate}", columns, rows)
    print(
        "of the limit: the time of a step without communication, measured before and after in the "
        "same processes,\nover that of a step with it, rounds included;\n"
        "planned: the planner's prediction of it."
    )
    rate_found, latency = plan["bandwidth"] * 8e-6, plan["latency"] * 1e3
    print(f"the planner found {rate_found:.1f} Mbit/s and {latency:.2f} ms")
    for method, found in methods.items():
        if "failed" in found:
            print(f"{method}: {found['failed']}")


Found = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Rate -> method -> figures."""


def _judge_rates(found: Found) -> None:
    for at, method, against, least in TARGETS:
        for rate in (at, f"{at}{WAITING}"):
            pair = [found.get(rate, {}).get(name, {}) for name in (method, against)]
            if all("share_of_limit" in one for one in pair):
                ratio = pair[0]["share_of_limit"] / pair[1]["share_of_limit"]
                met = "meets" if ratio >= least else "MISSES"
                what = f"{rate}: {method} / {against}: {ratio:.3f}"
                print(f"{what} {met} the target of at least {least}")


def _judge_plan(
    rate: str, methods: Mapping[str, Mapping[str, Any]], shares: Mapping[str, float]
) -> None:
    pairs = [
        (share, methods[method]["share_of_limit"], method)
        for method, share in shares.items()
        if "share_of_limit" in methods.get(method, {})
    ]
    if pairs:
        off, method = max((abs(planned / real - 1), method) for planned, real, method in pairs)
        print(verdict(f"{rate}: worst prediction of the planner, {method}, off by", off, 0.15))


def _judge_rounds(found: Found) -> None:
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
