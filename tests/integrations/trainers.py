"""What a trainer's loop is compared with: a plain loop over the batches that its model has seen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import Dataset

import grawa
from tests.helpers import INPUTS, OUTPUTS, mlp
from tests.world import launched, results

SYNC_EVERY, RATE = 4, 0.01

State = dict[str, Tensor]
Batches = list[tuple[Tensor, Tensor]]


class Samples(Dataset[dict[str, Tensor]]):
    """Samples of a regression, always the same."""

    def __init__(self, count: int) -> None:
        random = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(count, INPUTS, generator=random)
        self._targets = torch.randn(count, OUTPUTS, generator=random)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self._inputs[index], "labels": self._targets[index]}


class Recording(nn.Module):
    """A network that remembers what it was trained on."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(*mlp(torch.float32).children(), nn.Dropout(dropout))
        self.seen: Batches = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss, as Transformers wants it."""
        if self.training:
            self.seen.append((x.clone(), labels.clone()))
        return {"loss": mse_loss(self.net(x), labels)}


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=RATE)


def copied(model: nn.Module) -> State:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def plain(seen: Sequence[Batches], strategy: grawa.Strategy, clip: float | None) -> State:
    """The consensus of a plain loop over each rank's batches."""
    with grawa.distributed():
        model = Recording()
        optimizer = adamw(model)
        with grawa.Averager(model, optimizer, strategy, sync_every=SYNC_EVERY) as averager:
            for x, labels in seen[torch.distributed.get_rank()]:
                loss = model(x, labels)["loss"]
                loss.backward()
                if clip is not None:
                    averager.clip_grad_norm_(clip)
                averager.record_loss(loss)
                optimizer.step()
                optimizer.zero_grad()
        return averager.consensus()


def assert_as_plain(
    found: Sequence[tuple[State, Batches]], strategy: grawa.Strategy, clip: float | None
) -> None:
    """Each rank's model is that of the plain loop over the same batches."""
    expected = results(launched(2, plain, [seen for _, seen in found], strategy, clip))
    for (state, _), plainly in zip(found, expected, strict=True):
        assert set(state) == set(plainly)
        for name, value in plainly.items():
            torch.testing.assert_close(state[name], value, rtol=0.0, atol=1e-6)


def assert_same(found: Sequence[State], others: Sequence[State]) -> None:
    """The bits are the same on each rank."""
    for one, other in zip(found, others, strict=True):
        assert set(one) == set(other)
        assert all(torch.equal(one[name], other[name]) for name in one)
