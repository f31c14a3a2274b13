"""How well plans fitted, as `grawa plan` says it, is what was measured over real slow links."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from grawa.lab.planning.costs import given
from grawa.lab.planning.predict import predict
from grawa.lab.report.plan_answer import FITS, FOUND, Fit
from grawa.lab.simulate.network import Link, Network
from network_methods import DDP, PLANNED
from network_tables import WAITING

RATES = json.loads(
    (Path(__file__).parents[2] / "benchmarks" / "results" / "network.json").read_text()
)["rates"]

PARAMETERS = 5 * (1024 * 1024 + 1024)
"""Of five layers: see `network_worker.Task`."""


class Pair(NamedTuple):
    """A method at a rate, in percent of full speed."""

    rate: str
    method: str
    predicted: float
    found: float


def pairs(with_averaging: bool) -> Iterator[Pair]:
    """All plans whose methods were measured, too."""
    for rate, measured in RATES.items():
        network = Network(Link.parse(rate.removesuffix(WAITING)), "ring", 4)
        for name, (strategy, variant) in PLANNED.items():
            if name not in measured["found"]:
                continue
            found = measured["found"][name]
            step = found["share_of_limit"] * found["step_seconds"]  # of one without communication
            plan = given(PARAMETERS, 4.0, step, {name: strategy}, network)
            tau = measured["config"]["sync_every"]
            share = (
                measured["planned"]["shares"][name]
                if with_averaging
                else predict(plan, plan.methods[0], variant, tau).speed
            )
            yield Pair(rate, name, 100 * share, 100 * found["share_of_limit"])


@pytest.mark.parametrize("with_averaging", FITS)
def test_plans_fitted_as_well_as_is_said(with_averaging: bool) -> None:
    made = list(pairs(with_averaging))
    at = {pair.method: pair for pair in made if pair.rate == "100mbit"}
    off = {
        overlap: {
            (pair.rate, pair.method): abs(pair.predicted - pair.found)
            for pair in made
            if PLANNED[pair.method].variant.overlap is overlap
        }
        for overlap in (False, True)
    }
    waiting = [points for (rate, _), points in off[True].items() if rate.endswith(WAITING)]
    fit = Fit(
        lgrawa=at["LGRAWA"].predicted,
        ddp=at[DDP].predicted,
        blocking=max(off[False].values()),
        overlap=max(off[True].values()),
        waiting=max(waiting),
    )
    assert tuple(fit) == pytest.approx(FITS[with_averaging], abs=0.0501)
    assert (at["LGRAWA"].found, at[DDP].found) == pytest.approx(FOUND, abs=0.0501)
