"""16-bit parameters and autocast: as near to exact training as their bits allow."""

import pytest
import torch
from torch import Tensor

import grawa
from tests.helpers import STRATEGIES, Data, Fleet, averaged, batches, flat, mlp

ROUNDED = batches(8, 4, torch.bfloat16)
DATA = Data(ROUNDED.inputs.double(), ROUNDED.targets.double())


@pytest.mark.parametrize("name", STRATEGIES)
def test_bfloat16_models_train_as_exact_ones_do(name: str) -> None:
    workers, consensus = averaged(STRATEGIES[name], ROUNDED)
    exact_workers, exact = averaged(STRATEGIES[name], DATA)
    assert workers.dtype == consensus.dtype == torch.bfloat16
    start = flat(mlp())
    # They move by 0.17 to 0.4; half an ulp is 0.002 at most, in each of 8 steps and 4 rounds.
    assert float((exact - start).abs().max()) > 0.15
    torch.testing.assert_close(consensus.double(), exact, rtol=0.0, atol=0.02)
    torch.testing.assert_close(workers.double(), exact_workers, rtol=0.0, atol=0.02)


def trained(*, autocast: bool) -> tuple[Tensor, list[grawa.RoundReport]]:
    """Two workers' parameters, and their rounds."""
    data = batches(8, 2, torch.float32)
    fleet = Fleet(2, lambda: mlp(torch.float32))
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ):
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                fleet.backward(inputs, targets.bfloat16() if autocast else targets)
            for optimizer in fleet.optimizers:
                optimizer.step()
    return fleet.parameters(), reports


def test_autocast_to_bfloat16_trains_as_without_it() -> None:
    workers, reports = trained(autocast=True)
    exact, expected = trained(autocast=False)
    assert workers.dtype == torch.float32
    assert float((exact - flat(mlp(torch.float32))).abs().max()) > 0.2
    torch.testing.assert_close(workers, exact, rtol=0.0, atol=0.02)
    assert len(reports) == 4
    for report, other in zip(reports, expected, strict=True):
        assert report.left_out == {}
        torch.testing.assert_close(report.weights, other.weights, rtol=0.0, atol=0.05)
