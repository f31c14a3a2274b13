"""A probe: right norms, and no trace of how they were taken."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

import grawa
from grawa.workers.gradients import Gradients
from grawa.workers.replicas import Replicas
from tests.world import on_ranks

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


def hosted(*models: nn.Module) -> Gradients:
    return Replicas(models, [[SGD(model.parameters(), lr=0.1)] for model in models]).gradients


def norms_of(*models: nn.Module, index: int = 0) -> Tensor:
    return hosted(*models).gradient_norms_on(batch(index), loss)


def by_hand(model: Net, index: int) -> list[float]:
    """The norms of the gradients that autograd gives in eval mode."""
    copy = Net()
    copy.load_state_dict(model.state_dict())
    copy.eval()
    loss(copy, batch(index)).backward()
    return [0.0 if p.grad is None else float(p.grad.norm()) for p in copy.parameters()]


def test_norms_are_those_of_the_gradient_in_eval_mode() -> None:
    models = [Net(0), Net(1)]
    norms = norms_of(*models, index=3)
    assert norms.shape == (2, 10)
    expected = torch.tensor([by_hand(model, 3) for model in models])
    torch.testing.assert_close(norms, expected, rtol=1e-6, atol=0.0)


def test_frozen_and_unused_parameters_have_norm_zero() -> None:
    model = Net()
    norms = dict(zip(dict(model.named_parameters()), norms_of(model)[0].tolist(), strict=True))
    zero = {name for name, norm in norms.items() if not norm}
    assert zero == {"frozen.weight", "frozen.bias", "unused.weight", "unused.bias"}


def test_the_same_batch_gives_the_same_norms_and_another_does_not() -> None:
    model = Net()
    assert torch.equal(norms_of(model, index=7), norms_of(model, index=7))
    assert not torch.equal(norms_of(model, index=7), norms_of(model, index=8))


def test_losses_are_those_in_eval_mode() -> None:
    models = [Net(0), Net(1)]
    losses = hosted(*models).losses_on(batch(3), loss)
    assert losses.shape == (2, 1)
    with torch.no_grad():
        by_hand = [float(loss(model.eval(), batch(3))) for model in models]
    assert losses[:, 0].tolist() == by_hand
    assert not losses.requires_grad


Probe = Callable[[nn.Module, Callable[[nn.Module, Batch], Tensor]], Tensor]


def by_norms(model: nn.Module, its_loss: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
    return hosted(model).gradient_norms_on(batch(1), its_loss)


def by_loss(model: nn.Module, its_loss: Callable[[nn.Module, Batch], Tensor]) -> Tensor:
    return hosted(model).losses_on(batch(1), its_loss)


both_probes = pytest.mark.parametrize("probe", [by_norms, by_loss])


class Counting(Net):
    """Its buffers change at every call, in place and by replacement."""

    calls: Tensor
    row: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("row", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.row = x[0].detach()
        return super().forward(x)


@both_probes
@pytest.mark.parametrize("kind", [Net, Counting])
def test_a_probe_leaves_no_trace(probe: Probe, kind: Callable[[], Net]) -> None:
    model = kind()
    model.train()
    model.norm.eval()  # a module may be in another mode than the model
    loss(model, batch(0)).backward()
    grads = [p.grad for p in model.parameters()]
    values = [None if grad is None else grad.clone() for grad in grads]
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    required = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    probe(model, loss)
    for p, grad, value in zip(model.parameters(), grads, values, strict=True):
        assert p.grad is grad
        assert grad is None or (value is not None and torch.equal(grad, value))
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == required
    assert torch.equal(torch.get_rng_state(), random)


def noisy_loss(model: nn.Module, samples: Batch) -> Tensor:
    """A loss that draws random numbers itself."""
    return loss(model, (samples[0] + torch.randn_like(samples[0]), samples[1]))


@both_probes
def test_random_numbers_drawn_by_the_loss_are_given_back(probe: Probe) -> None:
    model = Net()
    before = torch.get_rng_state()
    probe(model, noisy_loss)
    assert torch.equal(torch.get_rng_state(), before)


def failing_loss(model: nn.Module, samples: Batch) -> Tensor:
    raise KeyError("mine")


@both_probes
def test_modes_are_back_also_if_the_loss_fails(probe: Probe) -> None:
    model = Net()
    with pytest.raises(KeyError, match="mine"):
        probe(model, failing_loss)
    assert all(module.training for module in model.modules())


def test_a_probe_works_without_gradient_mode() -> None:
    model = Net()
    with torch.no_grad():
        norms = norms_of(model)
    assert torch.equal(norms, norms_of(model))
    assert not norms.requires_grad


@both_probes
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda m, s: cross_entropy(m(s[0]), s[1], reduction="none"), r"one number, got shape"),
        (lambda m, s: loss(m, s).item(), r"must be a tensor with one number, got \d"),
        (lambda m, s: torch.zeros((), device="meta"), "loss of a probe is on meta, and the model"),
    ],
    ids=["a vector", "a number", "elsewhere"],
)
def test_what_is_no_loss_is_refused_in_one_line(
    probe: Probe, bad: Callable[[nn.Module, Batch], Tensor], message: str
) -> None:
    with pytest.raises(grawa.UserError, match=message) as error:
        probe(Net(), bad)
    assert "\n" not in str(error.value)


def test_a_loss_that_does_not_depend_on_the_model_has_no_gradient() -> None:
    with pytest.raises(grawa.UserError, match="does not depend on the model's parameters"):
        by_norms(Net(), lambda m, s: loss(m, s).detach())


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(torch.tanh(self.a(x)))
        return result


def test_a_tied_weight_counts_once_with_both_of_its_gradients() -> None:
    model = Tied()
    norms = hosted(model).gradient_norms_on(batch(0), lambda m, s: m(s[0]).square().mean())
    model(batch(0)[0]).square().mean().backward()
    assert model.a.weight.grad is not None
    torch.testing.assert_close(norms, model.a.weight.grad.norm().view(1, 1))


def test_norms_of_bfloat16_gradients_are_summed_in_float32() -> None:
    model = nn.Linear(6, 4000, bias=False).bfloat16()
    inputs = batch(0)[0].bfloat16()
    norms = hosted(model).gradient_norms_on(inputs, lambda m, x: m(x).float().sum())
    (gradient,) = torch.autograd.grad(model(inputs).float().sum(), [model.weight])
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms[0, 0], gradient.float().norm(), rtol=1e-6, atol=0.0)


def probe_in_groups(kind: str) -> tuple[Tensor, Tensor, bool]:
    """Ranks 0 and 1 are a worker, and ranks 2 and 3: its norms and loss; whether `.grad` stays."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("across", "within"))
    within = mesh["within"].get_group()
    worker = dist.get_rank() // 2
    net: nn.Module = Net(worker)
    if kind == "fsdp":
        fully_shard(net, mesh=mesh["within"])
    else:
        net = DistributedDataParallel(net, process_group=within, find_unused_parameters=True)
    optimizer = SGD(net.parameters(), lr=0.0)
    workers = Replicas([net], [[optimizer]], within)
    loss(net, batch(9)).backward()
    held = optimizer.param_groups[0]["params"]
    grads = [p.grad for p in held]
    norms = workers.gradients.gradient_norms_on(batch(3), loss)
    value = workers.gradients.losses_on(batch(3), loss)
    workers.identity.check()
    assert not workers.follow()
    kept = all(p.grad is grad for p, grad in zip(held, grads, strict=True))
    loss(net, batch(8)).backward()  # the model trains on
    return norms[0], value[0], kept


@pytest.mark.world
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_worker_of_several_processes_is_probed_as_one(kind: str) -> None:
    for rank, (norms, value, kept) in enumerate(on_ranks(4, probe_in_groups, kind)):
        net = Net(rank // 2)
        whole = hosted(net)
        loss(net, batch(9))  # its BatchNorm has seen what theirs has
        torch.testing.assert_close(norms, whole.gradient_norms_on(batch(3), loss)[0])
        torch.testing.assert_close(value, whole.losses_on(batch(3), loss)[0])
        assert kept
