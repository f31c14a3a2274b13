"""Models and optimizers as frameworks hand them over, and values as people write them."""

from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import grawa
from tests.helpers import INPUTS, OUTPUTS, batches, flat, mlp, pair, plain_sgd, step
from tests.world import launched, outcomes, results

DATA = batches(steps=8, workers=1)


def loss_of(model: nn.Module, index: int) -> Tensor:
    return mse_loss(model(DATA.inputs[index, 0]), DATA.targets[index, 0])


def test_a_compiled_model_has_its_own_names_and_trains_as_it_does_without() -> None:
    plain, compiled = mlp(), mlp()
    wrapped: Any = torch.compile(compiled, backend="eager")
    for model, given in ((plain, plain), (compiled, wrapped)):
        optimizer = plain_sgd(given)
        with grawa.Averager(given, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
            for index in range(4):
                optimizer.zero_grad()
                loss_of(given, index).backward()
                optimizer.step()
            with averager.consensus_applied() as lent:
                assert lent is given
        assert list(averager.consensus()) == list(model.state_dict())
    assert torch.equal(flat(plain), flat(compiled))


def test_the_lent_model_has_no_dropout_and_each_module_gets_its_mode_back() -> None:
    model = nn.Sequential(nn.Linear(INPUTS, OUTPUTS), nn.Dropout(0.5), nn.BatchNorm1d(OUTPUTS))
    model[2].eval()
    averager = grawa.Averager(model, plain_sgd(model), grawa.LGRAWA())
    with averager.consensus_applied() as lent:
        assert not any(module.training for module in lent.modules())
    assert [module.training for module in model] == [True, True, False]


def test_a_second_averager_of_one_optimizer_is_refused_while_the_first_counts() -> None:
    model, optimizer = pair(mlp())
    first = grawa.Averager(model, optimizer, grawa.LGRAWA())
    second = grawa.Averager(model, optimizer, grawa.MGRAWA())
    first.attach()
    with pytest.raises(grawa.UserError, match="another Averager counts this optimizer's steps"):
        second.attach()
    first.detach()
    with second:
        step(model, optimizer, DATA, 0)
    assert (first.step, second.step) == (0, 1)


def fully_sharded() -> None:
    """A worker whose model is sharded by FSDP1."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(mlp(torch.float32), device_id=torch.device("cpu"))
    grawa.Averager(model, plain_sgd(model), grawa.LGRAWA())


@pytest.mark.world
def test_fsdp1_is_refused_with_what_to_use() -> None:
    found = outcomes(2, fully_sharded)
    assert all("FSDP2" in str(error) for error in found), found


def test_losses_may_be_numbers_and_callbacks_single() -> None:
    model, optimizer = pair(mlp())
    reports: list[grawa.RoundReport] = []
    averager = grawa.Averager(
        model, optimizer, grawa.LSGD(), sync_every=2, timeout=90, on_round=reports.append
    )
    with averager:
        for index in range(4):
            averager.record_loss(0.5)
            step(model, optimizer, DATA, index)
    assert [float(report.losses) for report in reports] == [0.5, 0.5]
    with pytest.raises(grawa.UserError, match="a number, or a tensor"):
        averager.record_loss("0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("timeout", "why"),
    [(0, "timeout must be positive"), ("soon", "timeout must be a time"), (None, "a timedelta")],
)
def test_a_timeout_that_is_no_time_is_refused(timeout: Any, why: str) -> None:
    model, optimizer = pair(mlp())
    with pytest.raises(grawa.UserError, match=why):
        grawa.Averager(model, optimizer, grawa.LGRAWA(), timeout=timeout)
    with pytest.raises(grawa.UserError, match=why), grawa.distributed(timeout=timeout):
        pass


def test_times_are_seconds_timedeltas_or_text() -> None:
    for given in (90, 90.0, "90s", "1.5m", timedelta(seconds=90)):
        times = grawa.Elastic(min_workers=1, timeout=given).times
        assert times.timeout == timedelta(seconds=90)


def overlapped() -> list[tuple[int, dict[str, float]]]:
    """What a tracker is told of rounds in the background, on this rank."""
    told: list[tuple[int, dict[str, float]]] = []
    with grawa.distributed():
        rank = torch.distributed.get_rank()
        model, optimizer = pair(mlp())
        log = grawa.integrations.LogRounds(lambda numbers, step: told.append((step, numbers)))
        with grawa.Averager(
            model, optimizer, grawa.LGRAWA(), sync_every=4, overlap_steps=3, on_round=log
        ) as averager:
            for index in range(8):
                averager.record_loss(loss_of(model, index))
                step(model, optimizer, DATA, (index + rank) % 8)
    return told


@pytest.mark.world
def test_rounds_are_logged_on_one_rank_at_the_step_that_they_reach() -> None:
    first, other = results(launched(2, overlapped))
    assert [step for step, _ in first] == [7, 8]
    assert not other
    assert set(first[0][1]) >= {
        *(f"grawa/{what}/worker{i}" for what in ("weights", "scores", "losses") for i in range(2)),
        "grawa/round", "grawa/left_out", "grawa/cost/bytes_sent", "grawa/cost/exposed_seconds",
    }  # fmt: skip
