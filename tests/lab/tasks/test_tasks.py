"""Tasks: data that fit their model and loss, and minima that are minima."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from grawa.errors import UserError
from grawa.lab.tasks import Data, Digits, Glyphs, Logistic, Quadratic, Task, Text, Wells

TASKS: dict[str, Task] = {
    "digits": Digits(),
    "few digits": Digits(train_size=100),
    "digits by a cnn": Digits(architecture="cnn"),
    "noisy digits": Digits(label_noise=0.2),
    "glyphs": Glyphs(train_size=100),
    "glyphs by a cnn": Glyphs(train_size=100, architecture="cnn", length=30),
    "text": Text(train_bytes=5000, test_bytes=3000, context=32, architecture="transformer_small"),
    "wells": Wells(),
    "quadratic": Quadratic(),
    "quadratic without noise": Quadratic(dimensions=3, noise=0.0),
    "logistic": Logistic(),
    "logistic in 3 dimensions": Logistic(dimensions=3, ridge=0.5),
}

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def in_float64(data: Data) -> Data:
    return Data(*(part.double() if part.is_floating_point() else part for part in data))


def gradient_at(task: Task, model: nn.Module, data: Data) -> Tensor:
    loss = task.loss(model, data.train_inputs, data.train_targets)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


@every_task
def test_the_same_seed_gives_the_same_data_and_model(task: Task) -> None:
    for first, second in zip(task.data(3), task.data(3), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(*(parameters_to_vector(task.model(3).parameters()) for _ in range(2)))


@every_task
def test_the_global_generator_is_left_alone_and_not_used(task: Task) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data, model = task.data(0), task.model(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(task.data(0).train_inputs, data.train_inputs)
    again = task.model(0)
    assert torch.equal(
        parameters_to_vector(again.parameters()), parameters_to_vector(model.parameters())
    )


@pytest.mark.parametrize(
    "task", [task for name, task in TASKS.items() if "logistic" not in name], ids=repr
)
def test_another_seed_gives_another_model(task: Task) -> None:
    first, second = (parameters_to_vector(task.model(seed).parameters()) for seed in (0, 1))
    assert not torch.equal(first, second)


@every_task
def test_the_loss_is_a_scalar_with_a_gradient_for_every_parameter(task: Task) -> None:
    data, model = task.data(0), task.model(0)
    loss = task.loss(model, data.train_inputs[:8], data.train_targets[:8])
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert task.measure(model.eval(), data) >= 0.0


def rows(inputs: Tensor) -> set[tuple[float, ...]]:
    return {tuple(row) for row in inputs.tolist()}


def test_digits_are_all_1797_images_each_once() -> None:
    data = Digits().data(0)
    assert [len(part) for part in data] == [1200, 1200, 597, 597]
    train, test = rows(data.train_inputs), rows(data.test_inputs)
    assert len(train | test) == 1797
    assert not train & test
    assert data.train_inputs.shape[1] == 64
    assert (float(data.train_inputs.min()), float(data.train_inputs.max())) == (0.0, 1.0)
    assert set(data.train_targets.tolist()) == set(data.test_targets.tolist()) == set(range(10))


def test_another_seed_holds_out_other_digits() -> None:
    assert rows(Digits().data(0).test_inputs) != rows(Digits().data(1).test_inputs)


@pytest.mark.parametrize("size", [0, -5, 1797, 5000])
def test_digits_need_some_images_on_either_side(size: int) -> None:
    with pytest.raises(UserError, match=f"train_size must lie between 1 and 1796 .*, got {size}"):
        Digits(train_size=size).data(0)


@pytest.mark.parametrize("size", [1, 1796])
def test_digits_can_be_split_anywhere(size: int) -> None:
    data = Digits(train_size=size).data(0)
    assert (len(data.train_inputs), len(data.test_inputs)) == (size, 1797 - size)


def test_the_error_is_the_fraction_of_images_taken_for_another_digit() -> None:
    task = Digits()
    data = task.data(0)
    always_three = nn.Linear(64, 10)
    with torch.no_grad():
        always_three.weight.zero_()
        always_three.bias.copy_(nn.functional.one_hot(torch.tensor(3), 10))
    expected = float((data.test_targets != 3).double().mean())
    assert task.measure(always_three, data) == pytest.approx(expected)


@pytest.mark.parametrize(("share", "wrong"), [(0.0, 0), (0.2, 240), (0.5, 600), (1.0, 1200)])
def test_so_many_training_labels_are_wrong_and_no_test_label(share: float, wrong: int) -> None:
    clean, noisy = Digits().data(5), Digits(label_noise=share).data(5)
    assert torch.equal(clean.train_inputs, noisy.train_inputs)
    assert torch.equal(clean.test_targets, noisy.test_targets)
    assert int((clean.train_targets != noisy.train_targets).sum()) == wrong
    assert set(noisy.train_targets.tolist()) == set(range(10))


def test_wrong_labels_are_the_seeds_and_of_all_other_kinds() -> None:
    task = Digits(label_noise=1.0)
    clean = Digits().data(2).train_targets
    first, other = task.data(2).train_targets, task.data(3).train_targets
    assert torch.equal(first, task.data(2).train_targets)
    assert not torch.equal(first, other)
    assert set(((first - clean) % 10).tolist()) == set(range(1, 10))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_labels_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=r"label_noise must lie in \[0, 1\], got"):
        Digits(label_noise=share)


def test_the_quadratics_minimum_is_at_zero() -> None:
    task = Quadratic(dimensions=6, noise=2.0)
    data = in_float64(task.data(4))
    model = task.model(4).double()
    with torch.no_grad():
        next(model.parameters()).zero_()
    # The samples' noise sums to zero, up to what float32 can hold.
    assert float(gradient_at(task, model, data).abs().max()) < 1e-6
    assert not task.measure(model, data)


def test_the_quadratics_curvatures_fall_evenly_from_one() -> None:
    task = Quadratic(dimensions=4, noise=0.0)
    data, model = task.data(0), task.model(0)
    position = parameters_to_vector(model.parameters()).detach()
    curvature = torch.tensor([1.0, 0.75, 0.5, 0.25])
    torch.testing.assert_close(gradient_at(task, model, data), curvature * position)
    assert task.measure(model, data) == pytest.approx(
        0.5 * float((curvature * position.square()).sum())
    )


def test_the_quadratics_noise_is_as_large_as_asked() -> None:
    noise = Quadratic(dimensions=5, noise=3.0).data(0).train_inputs
    torch.testing.assert_close(noise.std(dim=0), torch.full((5,), 3.0), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("task", [Logistic(), Logistic(dimensions=3, ridge=0.5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_logistic_minimiser_has_no_gradient_and_no_excess(task: Logistic, seed: int) -> None:
    data = in_float64(task.data(seed))
    model = nn.Linear(task.dimensions, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(task.minimiser(data))
    assert float(gradient_at(task, model, data).norm()) < 1e-8
    assert not task.measure(model, data)


@pytest.mark.parametrize("seed", range(5))
def test_the_logistic_excess_loss_is_positive_elsewhere(seed: int) -> None:
    task = Logistic()
    data = task.data(0)
    model = nn.Linear(task.dimensions, 1, bias=False)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        step = 0.1 * torch.randn(1, task.dimensions, generator=random)
        model.weight.copy_(task.minimiser(data) + step)
    # Strong convexity: at least half the ridge times the squared distance.
    assert task.measure(model, data) > 0.5 * task.ridge * float(step.square().sum()) * 0.999


@pytest.mark.parametrize(
    "make",
    [
        lambda: Text(context=0),
        lambda: Text(test_bytes=128),
        lambda: Quadratic(dimensions=0),
        lambda: Quadratic(noise=-1.0),
        lambda: Quadratic(noise=float("nan")),
        lambda: Logistic(dimensions=0),
        lambda: Logistic(ridge=0.0),
    ],
)
def test_options_out_of_range_are_refused(make: "type[Task]") -> None:
    with pytest.raises(UserError, match="must be at least 1 and"):
        make()
