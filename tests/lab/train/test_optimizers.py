"""Optimizers on the command line, and in a run."""

from pathlib import Path

import pytest
import torch
from torch.optim import SGD, Adam, AdamW

import grawa
from grawa.errors import UserError
from grawa.lab.tasks import Digits
from grawa.lab.train.optimizers import OptimizerChoice
from grawa.lab.train.run import Run
from grawa.lab.train.worker import Worker
from tests.helpers import INPUTS, flat, mlp
from tests.lab.train.runs import always, end, events, same_model, settings

GOOD = {
    "sgd": OptimizerChoice(),
    "sgd:momentum=0:weight_decay=0": OptimizerChoice(momentum=0.0, weight_decay=0.0),
    "adamw": OptimizerChoice(base="adamw"),
    "adamw:weight_decay=0.1": OptimizerChoice(base="adamw", weight_decay=0.1),
    "adam": OptimizerChoice(base="adamw", weight_decay=0.0),
    "sam": OptimizerChoice(rho=0.05),
    "SAM:base=adam": OptimizerChoice(base="adamw", rho=0.05, weight_decay=0.0),
    "sam:rho=0": OptimizerChoice(rho=0.0),
    "sam:rho=0.1:momentum=0.5": OptimizerChoice(rho=0.1, momentum=0.5),
    "sam:weight_decay=0.1:base=adamw": OptimizerChoice(base="adamw", rho=0.05, weight_decay=0.1),
}

BAD = {
    "": "there is no optimizer ''; there are sgd",
    "admw": r"there is no optimizer 'admw' \(did you mean adamw\?\); there are",
    "adam:weight_decay=0.1": "has no option 'weight_decay'; it has none",
    "sgd:momentm=0": r"has no option 'momentm' \(did you mean momentum\?\); it has momentum",
    "sgd:rho=0.1": "has no option 'rho'; it has momentum, weight_decay",
    "sgd:base=adamw": "has no option 'base'",
    "adamw:momentum=0.9": "has no option 'momentum'; it has weight_decay",
    "sam:base=adamw:momentum=0": "has no option 'momentum'; it has weight_decay, rho, base",
    "sam:base=sam": "base of optimizer sam must be one of sgd, adamw, adam, got 'sam'",
    "sam:base": "base of optimizer sam must be one of sgd, adamw, adam, got ''",
    "sam:rho": "rho of the optimizer must be a number, not negative, got ''",
    "sam:rho=-1": "rho of the optimizer must be a number, not negative, got '-1'",
    "sam:rho=inf": "rho",
    "sgd:momentum=1": r"momentum of the optimizer must lie in \[0, 1\), got '1'",
    "sgd:weight_decay=nan": "weight_decay",
    "sgd:": "has no option ''",
}


@pytest.mark.parametrize("text", GOOD)
def test_an_optimizer_is_read_as_it_is_written(text: str) -> None:
    assert OptimizerChoice.parse(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_optimizer_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=BAD[text]):
        settings(optimizer=text)


def test_each_is_made_as_it_is_described() -> None:
    sgd = OptimizerChoice().make(mlp(), 0.1)
    assert isinstance(sgd, SGD)
    group = sgd.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
    assert group["weight_decay"] == pytest.approx(1e-4)
    adamw = OptimizerChoice(base="adamw").make(mlp(), 0.1)
    assert isinstance(adamw, AdamW)
    assert (
        adamw.param_groups[0]["weight_decay"] == AdamW(mlp().parameters()).defaults["weight_decay"]
    )
    ours, theirs = mlp(), mlp()
    for model, optimizer in (
        (ours, OptimizerChoice.parse("adam").make(ours, 0.1)),
        (theirs, Adam(theirs.parameters(), lr=0.1)),
    ):
        model(torch.ones(2, INPUTS, dtype=torch.float64)).sum().backward()
        optimizer.step()
    assert torch.equal(flat(ours), flat(theirs))
    assert OptimizerChoice(momentum=0.0).make(mlp(), 0.1).param_groups[0]["nesterov"] is False
    sam = OptimizerChoice(rho=0.3, base="adamw").make(mlp(), 0.1)
    assert isinstance(sam, grawa.SAM)
    assert (sam.rho, sam.param_groups[0]["lr"]) == (0.3, 0.1)


@pytest.mark.parametrize("strategy", [grawa.DataParallel(), grawa.LGRAWA()], ids=["dp", "lgrawa"])
def test_sam_with_rho_zero_trains_to_the_bits_of_sgd(strategy: grawa.Strategy) -> None:
    plain = end(events(always(strategy), settings()))
    assert same_model(plain, end(events(always(strategy), settings(optimizer="sam:rho=0"))))
    other = end(events(always(strategy), settings(optimizer="sam")))
    assert not same_model(plain, other)


def test_data_parallel_sam_keeps_the_workers_equal() -> None:
    run = Run(
        Digits(train_size=200),
        always(grawa.DataParallel()),
        settings(optimizer="sam:rho=0.2"),
        torch.device("cpu"),
        None,
    )
    run.engine.local_steps_begin()
    while not run.is_over():
        run.step()
    models = run.engine.replicas.models
    assert all(torch.equal(flat(model), flat(models[0])) for model in models)


def test_a_worker_takes_its_second_gradient_on_the_same_batch() -> None:
    task = Digits(train_size=200)
    chosen = settings(optimizer="sam:rho=0.2:momentum=0:weight_decay=0", dtype="float64")
    data = task.data(0)
    data = data._replace(train_inputs=data.train_inputs.double())
    worker = Worker(0, task, data, torch.arange(8), chosen, torch.device("cpu"))  # all in a batch
    twin = task.model(0).double()
    loss = task.loss(twin, data.train_inputs[:8], data.train_targets[:8])
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in twin.parameters() if p.grad is not None]).norm()
    with torch.no_grad():
        for p in twin.parameters():
            assert p.grad is not None
            p.add_(p.grad / norm, alpha=0.2)
    twin.zero_grad()
    task.loss(twin, data.train_inputs[:8], data.train_targets[:8]).backward()
    torch.testing.assert_close(worker.backward(1), loss.detach())
    for found, expected in zip(worker.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize("strategy", [grawa.DataParallel(), grawa.LGRAWA()], ids=["dp", "lgrawa"])
@pytest.mark.parametrize("optimizer", ["sam:rho=0.1", "sam:base=adamw"])
def test_a_resumed_run_ends_with_the_same_bits(
    strategy: grawa.Strategy, optimizer: str, tmp_path: Path
) -> None:
    chosen = settings(optimizer=optimizer, lr=0.01)
    whole = end(events(always(strategy), settings(optimizer=optimizer, lr=0.01)))
    events(always(strategy), chosen, checkpoints=tmp_path, until=4)
    resumed = end(events(always(strategy), chosen, checkpoints=tmp_path))
    assert same_model(resumed, whole)
