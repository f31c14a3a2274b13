"""A study's figures as plain values."""

import math
from typing import Any

from evidence_studies import STUDIES
from evidence_tables import Read


def summary(read: Read) -> dict[str, Any]:
    """All figures of a study."""
    spent = {
        "seconds": round(read.kept.seconds),
        "runs": read.kept.runs,
        "environment": read.kept.environment,
    }
    outcomes = [
        {
            "method": o.arm,
            "condition": o.condition,
            "error": o.end and _plain(o.end._asdict()),
            "difference": o.difference and _plain(o.difference._asdict()),
            "p_holm": _plain({"p": o.corrected})["p"],
            "speed": o.speed and _plain(o.speed._asdict()),
            "failed": o.failed,
            "setting": {k: o.results[0].config[k] for k in ("strategy", "lr", "optimizer")},
        }
        for o in read.outcomes
    ]
    pooled = [
        {
            "method": p.arm,
            "error": _plain(p.end._asdict()),
            "differences": p.differences,
            "difference": p.difference and _plain(p.difference._asdict()),
            "p_holm": _plain({"p": p.corrected})["p"],
        }
        for p in read.pooled
    ]
    flats = [
        {
            "method": f.arm,
            "condition": f.condition,
            "values": {n: list(v.values()) for n, v in f.values.items()},
            "log_ratio": f.ratio and _plain(f.ratio._asdict()),
        }
        for f in read.flats
    ]
    return {
        "command": STUDIES[read.name].command,
        **spent,
        "baseline": read.study.baseline,
        "outcomes": [] if pooled else outcomes,
        "populations": pooled,
        "flatness": flats,
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
