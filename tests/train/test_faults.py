"""Faults on the command line, and what they do."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from grawa.errors import UserError
from grawa.train.faults import Fault

GOOD = {
    "wrong-labels:0": Fault(kind="wrong-labels", worker=0),
    "batch-of-one:12": Fault(kind="batch-of-one", worker=12),
    "lr-x6:3": Fault(kind="lr-x", worker=3, factor=6.0),
    "lr-x0.1:0": Fault(kind="lr-x", worker=0, factor=0.1),
    "lr-x.5:0": Fault(kind="lr-x", worker=0, factor=0.5),
    "scale-x30:1@5": Fault(kind="scale-x", worker=1, factor=30.0, step=5),
    "scale-x0:1@5": Fault(kind="scale-x", worker=1, factor=0.0, step=5),
    "nan:0@100": Fault(kind="nan", worker=0, step=100),
    "dead:2@1": Fault(kind="dead", worker=2, step=1),
}

BAD = [
    "",
    "nan",
    "nan:",
    "nan:0",
    "nan:0@",
    "nan:x@1",
    "nan:-1@1",
    "nan:0@-1",
    "nan:0@1.5",
    "nan3:0@1",
    "NaN:0@1",
    "inf:0@1",
    "dead:1",
    "dead:1@2@3",
    "wrong-labels:0@3",
    "wrong-labels2:0",
    "batch-of-one",
    "lr-x:1",
    "lr-x2:1@4",
    "lr-x-2:1",
    "lr-x1e3:1",
    "lr-x1.2.3:1",
    "lr-x.:1",
    "scale-x3:1",
    "scale-x:1@3",
    " nan:0@1",
    "nan:0@1 ",
    "nan:0@1\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    assert Fault.parse(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(UserError) as refused:
        Fault.parse(text)
    assert repr(text) in str(refused.value)


def test_a_step_before_the_first_is_refused() -> None:
    with pytest.raises(UserError):
        Fault.parse("nan:0@0")


def test_all_labels_are_wrong_and_any_wrong_one_may_come() -> None:
    targets = torch.arange(1000) % 5
    fault = Fault.parse("wrong-labels:1")
    labels = fault.labels(targets, 5, seed=0)
    assert not bool((labels == targets).any())
    assert sorted(set(zip(targets.tolist(), labels.tolist(), strict=True))) == [
        (right, wrong) for right in range(5) for wrong in range(5) if right != wrong
    ]
    assert torch.equal(labels, fault.labels(targets, 5, seed=0))
    assert not torch.equal(labels, fault.labels(targets, 5, seed=1))
    assert not torch.equal(labels, Fault.parse("wrong-labels:2").labels(targets, 5, seed=0))


def test_other_faults_leave_labels_alone() -> None:
    targets = torch.arange(10)
    assert torch.equal(Fault.parse("lr-x6:0").labels(targets, 10, seed=0), targets)


def test_a_batch_of_one_has_one_sample() -> None:
    assert Fault.parse("batch-of-one:0").batch_size(16) == 1
    assert Fault.parse("lr-x6:0").batch_size(16) == 16


@pytest.mark.parametrize(("text", "factor"), [("lr-x6:0", 6.0), ("scale-x6:0@1", 1.0)])
def test_the_learning_rate_is_scaled_in_every_group(text: str, factor: float) -> None:
    model = nn.Linear(2, 1)
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "lr": 0.5},
    ]
    optimizer = SGD(groups, lr=0.1)
    Fault.parse(text).scale_lr(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([
        0.1 * factor,
        0.5 * factor,
    ])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nan:0@3", [math.nan, math.nan]),
        ("dead:0@3", [0.0, 0.0]),
        ("scale-x30:0@3", [30.0, -60.0]),
        ("lr-x30:0", [1.0, -2.0]),
        ("wrong-labels:0", [1.0, -2.0]),
    ],
)
def test_parameters_are_struck_before_that_step_and_no_other(
    text: str, expected: list[float]
) -> None:
    model = nn.Linear(2, 1, bias=False)
    fault = Fault.parse(text)
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        fault.strike(model, step)
        found = model.weight.detach()[0].tolist()
        assert found == pytest.approx(expected if step == 3 else [1.0, -2.0], nan_ok=True)
