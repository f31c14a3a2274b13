"""Small loss surfaces whose every second derivative can be written down."""

import torch
from torch import Tensor, nn

from grawa.flatness import Surface


class Bowl(nn.Module):
    """x' A x / 2 on each sample, plus the sample's noise times x."""

    def __init__(self, matrix: Tensor, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start)
        self._matrix = matrix

    def forward(self, noise: Tensor) -> Tensor:
        return 0.5 * torch.dot(self.x, torch.mv(self._matrix, self.x)) + torch.mv(noise, self.x)


def output(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return torch.mean(model(inputs))


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), targets)


def bowl(matrix: Tensor, start: Tensor, noise: Tensor | None = None) -> Surface:
    size = len(start)
    samples = torch.zeros(4, size, dtype=start.dtype) if noise is None else noise
    return Surface(
        model=Bowl(matrix, start),
        loss=output,
        inputs=samples,
        targets=torch.zeros(len(samples)),
        batch_size=2,
    )


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(count: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed))


def initialised(model: nn.Module) -> nn.Module:
    """In float64, with random weights that do not depend on the global generator."""
    model = model.double()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = 0.4 * random(*parameter.shape, seed=i)
    return model


def mlp() -> Surface:
    """87 parameters, 40 samples in batches of 14, 13 and 13."""
    layers = [nn.Linear(8, 7), nn.Tanh(), nn.Dropout(0.5), nn.Linear(7, 3)]
    model = initialised(nn.Sequential(*layers))  # no dropout while it is measured
    return Surface(
        model=model,
        loss=cross_entropy,
        inputs=random(40, 8, seed=20),
        targets=labels(40),
        batch_size=16,
    )


def cnn() -> Surface:
    """120 parameters, with BatchNorm, whose statistics are not those of the samples."""
    model = initialised(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(27, 3),
        )
    )
    return Surface(
        model=model,
        loss=cross_entropy,
        inputs=random(40, 1, 8, 8, seed=30),
        targets=labels(40),
        batch_size=20,
    )


def transformer() -> Surface:
    """Attention, LayerNorm and tied embeddings: 624 parameters."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    model = initialised(nn.Sequential(nn.Embedding(3, 8), layer, nn.Linear(8, 3, bias=False)))
    model.get_submodule("2").weight = model.get_submodule("0").weight
    tokens = torch.randint(0, 3, (20, 5), generator=torch.Generator().manual_seed(1))

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())

    return Surface(model=model, loss=loss, inputs=tokens, targets=tokens.roll(1, 1), batch_size=10)


def dense_hessian(surface: Surface) -> Tensor:
    """The whole matrix, row by row, on all samples at once, in eval mode."""
    model = surface.model.eval()
    params = [p for p in model.parameters() if p.requires_grad]
    loss = surface.loss(model, surface.inputs, surface.targets)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    flat = torch.cat([grad.flatten() for grad in grads])
    rows = [torch.autograd.grad(entry, params, retain_graph=True) for entry in flat]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
