"""BatchNorm's statistics, computed anew."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, TensorDataset

import grawa
from grawa.errors import UserError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def batches() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return list((5.0 + 3.0 * torch.randn(40, 3)).split(10))


def test_the_statistics_are_those_that_torch_would_compute() -> None:
    ours, theirs = net(), net()
    grawa.recalibrate_batchnorm(ours, batches())
    update_bn(batches(), theirs)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


def test_dropout_stays_off_and_modes_and_momentum_are_put_back() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(3, momentum=0.2))
    model[1].eval()
    loader = batches()
    state = torch.get_rng_state()
    grawa.recalibrate_batchnorm(model, loader)
    expected = torch.stack([batch.mean(dim=0) for batch in loader]).mean(dim=0)
    torch.testing.assert_close(model[1].running_mean, expected)
    assert (model.training, model[0].training, model[1].training) == (True, True, False)
    assert model[1].momentum == pytest.approx(0.2)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loader_of_inputs_and_targets_will_do() -> None:
    ours, theirs = net(), net()
    inputs = torch.cat(batches())
    loader = DataLoader(TensorDataset(inputs, torch.zeros(40)), batch_size=10)
    grawa.recalibrate_batchnorm(ours, loader)
    grawa.recalibrate_batchnorm(theirs, batches())
    torch.testing.assert_close(ours[1].running_var, theirs[1].running_var)


def test_a_model_without_batchnorm_is_left_alone() -> None:
    model = nn.Linear(3, 1)
    grawa.recalibrate_batchnorm(model, [])
    assert model.training


def test_no_batch_is_refused() -> None:
    model = net()
    with pytest.raises(UserError, match="loader has no batch"):
        grawa.recalibrate_batchnorm(model, [])
    assert model[1].training
