"""Faults on the command line, and what they do."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from grawa.errors import UserError
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.tasks import Digits
from grawa.lab.train.asked import VARIABLE, Asked, Requests
from grawa.lab.train.faults import Fault
from grawa.lab.train.worker import Worker

GOOD = {
    "wrong-labels:0": Fault(kind="wrong-labels", worker=0),
    "batch-of-one:12": Fault(kind="batch-of-one", worker=12),
    "lr-x6:3": Fault(kind="lr-x", worker=3, amount=6.0),
    "lr-x0.1:0": Fault(kind="lr-x", worker=0, amount=0.1),
    "lr-x.5:0": Fault(kind="lr-x", worker=0, amount=0.5),
    "scale-x30:1@5": Fault(kind="scale-x", worker=1, amount=30.0, step=5),
    "scale-x0:1@5": Fault(kind="scale-x", worker=1, amount=0.0, step=5),
    "nan:0@100": Fault(kind="nan", worker=0, step=100),
    "nan:2@asked": Fault(kind="nan", worker=2, asked=True),
    "wrong-labels:0@asked": Fault(kind="wrong-labels", worker=0, asked=True),
    "dead:2@1": Fault(kind="dead", worker=2, step=1),
    "noisy-labels=0.4:2": Fault(kind="noisy-labels", worker=2, amount=0.4),
    "noisy-labels=40%:2": Fault(kind="noisy-labels", worker=2, amount=0.4),
    "input-noise=0.25:0": Fault(kind="input-noise", worker=0, amount=0.25),
    "gradient-noise=2:1": Fault(kind="gradient-noise", worker=1, amount=2.0),
    "batch=12:1": Fault(kind="batch", worker=1, amount=12.0),
    "batch-x0.5:1": Fault(kind="batch-x", worker=1, amount=0.5),
    "speed=0.5:3": Fault(kind="speed", worker=3, amount=0.5),
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
    "wrong-labels:0@ask",
    "dead:0@asked",
    "scale-x2:0@asked",
    "batch-of-one:0@asked",
    "nan:0@3asked",
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
    "noisy-labels:0",
    "noisy-labels0.4:0",
    "noisy-labels=:0",
    "noisy-labels=-1:0",
    "noisy-labels=0.1:0@3",
    "lr-x=6:0",
    "wrong-labels=1:0",
    "batch12:0",
    "batch=1e1:0",
    "speed:0",
    "input-noise=0.1",
    "graded-labels:0",
    "mixed",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_fault_is_read_as_it_is_written(text: str) -> None:
    assert Fault.parse(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(UserError) as refused:
        Fault.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", GOOD)
def test_a_fault_is_written_as_it_is_read(text: str) -> None:
    assert Fault.parse(str(GOOD[text])) == GOOD[text]


@given(st.floats(0.0, 1.0), st.integers(0, 99))
def test_no_digit_of_an_amount_is_lost(amount: float, worker: int) -> None:
    fault = Fault(kind="noisy-labels", worker=worker, amount=amount)
    assert Fault.parse(str(fault)) == fault


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("noisy-labels=1.1:0", "lie in [0, 1], got 1.1"),
        ("batch=0:0", "be a whole number, 1 or more, got 0"),
        ("batch=2.5:0", "be a whole number, 1 or more, got 2.5"),
        ("batch-x0:0", "be positive, got 0"),
        ("speed=0:0", "be positive, got 0"),
    ],
)
def test_an_amount_out_of_range_is_refused(text: str, limits: str) -> None:
    with pytest.raises(UserError) as refused:
        Fault.parse(text)
    assert str(refused.value) == f"the amount of fault {text} must {limits}"


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


def test_as_many_labels_are_wrong_as_is_said() -> None:
    targets = torch.arange(20000).view(100, 200) % 5  # of any shape
    wrong = Fault.parse("noisy-labels=0.3:1").labels(targets, 5, seed=0) != targets
    assert float(wrong.double().mean()) == pytest.approx(0.3, abs=0.02)
    none = Fault.parse("noisy-labels=0:1").labels(targets, 5, seed=0)
    assert torch.equal(none, targets)


def test_if_every_label_is_noisy_all_are_wrong() -> None:
    targets = torch.arange(1000) % 5
    all_wrong, noisy = (
        Fault.parse(text).labels(targets, 5, seed=3)
        for text in ("wrong-labels:1", "noisy-labels=1:1")
    )
    assert torch.equal(all_wrong, noisy)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("batch-of-one:0", 1),
        ("batch=12:0", 12),
        ("batch-x0.5:0", 8),
        ("batch-x3:0", 48),
        ("batch-x0.001:0", 1),
        ("lr-x6:0", 16),
        ("noisy-labels=0.5:0", 16),
    ],
)
def test_a_worker_has_batches_of_its_own_size(text: str, expected: int) -> None:
    assert Fault.parse(text).batch_size(16) == expected


def test_inputs_have_noise_of_the_strength_that_is_said() -> None:
    inputs = 3.0 * torch.randn(400, 50, generator=torch.Generator().manual_seed(1))
    fault, random = Fault.parse("input-noise=0.5:0"), torch.Generator().manual_seed(0)
    noise = fault.blur(inputs, random) - inputs
    assert float(noise.std()) == pytest.approx(1.5, rel=0.05)
    assert abs(float(noise.mean())) < 0.05
    assert not torch.equal(fault.blur(inputs, random) - inputs, noise)
    assert torch.equal(Fault.parse("lr-x6:0").blur(inputs, random), inputs)


def test_tokens_are_replaced_by_others_with_the_probability_that_is_said() -> None:
    tokens = torch.arange(20000).view(100, 200)
    random = torch.Generator().manual_seed(0)
    found = Fault.parse("input-noise=0.3:0").blur(tokens, random)
    assert (found.dtype, found.shape) == (tokens.dtype, tokens.shape)
    assert float((found != tokens).double().mean()) == pytest.approx(0.3, abs=0.02)
    assert set(found.flatten().tolist()) <= set(tokens.flatten().tolist())


def test_gradients_have_noise_of_the_length_that_is_said() -> None:
    model = nn.Linear(100, 50)
    model(torch.ones(1, 100)).sum().backward()
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    Fault.parse("gradient-noise=0.5:0").shake(model, torch.Generator().manual_seed(0))
    noise = torch.cat([
        (p.grad - b).flatten()
        for p, b in zip(model.parameters(), before, strict=True)
        if p.grad is not None
    ])
    length = torch.cat([b.flatten() for b in before]).norm()
    assert float(noise.norm() / length) == pytest.approx(0.5, rel=0.05)
    Fault.parse("input-noise=9:0").shake(model, torch.Generator())
    assert float(noise[:5000].std() / noise[5000:].std()) == pytest.approx(1.0, abs=0.3)


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


def requests_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Requests:
    """Those that workers of this process find."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "requests"))
    return Requests.make(tmp_path / "requests", 2)


def worker_with(*faults: str) -> Worker:
    config = TrainConfig(task="digits:train_size=64", workers=2, steps=4, fault=faults)
    settings, task = config.settings(), Digits(train_size=64)
    data = task.data(0)
    return Worker(1, task, data, torch.arange(64), settings, torch.device("cpu"))


def test_parameters_become_nan_once_when_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, worker = requests_of(tmp_path, monkeypatch), worker_with("nan:1@asked")
    for step, asked in ((1, Asked.NOTHING), (2, Asked.NAN), (3, Asked.NOTHING)):
        with torch.no_grad():
            torch._foreach_zero_(list(worker.model.parameters()))
        if asked:
            requests.ask(1, asked)
        worker.next_batch(step)
        parameters = nn.utils.parameters_to_vector(worker.model.parameters())
        assert bool(parameters.isnan().all()) == (asked is Asked.NAN)
        assert requests.of(1) is Asked.NOTHING


def test_labels_are_wrong_as_long_as_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = ("nan:1@asked", "wrong-labels:1@asked")
    requests = requests_of(tmp_path, monkeypatch)
    struck, clean = worker_with(*faults), worker_with()
    losses = []
    for step, asked in enumerate((Asked.NOTHING, Asked.WRONG_LABELS, Asked.NOTHING), start=1):
        requests.ask(1, asked)
        losses.append((float(struck.backward(step)), float(clean.backward(step))))
    assert [mine == other for mine, other in losses] == [True, False, True]


def test_what_nobody_asks_does_not_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    struck, clean = worker_with("nan:1@asked", "wrong-labels:1@asked"), worker_with()
    assert torch.equal(struck.backward(1), clean.backward(1))


def test_a_file_of_requests_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match="can't be used"):
        worker_with("nan:1@asked")
