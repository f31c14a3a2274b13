"""Tensors, and rows of tensors, that only some workers train; and workers that train nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD

import grawa

WORKERS, STEPS = 3, 160

METHODS = {
    "lgrawa": grawa.LGRAWA(),
    "lgrawa, squared": grawa.LGRAWA(power=2.0),
    "mgrawa": grawa.MGRAWA(),
}
every_method = pytest.mark.parametrize("strategy", METHODS.values(), ids=METHODS)
with_and_without_guard = pytest.mark.parametrize(
    "guard", [None, grawa.Guard()], ids=["no guard", "guard"]
)


class Experts(nn.Module):
    """An expert for each worker, of which a worker's batches reach only its own, and a layer that
    all share."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(4, 1, bias=False)
        self.experts = nn.ModuleList(nn.Linear(4, 1, bias=False) for _ in range(WORKERS))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, own: int) -> Tensor:
        result: Tensor = self.shared(x) + self.experts[own](x)
        return result


TARGETS = torch.tensor([[1.0, -1.0, 2.0, 0.5], [-2.0, 1.0, 0.5, 1.0], [0.5, 0.5, -1.0, 2.0]])


def trained_experts(strategy: grawa.Strategy, guard: grawa.Guard | None) -> Tensor:
    """The function that the consensus has for each worker's inputs: (WORKERS, 4)."""
    models = [Experts() for _ in range(WORKERS)]
    optimizers = [SGD(model.parameters(), lr=0.05) for model in models]
    averager = grawa.Averager(models, optimizers, strategy, sync_every=4, guard=guard)
    random = torch.Generator().manual_seed(0)
    with averager:
        for _ in range(STEPS):
            for k, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                x = torch.randn(16, 4, generator=random)
                optimizer.zero_grad()
                mse_loss(model(x, k), x @ TARGETS[k : k + 1].T).backward()
            for optimizer in optimizers:
                optimizer.step()
    state = averager.consensus()
    weights = [state["shared.weight"] + state[f"experts.{k}.weight"] for k in range(WORKERS)]
    return torch.cat(weights)


@pytest.mark.parametrize("power", [1.0, 2.0])
@with_and_without_guard
def test_the_consensus_learns_every_expert(power: float, guard: grawa.Guard | None) -> None:
    strategy = grawa.LGRAWA(power=power)
    error = (trained_experts(strategy, guard) - TARGETS).abs().max()
    assert float(error) < 0.05


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@every_method
@with_and_without_guard
def test_the_consensus_learns_every_row_of_an_embedding(
    strategy: grawa.Strategy, guard: grawa.Guard | None, sparse: bool
) -> None:
    models = [nn.Embedding(WORKERS, 4, sparse=sparse) for _ in range(WORKERS)]
    optimizers = [SGD(model.parameters(), lr=1.0) for model in models]
    for model in models:
        nn.init.zeros_(model.weight)
    averager = grawa.Averager(models, optimizers, strategy, sync_every=4, guard=guard)
    with averager:
        for _ in range(STEPS):
            for k, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                optimizer.zero_grad()
                mse_loss(model(torch.tensor(k)), TARGETS[k]).backward()
            for optimizer in optimizers:
                optimizer.step()
    error = (averager.consensus()["weight"] - TARGETS).abs().max()
    assert float(error) < 0.05


@every_method
@with_and_without_guard
def test_a_dead_network_has_no_weight(strategy: grawa.Strategy, guard: grawa.Guard | None) -> None:
    layers = [(nn.Linear(4, 8), nn.Linear(8, 1)) for _ in range(WORKERS)]
    models = [nn.Sequential(first, nn.ReLU(), last) for first, last in layers]
    optimizers = [SGD(model.parameters(), lr=0.01) for model in models]
    reports: list[grawa.RoundReport] = []
    averager = grawa.Averager(
        models, optimizers, strategy, sync_every=4, guard=guard, on_round=[reports.append]
    )
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no input reaches its last layer, whose own gradient is not used
        layers[1][0].bias.fill_(-100.0)
        layers[1][1].requires_grad_(False)
    with averager:
        for _ in range(4):
            for k, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                x = torch.randn(16, 4, generator=random)
                optimizer.zero_grad()
                loss = mse_loss(model(x), x @ TARGETS[k : k + 1].T)
                loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    weights = reports[0].weights
    assert weights is not None
    own_layer = weights[:, :2]
    assert own_layer[1].tolist() == [0.0] * own_layer.shape[1]
    torch.testing.assert_close(own_layer.sum(dim=0), torch.ones(own_layer.shape[1]).double())
