"""Models are those that were published: as many parameters, and outputs of the right shape."""

import pytest
import torch
from torch import nn

from grawa.errors import UserError
from grawa.lab.tasks import Cifar10, Digits, Glyphs, ImageNet, Text
from grawa.lab.tasks.models.registry import CIFAR_MODELS, MODELS, build, check_model

PUBLISHED = {
    # name: (sample, classes, parameters), the last counted by hand from the papers' tables
    "mlp": ((1, 8, 8), 10, 64 * 64 + 64 + 64 * 10 + 10),
    "cnn": ((3, 32, 32), 10, 3 * 9 * 16 + 16 + 16 * 9 * 32 + 32 + 32 * 64 * 10 + 10),
    "resnet20": ((3, 32, 32), 10, 269_722),
    "resnet56": ((3, 32, 32), 10, 853_018),
    "vgg16": ((3, 32, 32), 10, 14_724_042),
    "wide_resnet28_10": ((3, 32, 32), 10, 36_479_194),
    "pyramidnet110_270": ((3, 32, 32), 10, 28_485_477),
    "densenet121": ((3, 32, 32), 10, 6_956_298),
    "resnet50": ((3, 224, 224), 1000, 25_557_032),
    "transformer": ((128,), 256, 1_272_064),
    "transformer_small": ((128,), 256, 46_208),
}

MILLIONS = {
    "resnet20": 0.27,  # He et al. (2016), table 6
    "resnet56": 0.85,  # the same
    "wide_resnet28_10": 36.5,  # Zagoruyko and Komodakis (2016), table 4
    "densenet121": 7.0,  # Huang et al. (2017), with the stem for CIFAR
    "resnet50": 25.6,  # He et al. (2016)
    "vgg16": 14.7,  # Simonyan and Zisserman (2015), its 13 convolutions
}

every_model = pytest.mark.parametrize("name", MODELS)


def on_meta(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model without memory, and its outputs on two samples without memory."""
    shape, classes, _ = PUBLISHED[name]
    with torch.device("meta"):
        model = build(name, shape, classes)
        flat = (64,) if name == "mlp" else shape
        return model, model(torch.zeros(2, *flat))


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@every_model
def test_parameters_are_as_many_as_published(name: str) -> None:
    model, _ = on_meta(name)
    assert count(model) == PUBLISHED[name][2]
    if name in MILLIONS:
        digits = 2 if MILLIONS[name] < 1 else 1
        assert round(count(model) / 1e6, digits) == MILLIONS[name]


def test_the_pyramids_parameters_lie_where_they_are_reported() -> None:
    # 28.3 million in Han et al. (2017), table 4; 28.5 in later counts of the same network.
    assert 28.3e6 <= count(on_meta("pyramidnet110_270")[0]) <= 28.5e6


@every_model
def test_there_is_an_output_for_each_class(name: str) -> None:
    _, outputs = on_meta(name)
    shape, classes, _ = PUBLISHED[name]
    expected = (2, *shape, classes) if name.startswith("transformer") else (2, classes)
    assert outputs.shape == expected


LAYERS = {
    "resnet20": 20,
    "resnet56": 56,
    "vgg16": 14,
    "wide_resnet28_10": 26,
    "pyramidnet110_270": 110,
    "densenet121": 121,
    "resnet50": 50,
}
"""As in the names; but VGG has one linear layer of three, and WRN's name counts its projections
and not the linear layer: 28 = 26 - 1 + 3."""


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_as_many_as_the_name_says(name: str) -> None:
    model, _ = on_meta(name)
    layers = [
        path
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and "shortcut" not in path
    ]
    assert len(layers) == LAYERS[name]


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20", "transformer_small"])
def test_all_parameters_have_finite_gradients(name: str) -> None:
    shape = {"mlp": (1, 8, 8), "transformer_small": (16,)}.get(name, (3, 16, 16))
    model = build(name, shape, 10)
    samples = torch.randint(10, (4, 16)) if name == "transformer_small" else torch.randn(4, *shape)
    outputs = model(samples.flatten(1) if name == "mlp" else samples)
    rows = outputs.reshape(-1, outputs.shape[-1])
    nn.functional.cross_entropy(rows, torch.arange(len(rows)) % 10).backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
        assert float(parameter.grad.norm()) > 0.0


def test_the_small_cnn_takes_images_in_rows_and_signals() -> None:
    images = build("cnn", (1, 8, 8), 10)
    pictures = torch.randn(5, 1, 8, 8)
    assert torch.equal(images(pictures), images(pictures.flatten(1)))
    signals = build("cnn", (1, 50), 10)
    assert signals(torch.randn(5, 50)).shape == (5, 10)


def test_the_transformer_does_not_look_ahead() -> None:
    model = build("transformer_small", (12,), 256)
    with torch.no_grad():
        model.get_parameter("positions").normal_()
    text = torch.randint(256, (1, 12))
    other = text.clone()
    other[0, 7:] += 1
    first, second = model(text), model(other % 256)
    torch.testing.assert_close(first[:, :7], second[:, :7])
    assert not torch.allclose(first[:, 7:], second[:, 7:])


def test_the_transformer_has_second_derivatives() -> None:
    model = build("transformer_small", (6,), 8)
    parameters = list(model.parameters())
    loss = model(torch.arange(6).unsqueeze(0)).logsumexp(dim=-1).mean()
    first = torch.autograd.grad(loss, parameters, create_graph=True)
    length = torch.stack([g.square().sum() for g in first]).sum()
    second = torch.autograd.grad(length, parameters)
    assert all(bool(g.isfinite().all()) for g in second)


def test_convolutions_are_drawn_as_wide_as_he_et_al_say() -> None:
    model = build("vgg16", (3, 32, 32), 10)
    widest = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
    assert float(widest.weight.detach().std()) == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("name", ["", "resnet", "ResNet20", "transformer"])
def test_unknown_models_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(UserError, match=f"model must be one of cnn, resnet20, .*, got '{name}'"):
        check_model(name, CIFAR_MODELS)
    with pytest.raises(UserError, match="resnet56, vgg16"):
        Cifar10(architecture=name)


def test_tasks_take_models_that_suit_them() -> None:
    for make, wrong in (
        (lambda: Digits(architecture="vgg16"), "mlp, cnn"),
        (lambda: Glyphs(architecture="resnet20"), "mlp, cnn"),
        (lambda: Text(architecture="mlp"), "transformer, transformer_small"),
        (lambda: ImageNet(architecture="resnet20"), "resnet50"),
    ):
        with pytest.raises(UserError, match=f"model must be one of {wrong}, got"):
            make()
