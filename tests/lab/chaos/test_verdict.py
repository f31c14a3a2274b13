"""What must be true at the end."""

from dataclasses import replace
from typing import Any

import pytest

from grawa.lab.chaos.verdict import Result, broken, noise_of
from tests.lab.chaos.outcomes import FINDINGS, HUNG, LATE, RESULT


def test_a_job_that_ends_as_if_undisturbed_breaks_nothing() -> None:
    assert broken(FINDINGS) == []


def with_result(**changes: Any) -> dict[str, Any]:
    return {"disturbed": replace(RESULT, **changes)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"outcomes": [HUNG]}, "fault 2 (kill): no round within"),
        ({"outcomes": [LATE]}, "fault 3 (kill): noticed only after 36.0 s"),
        ({"hung": "it made no round for 105 s"}, "did not come to its end: it made no round"),
        ({"orphans": ["rank 3 (pid 77)"]}, "orphan: rank 3 (pid 77)"),
        ({"leftovers": ["/dev/shm/torch_77 on host 1"]}, "left behind: /dev/shm/torch_77"),
        ({"unreadable": "events.jsonl is damaged"}, "can't be read: events.jsonl is damaged"),
        (with_result(rounds=[*range(1, 101), 7]), "recorded more than once: 7"),
        (with_result(rounds=[*range(1, 50), *range(52, 101)]), "missing from the record: 50, 51"),
        (with_result(rounds=[2, 1, *range(3, 101)]), "in another order"),
        (with_result(rounds=range(1, 91)), "missing from the record: 91, 92, 93, 94, 95 and 5"),
        (
            with_result(error=0.06, measured=0.06),
            "6.00%, and 3.00% undisturbed (noise: 2.00%): more than",
        ),
        (with_result(error=0.02), "says that its test error is 2.00%, and its model's is 3.00%"),
        (with_result(error=None), "without a result"),
        (with_result(digest="b" * 64), "other bits"),
    ],
)
def test_what_is_not_as_it_must_be_is_said(changes: dict[str, Any], said: str) -> None:
    (sentence,) = broken(replace(FINDINGS, **changes))
    assert said in sentence


def test_other_bits_and_a_smaller_error_are_no_fault_after_a_worker_computed_otherwise() -> None:
    better = Result(error=0.01, measured=0.01, digest="b" * 64, rounds=RESULT.rounds)
    assert broken(replace(FINDINGS, disturbed=better, exact=False)) == []


def test_noise_is_that_of_an_error_rate_or_a_share_of_another_metric() -> None:
    assert noise_of(0.5, "test error", 200) == pytest.approx(3 * (2 * 0.25 / 200) ** 0.5)
    assert noise_of(0.0, "test error", 100) > 0.0
    assert noise_of(4.0, "bits per byte", 100) == pytest.approx(0.2)
