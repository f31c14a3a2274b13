"""What the benchmark of faults makes of what `grawa chaos` leaves."""

from dataclasses import asdict, replace
from typing import Any

import chaos_runs as chaos
from grawa.lab.chaos.outcome import Outcome
from tests.lab.chaos.outcomes import FINDINGS, GOOD, HUNG


def _sample(*outcomes: Outcome, **changed: Any) -> dict[str, Any]:
    """A job's sample, from what it would leave."""
    left = {
        **asdict(FINDINGS),
        "environment": {"git": "abc"},
        "asked": {"elastic": False},
        "hosts": 2,
        "broken": [],
        **changed,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
    return {"job": "digits", "seconds": 60.0, "load": 1.0, **chaos.digest(left)}


def test_faults_are_summed_up_by_arrangement_and_kind() -> None:
    cut = replace(GOOD, kind="link", victim="link of host 0, for 3.2 s", noticed_seconds=None)
    lost = replace(cut, victim="link of host 1, for 25.0 s", noticed_seconds=16.0)
    later = replace(GOOD, recovered_seconds=9.25, steps_lost=0)
    elastic = _sample(GOOD, asked={"elastic": True})
    found = chaos.merge(chaos.Config(), [_sample(GOOD, later, cut, lost), elastic])
    assert found["faults"] == 5
    assert set(found["found"]) == {"2 hosts", "elastic, 2 hosts"}
    kinds = found["found"]["2 hosts"]
    assert set(kinds) == {"kill", "link, for 1 to 5 s", "link, longer than the timeout"}
    assert kinds["kill"]["faults"] == 2
    assert kinds["kill"]["recovered_seconds"] == [8.25, 9.25]
    assert kinds["kill"]["steps_lost"] == [160, 320]
    assert kinds["link, for 1 to 5 s"]["noticed_seconds"] is None


def test_a_job_that_hung_has_no_error_and_is_named(capsys: Any) -> None:
    sample = _sample(HUNG, disturbed=asdict(replace(FINDINGS.disturbed, error=None)), broken=["x"])
    chaos.display(chaos.Config(), chaos.merge(chaos.Config(), [sample]))
    printed = capsys.readouterr().out
    assert "1 faults, 1 violations of what must hold" in printed
    assert "grawa chaos digits: x" in printed
    assert "none" in printed


def test_resuming_keeps_the_jobs_that_are_asked_for() -> None:
    config = chaos.Config(jobs=("digits", "text"))
    samples = [{"job": "digits"}, {"job": "digits --seed 9"}]
    assert chaos.resume(config, chaos.Config(), samples) == (config, samples[:1])
