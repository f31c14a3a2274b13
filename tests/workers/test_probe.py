"""A probe: right norms, and no trace of how they were taken."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

import grawa

Batch = tuple[Tensor, Tensor]


class Net(nn.Module):
    """BatchNorm, dropout, a frozen layer and one that is not used."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(6, 8)
            self.norm = nn.BatchNorm1d(8)
            self.frozen = nn.Linear(8, 8).requires_grad_(False)
            self.dropout = nn.Dropout(0.5)
            self.unused = nn.Linear(3, 3)
            self.last = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(x)))
        result: Tensor = self.last(self.dropout(self.frozen(hidden)))
        return result


def batch(index: int) -> Batch:
    generator = torch.Generator().manual_seed(index)
    return torch.randn(64, 6, generator=generator), torch.randint(4, (64,), generator=generator)


def loss(model: nn.Module, samples: Batch) -> Tensor:
    return cross_entropy(model(samples[0]), samples[1])


def probe_of(*models: nn.Module) -> grawa.GradientProbe[Batch]:
    optimizers = [SGD(model.parameters(), lr=0.1) for model in models]
    return grawa.GradientProbe(list(models), optimizers, batch, loss)


def by_hand(model: Net, index: int) -> list[float]:
    """The norms of the gradients that autograd gives in eval mode."""
    copy = Net()
    copy.load_state_dict(model.state_dict())
    copy.eval()
    loss(copy, batch(index)).backward()
    return [0.0 if p.grad is None else float(p.grad.norm()) for p in copy.parameters()]


def test_norms_are_those_of_the_gradient_in_eval_mode() -> None:
    models = [Net(0), Net(1)]
    norms = probe_of(*models)(3)
    assert norms.shape == (2, 10)
    expected = torch.tensor([by_hand(model, 3) for model in models])
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=0.0)


def test_frozen_and_unused_parameters_have_norm_zero() -> None:
    model = Net()
    norms = dict(zip(dict(model.named_parameters()), probe_of(model)(0)[0].tolist(), strict=True))
    zero = {name for name, norm in norms.items() if not norm}
    assert zero == {"frozen.weight", "frozen.bias", "unused.weight", "unused.bias"}


def test_one_model_may_be_given_by_itself() -> None:
    model = Net()
    alone = grawa.GradientProbe(model, SGD(model.parameters(), lr=0.1), batch, loss)
    assert torch.equal(alone(0), probe_of(model)(0))


def test_the_same_batch_gives_the_same_norms_and_another_does_not() -> None:
    probe = probe_of(Net())
    assert torch.equal(probe(7), probe(7))
    assert not torch.equal(probe(7), probe(8))


def test_losses_are_those_in_eval_mode() -> None:
    models = [Net(0), Net(1)]
    losses = grawa.LossProbe(models, batch, loss)(3)
    assert losses.shape == (2, 1)
    with torch.no_grad():
        by_hand = [float(loss(model.eval(), batch(3))) for model in models]
    assert losses[:, 0].tolist() == by_hand
    assert not losses.requires_grad


Probing = Callable[[nn.Module], Callable[[int], Tensor]]

PROBES: list[Probing] = [probe_of, lambda model: grawa.LossProbe(model, batch, loss)]


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_leaves_no_trace(probe: Probing) -> None:
    model = Net()
    model.train()
    model.norm.eval()  # a module may be in another mode than the model
    loss(model, batch(0)).backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    required = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    probe(model)(1)
    for p, grad in zip(model.parameters(), grads, strict=True):
        if grad is None:
            assert p.grad is None
        else:
            assert p.grad is not None
            assert torch.equal(p.grad, grad)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == required
    assert torch.equal(torch.get_rng_state(), random)


def noisy_loss(model: nn.Module, samples: Batch) -> Tensor:
    """A loss that draws random numbers itself."""
    return loss(model, (samples[0] + torch.randn_like(samples[0]), samples[1]))


def test_random_numbers_drawn_by_the_loss_are_given_back() -> None:
    model = Net()
    probe = grawa.GradientProbe(model, SGD(model.parameters(), lr=0.1), batch, noisy_loss)
    before = torch.get_rng_state()
    probe(0)
    grawa.LossProbe(model, batch, noisy_loss)(0)
    assert torch.equal(torch.get_rng_state(), before)


def failing_loss(model: nn.Module, samples: Batch) -> Tensor:
    raise KeyError("mine")


def test_modes_are_back_also_if_the_loss_fails() -> None:
    model = Net()
    probe = grawa.GradientProbe(model, SGD(model.parameters(), lr=0.1), batch, failing_loss)
    try:
        probe(0)
    except KeyError:
        assert all(module.training for module in model.modules())
    else:
        raise AssertionError("the loss's own error is lost")


def test_a_probe_works_without_gradient_mode() -> None:
    probe = probe_of(Net())
    with torch.no_grad():
        norms = probe(0)
    assert torch.equal(norms, probe(0))
    assert not norms.requires_grad
