"""What has happened to buffers since the last round."""

import pytest
import torch
from torch import Tensor

from grawa.math.leaves import Rows
from grawa.workers.changes import BufferState, Changes

CPU = torch.device("cpu")


def rows() -> Rows:
    """Buffers of two workers, of several kinds and shapes, one of them empty."""
    found = {
        "mean": torch.arange(6.0).view(2, 3),
        "count": torch.tensor([5, 7]),
        "half": torch.ones(2, 1, 2, dtype=torch.bfloat16),
        "var": torch.ones(2, 2),
        "mask": torch.tensor([[True, False], [False, False]]),
        "empty": torch.zeros(2, 0),
    }
    return Rows(found.items())


def all_of(now: Rows, *states: float) -> dict[str, list[float]]:
    """Every buffer with these states on the two workers."""
    return {name: list(states) for name in now}


def states(changes: Changes, now: Rows) -> dict[str, list[float]]:
    return dict(zip(now, changes.states(now, CPU).t().tolist(), strict=True))


def test_buffers_of_all_kinds_are_told_apart() -> None:
    changes, now = Changes(), rows()
    changes.remember(now)
    assert states(changes, now) == all_of(now, 0, 0)
    now["mean"][0, 2] += 1
    now["count"][1] += 1
    now["half"][0, 0, 1] = torch.inf
    now["var"][1, 0] = torch.nan
    now["mask"][0, 1] = True
    expected: dict[str, list[float]] = {
        "mean": [1, 0],
        "count": [0, 1],
        "half": [2, 0],
        "var": [0, 3],
        "mask": [1, 0],
    }
    assert states(changes, now) == {**expected, "empty": [0, 0]}
    changes.remember(now)
    odd = float(BufferState.ODD)
    unchanged = {**all_of(now, 0, 0), "half": [odd, 0], "var": [0, odd]}
    assert states(changes, now) == unchanged


def test_only_those_that_were_remembered_count_as_unchanged() -> None:
    changes, now = Changes(), rows()
    changes.remember(Rows((name, now[name]) for name in ("var", "count")))
    expected = {**all_of(now, 1, 1), "var": [0, 0], "count": [0, 0], "empty": [0, 0]}
    assert states(changes, now) == expected


@pytest.mark.parametrize("new", [torch.arange(8.0).view(2, 4), torch.arange(6).view(2, 3)])
def test_another_shape_or_dtype_is_a_change_of_that_buffer_alone(new: Tensor) -> None:
    changes, now = Changes(), rows()
    changes.remember(now)
    now = Rows({**dict(now), "mean": new}.items())
    assert states(changes, now) == {**all_of(now, 0, 0), "mean": [1, 1]}


def test_a_zero_of_another_sign_is_a_change() -> None:
    changes, now = Changes(), Rows([("x", torch.zeros(1, 2))])
    changes.remember(now)
    now["x"][0, 1] = -0.0
    assert states(changes, now) == {"x": [1]}
