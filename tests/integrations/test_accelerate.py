"""Accelerate's own loop trains as a plain one does, and its checkpoints keep every worker."""

import importlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import grawa
from tests.helpers import INPUTS, OUTPUTS, mlp
from tests.world import launched, results

pytest.importorskip("accelerate")
pytestmark = pytest.mark.world

STEPS, SYNC_EVERY = 12, 4

State = dict[str, Tensor]


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    """A worker's batch of a step."""
    random = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(6, INPUTS, generator=random), torch.randn(6, OUTPUTS, generator=random)


def made() -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimizer, the same everywhere."""
    model = mlp(torch.float32)
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def plain(accumulated: int, clip: float | None) -> State:
    """The consensus of a plain loop."""
    with grawa.distributed():
        rank = torch.distributed.get_rank()
        model, optimizer = made()
        with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=SYNC_EVERY) as averager:
            for step in range(STEPS):
                inputs, targets = batch(rank, step)
                (mse_loss(model(inputs), targets) / accumulated).backward()
                if (step + 1) % accumulated == 0:
                    if clip is not None:
                        averager.clip_grad_norm_(clip)
                    optimizer.step()
                    optimizer.zero_grad()
        return averager.consensus()


@contextmanager
def accelerated(accumulated: int) -> Generator[Any]:
    """An `Accelerator` that leaves nothing behind."""
    accelerate: Any = importlib.import_module("accelerate")
    state: Any = importlib.import_module("accelerate.state")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulated)
    try:
        yield accelerator
    finally:
        accelerator.free_memory()
        torch.distributed.destroy_process_group()
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


def with_accelerate(
    accumulated: int,
    clip: float | None,
    *,
    steps: range = range(STEPS),
    save: tuple[int, str] | None = None,
    load: str | None = None,
) -> tuple[State, State]:
    """This worker's parameters at the end, and the consensus that the model has after the block."""
    integration: Any = importlib.import_module("grawa.integrations.accelerate")
    with accelerated(accumulated) as accelerator:
        rank = accelerator.process_index
        model, optimizer = accelerator.prepare(*made())
        local = integration.GrawaSGD(
            accelerator, model, optimizer, grawa.LGRAWA(), sync_every=SYNC_EVERY
        )
        if load is not None:
            accelerator.load_state(load)
        with local:
            for step in steps:
                if save is not None and step == save[0]:
                    accelerator.save_state(save[1])
                with accelerator.accumulate(model):
                    inputs, targets = batch(rank, step)
                    accelerator.backward(mse_loss(model(inputs), targets))
                    if clip is not None:
                        local.clip_grad_norm_(clip)
                    optimizer.step()
                    local.step()
                    optimizer.zero_grad()
            local.averager.synchronize()
            mine = {name: value.clone() for name, value in model.module.state_dict().items()}
        return mine, {name: value.clone() for name, value in model.module.state_dict().items()}


def assert_equal(one: State, other: State) -> None:
    assert set(one) == set(other)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0.0, atol=0.0)


@pytest.mark.parametrize(("accumulated", "clip"), [(1, None), (3, None), (1, 0.05)])
def test_it_trains_as_a_plain_loop_does(accumulated: int, clip: float | None) -> None:
    expected = results(launched(2, plain, accumulated, clip))
    found = results(launched(2, with_accelerate, accumulated, clip))
    for (_, consensus), plainly in zip(found, expected, strict=True):
        for name, value in plainly.items():
            torch.testing.assert_close(consensus[name], value, rtol=0.0, atol=1e-6)


def test_a_loaded_state_goes_on_bit_for_bit_on_every_worker(tmp_path: Path) -> None:
    folder = str(tmp_path / "state")
    whole = results(launched(2, with_accelerate, 1, None, save=(6, folder)))
    resumed = results(launched(2, with_accelerate, 1, None, steps=range(6, STEPS), load=folder))
    for before, after in zip(whole, resumed, strict=True):
        assert_equal(before[0], after[0])
        assert_equal(before[1], after[1])
    assert any(not torch.equal(whole[0][0][name], whole[1][0][name]) for name in whole[0][0]), (
        "the workers differ, so the state is more than one model"
    )
