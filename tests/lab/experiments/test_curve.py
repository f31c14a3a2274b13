"""What a run's events say, worked out by hand."""

from typing import Any

import pytest

from grawa.lab.experiments.curve import curve_of, rounds_curve, weights_of


def a_round(number: int, step: int, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "round",
        "round": number,
        "step": step,
        "bytes_sent": 100,
        "elapsed": float(step),
        "round_seconds": 0.5,
        "losses": [1.0 / number, 3.0 / number],
        "consensus_distance": float(number),
        "weights": None,
    } | changes


def measured(step: int, error: float) -> dict[str, Any]:
    return {"kind": "evaluated", "step": step, "error": error, "elapsed": float(step)}


def ended(step: int, error: float) -> dict[str, Any]:
    return {"kind": "finished", "step": step, "error": error, "elapsed": step + 0.5}


RUN = [
    a_round(1, 4),
    measured(4, 0.5),
    a_round(2, 8, losses=[2.0, None]),
    a_round(3, 12),
    measured(12, 0.2),
    ended(12, 0.19),
]


def test_a_curve_has_a_point_for_each_measurement() -> None:
    curve = curve_of(RUN)
    assert curve.steps == [4, 12]
    assert curve.rounds == [1, 3]
    assert curve.bytes == [100, 300]
    assert curve.time == [4.5, 12.5]  # a round's consensus is there when it is over
    assert curve.error == [0.5, 0.19]  # the end is the last point
    assert curve.distance == [1.0, 3.0]
    # Since the point before: 1 and 3; then 2, 1/3 and 1.
    assert curve.loss == pytest.approx([2.0, (2 + 1 / 3 + 1) / 3])


def test_steps_after_the_last_measurement_end_in_a_point_of_their_own() -> None:
    curve = curve_of([*RUN[:-1], a_round(4, 14), ended(14, 0.1)])
    assert curve.steps == [4, 12, 14]
    assert curve.error == [0.5, 0.2, 0.1]
    assert curve.loss[-1] == pytest.approx(0.5)


def test_a_run_that_was_broken_off_has_the_points_until_then() -> None:
    assert curve_of(RUN[:4]).error == [0.5]
    assert curve_of([]).steps == []


def test_who_shares_gradients_talks_at_every_step() -> None:
    assert curve_of(RUN, talks=lambda step: True).rounds == [4, 12]
    # The first two steps, and then rounds.
    assert curve_of(RUN, talks=lambda step: step < 2).rounds == [3, 5]


def test_a_round_of_each_fragment_makes_one_of_the_model() -> None:
    assert curve_of(RUN, fragments=2).rounds == [0.5, 1.5]


def test_rounds_have_a_curve_too() -> None:
    curve = rounds_curve(RUN)
    assert curve.steps == [4, 8, 12]
    assert curve.loss == pytest.approx([2.0, 2.0, 2 / 3])
    assert curve.error == [None] * 3


def test_weights_are_kept_by_worker_and_by_tensor() -> None:
    rounds = [
        a_round(1, 4, weights=[[0.2, 0.4], [0.8, 0.6]]),
        a_round(2, 8, weights=[[0.4, 0.4], [0.6, 0.6]]),
    ]
    assert weights_of(rounds) == {
        "rounds": [1, 2],
        "workers": [[0.3, 0.7], [0.4, 0.6]],
        "groups": [[0.3, 0.4], [0.7, 0.6]],
    }


def test_workers_that_count_equally_have_no_weights() -> None:
    assert weights_of(RUN) is None


def test_weights_of_many_rounds_are_thinned_out() -> None:
    weights = weights_of([a_round(i, i, weights=[[0.5], [0.5]]) for i in range(1, 601)])
    assert weights is not None
    assert weights["rounds"] == list(range(10, 601, 10))
    assert weights["groups"] == [[0.5], [0.5]]
