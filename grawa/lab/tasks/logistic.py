"""Regularised logistic regression on generated data, whose minimiser is computed."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.task import Data, Task
from grawa.seeding import generator

_SAMPLES = 2000
_MOST_DIMENSIONS = 5000
"""With which the minimiser is found by solving for as many unknowns."""


@dataclass(frozen=True, kw_only=True)
class Logistic(Task):
    """Classify two overlapping Gaussian clouds with a regularised linear model.

        f(w) = mean_i log(1 + exp(-y_i w . x_i)) + 1/2 ridge |w|^2

    Args:
        dimensions: of the inputs.
        ridge: strength of the regularisation; makes the loss strongly convex.
    """

    metric: ClassVar[str] = "excess loss"
    num_classes: ClassVar[int] = 2

    dimensions: int = 20
    ridge: float = 0.01

    def __post_init__(self) -> None:
        if not 1 <= self.dimensions <= _MOST_DIMENSIONS or not self.ridge > 0.0:
            raise UserError(
                f"dimensions must be at least 1 and at most {_MOST_DIMENSIONS}, ridge "
                "positive, got "
                f"{self.dimensions} and {self.ridge}"
            )

    def data(self, seed: int) -> Data:
        """2,000 samples with labels 0 and 1; nothing is held out."""
        random = generator(seed, "samples")
        targets = torch.arange(_SAMPLES) % 2
        direction = torch.randn(self.dimensions, generator=random)
        direction /= direction.norm()
        noise = torch.randn(_SAMPLES, self.dimensions, generator=random)
        inputs = noise + (2.0 * targets.unsqueeze(1) - 1.0) * direction
        return Data(inputs, targets, inputs, targets)

    def model(self, seed: int) -> nn.Module:
        """A linear map without bias, initialised to zero."""
        return _linear(torch.zeros(1, self.dimensions))

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The regularised logistic loss."""
        scores = model(inputs).squeeze(1)
        fit = nn.functional.binary_cross_entropy_with_logits(scores, targets.to(scores.dtype))
        weights = torch.cat([p.flatten() for p in model.parameters()])
        return fit + 0.5 * self.ridge * weights.square().sum()

    def measure(self, model: nn.Module, data: Data) -> float:
        """The difference between the loss on all samples and its minimum."""
        inputs, targets = data.train_inputs.double().cpu(), data.train_targets.cpu()
        reached = torch.cat([p.detach().double().cpu() for p in model.parameters()])
        with torch.no_grad():
            losses = [
                self.loss(_linear(weights), inputs, targets)
                for weights in (reached, self.minimiser(data))
            ]
        return float(losses[0] - losses[1])

    def minimiser(self, data: Data) -> Tensor:
        """The weights with the smallest loss: (1, D), float64."""
        from sklearn.linear_model import LogisticRegression  # takes a second

        solver = LogisticRegression(
            C=1.0 / (self.ridge * len(data.train_inputs)),
            fit_intercept=False,
            solver="newton-cholesky",
            tol=1e-12,
        )
        solver.fit(data.train_inputs.double().cpu().numpy(), data.train_targets.cpu().numpy())
        return torch.from_numpy(solver.coef_)


def _linear(weights: Tensor) -> nn.Linear:
    """A linear map with these weights, (1, D), and no bias."""
    linear = nn.Linear(weights.shape[1], 1, bias=False, device="meta")
    linear.weight = nn.Parameter(weights)
    return linear
