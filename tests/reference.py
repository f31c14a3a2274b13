"""The methods as formulas in plain torch, on one row per worker; nothing here comes from grawa.

N workers, P parameters, L parameter tensors, B batch. `x` is (N, P) and the center `c` is (P,).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

SHAPES = [(8, 3), (8,), (2, 8), (2,)]
"""The parameter tensors of a network with one hidden layer."""
SIZES = [24, 8, 16, 2]
TAU, LR, MOMENTUM, WEIGHT_DECAY = 5, 0.05, 0.9, 1e-4
STEP_DECAY, ROUND_DECAY, WINDOW, PROBATION = 0.85, 0.9**8, 4, 64


@dataclass
class Scores:
    """What is known before a round."""

    norms: Tensor
    """(N, L)"""
    losses: Tensor
    """(N,), infinite for a worker that is left out."""
    guarded: bool

    def floored(self, norms: Tensor) -> Tensor:
        """With a guard, no norm lies below half the median of its column."""
        return norms.maximum(0.5 * norms.quantile(0.5, dim=0)) if self.guarded else norms


Round = Callable[[Tensor, Tensor, Scores], tuple[Tensor, Tensor]]


def mgrawa(pull: float = 0.5, power: float = 1.0) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        norms = scores.floored(scores.norms.sum(dim=1, keepdim=True))  # (N, 1)
        beta = norms**-power / (norms**-power).sum(dim=0)
        c = (beta * x).sum(dim=0)
        return (1 - pull) * x + pull * c, c

    return round_


def lgrawa(pull: float = 0.5) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        norms = scores.floored(scores.norms)  # (N, L)
        beta = (1 / norms) / (1 / norms).sum(dim=0)
        c = (beta.repeat_interleave(torch.tensor(SIZES), dim=1) * x).sum(dim=0)
        return (1 - pull) * x + pull * c, c

    return round_


def with_outer_nesterov(inner: Round, pull: float, lr: float = 0.7, momentum: float = 0.3) -> Round:
    velocity: Tensor | float = 0.0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal velocity
        _, mean = inner(x, c, scores)
        step = c - mean
        velocity = momentum * velocity + step
        c = c - lr * (step + momentum * velocity)
        return (1 - pull) * x + pull * c, c

    return round_


def diloco_with_adamw(
    lr: float, decay: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Round:
    mean: Tensor | float = 0.0
    square: Tensor | float = 0.0
    rounds = 0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal mean, square, rounds
        rounds += 1
        step = c - x.mean(dim=0)
        mean = betas[0] * mean + (1 - betas[0]) * step
        square = betas[1] * square + (1 - betas[1]) * step**2
        unbiased = mean / (1 - betas[0] ** rounds), square / (1 - betas[1] ** rounds)
        c = (1 - lr * decay) * c - lr * unbiased[0] / (unbiased[1].sqrt() + eps)
        return c.expand_as(x), c

    return round_


def slowmo(lr: float = 1.0, momentum: float = 0.7) -> Round:
    velocity: Tensor | float = 0.0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal velocity
        velocity = momentum * velocity + (c - x.mean(dim=0))
        c = c - lr * velocity
        return c.expand_as(x), c

    return round_


def rda(lr: float = 0.7, momentum: float = 0.9) -> Round:
    velocity: Tensor | float = 0.0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal velocity
        merged = []
        for moved in torch.split(x - c, SIZES, dim=1):
            lengths = moved.norm(dim=1, keepdim=True)
            u = (moved / lengths).mean(dim=0)
            merged.append(lengths.mean() * u / u.norm())
        step = -torch.cat(merged)
        velocity = momentum * velocity + step
        c = c - lr * (step + momentum * velocity)
        return c.expand_as(x), c

    return round_


def edit(sizes: list[int], temperature: float, threshold: float, warmup: int, clip: float) -> Round:
    """`sizes` are those of the groups; the moving means are written out as sums over all rounds."""
    past: list[Tensor] = []  # (N, G) of each round
    velocity: list[Tensor | float] = [0.0 for _ in sizes]

    def outliers(lengths: Tensor) -> Tensor:
        if len(past) < warmup:
            return torch.zeros_like(lengths, dtype=torch.bool)
        weights = 0.98 ** torch.arange(len(past) - 1, -1, -1, dtype=lengths.dtype)
        weights = (weights / weights.sum()).view(-1, 1, 1)
        mean = (weights * torch.stack(past)).sum(dim=0)
        variance = (weights * (torch.stack(past) - mean).square()).sum(dim=0)
        return (lengths - mean) / variance.sqrt() > threshold

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        moved = torch.split(x - c, sizes, dim=1)
        lengths = torch.stack([part.norm(dim=1) for part in moved], dim=1)
        left_out = outliers(lengths)
        past.append(lengths)
        steps = []
        for g, part in enumerate(moved):
            if bool(left_out[:, g].all()):
                steps.append(torch.zeros(sizes[g], dtype=x.dtype))
                continue
            weights = torch.exp(-lengths[:, g] / temperature) * ~left_out[:, g]
            d = weights @ part / weights.sum()
            step = -d * min(1.0, clip / float(d.norm()))
            velocity[g] = 0.85 * velocity[g] + step
            steps.append(0.8 * (step + 0.85 * velocity[g]))
        c = c - torch.cat(steps)
        return c.expand_as(x), c

    return round_


def by_displacement(inner: Round) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        return inner(x, c, Scores(norms_of(x - c), scores.losses, scores.guarded))

    return round_


def dppf(pull: float = 0.1, push: float = 0.03, warmup: int = 0) -> Round:
    rounds = 0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal rounds
        rounds += 1
        c = x.mean(dim=0)
        length = push * min(1.0, rounds / (warmup + 1))
        away = (x - c) / (x - c).norm(dim=1, keepdim=True)
        return x + pull * (c - x) + length * away, c

    return round_


def inverse_loss(pull: float = 0.5, power: float = 1.0) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        weights = scores.losses**-power / (scores.losses**-power).sum()
        c = weights @ x
        return (1 - pull) * x + pull * c, c

    return round_


def given_weights(rounds: Iterator[Tensor], pull: float = 0.5) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        weights = next(rounds) * (scores.losses < inf)
        c = (weights / weights.sum()) @ x
        return (1 - pull) * x + pull * c, c

    return round_


def easgd(elasticity: float = 0.9) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        share = elasticity / len(x)
        return (1 - share) * x + share * c, (1 - elasticity) * c + elasticity * x.mean(dim=0)

    return round_


def lsgd(pull: float = 0.1) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        c = x[scores.losses.argmin()]
        return (1 - pull) * x + pull * c, c

    return round_


def lsgd_in_teams(size: int, leader_every: int, team_pull: float = 0.1, pull: float = 0.1) -> Round:
    rounds = 0

    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        nonlocal rounds
        rounds += 1
        leader = x[scores.losses.argmin()]
        teams = []
        for team, losses in zip(
            torch.split(x, size), torch.split(scores.losses, size), strict=True
        ):
            share = 0.0 if bool((losses == inf).all()) else team_pull
            teams.append((1 - share) * team + share * team[losses.argmin()])
        x = torch.cat(teams)
        if rounds % leader_every:
            return x, c
        return (1 - pull) * x + pull * leader, leader

    return round_


def local_sgd(pull: float = 1.0) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        c = x.mean(dim=0)
        return (1 - pull) * x + pull * c, c

    return round_


def trimmed_mean(trimmed: int) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        ordered = x[scores.losses < inf].sort(dim=0).values
        cut = min(trimmed, (len(ordered) - 1) // 2)
        c = ordered[cut : len(ordered) - cut].mean(dim=0)
        return c.expand_as(x), c

    return round_


def median() -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        c = x[scores.losses < inf].quantile(0.5, dim=0)
        return c.expand_as(x), c

    return round_


def krum(faulty: int) -> Round:
    def round_(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        some = x[scores.losses < inf]
        squares = (some.unsqueeze(0) - some.unsqueeze(1)).square().sum(dim=2)
        nearest = squares.sort(dim=1).values[:, 1 : 1 + max(1, len(some) - faulty - 2)]
        c = some[nearest.sum(dim=1).argmin()]
        return c.expand_as(x), c

    return round_


def nothing(x: Tensor, c: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    return x, c


@dataclass
class Method:
    """A method: what happens at a round, and around it."""

    round: Round
    prox: float = 0.0
    consensus_is_center: bool = True
    shared_steps: float = 0
    """This many first steps use the mean of all workers' gradients."""
    pulls: Tensor | None = None
    """(S, N), how many times `prox` a worker is pulled after each local step; by default once."""


def gradients(x: Tensor, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Each worker's gradient (N, P) and loss (N,), on its batch."""

    def loss(row: Tensor, batch: Tensor, wanted: Tensor) -> Tensor:
        w1, b1, w2, b2 = (
            part.view(shape) for part, shape in zip(torch.split(row, SIZES), SHAPES, strict=True)
        )
        return (torch.tanh(batch @ w1.T + b1) @ w2.T + b2 - wanted).square().mean()

    grads, losses = vmap(grad_and_value(loss))(x, inputs, targets)
    return grads, losses


def norms_of(gradient: Tensor) -> Tensor:
    """L2 norms per parameter tensor, (N, L)."""
    return torch.stack([part.norm(dim=1) for part in torch.split(gradient, SIZES, dim=1)], dim=1)


def train(
    method: Method,
    start: Tensor,
    inputs: Tensor,
    targets: Tensor,
    *,
    guarded: bool = False,
    tells_losses: bool = False,
    probes: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Trains N workers with Nesterov SGD, with a round after every TAU steps.

    Args:
        method: what the workers do together.
        start: (P,), where all workers and the center begin.
        inputs: (S, N, B, 3), a batch for each step and worker.
        targets: (S, N, B, 2).
        guarded: whether norms are floored and high losses are left out.
        tells_losses: whether the guard knows the losses at the end.
        probes: one batch per round, the same for all workers, to take the norms on instead.

    Returns:
        All workers' parameters (N, P), and the consensus (P,).
    """
    workers = inputs.shape[1]
    x, c, v = start.repeat(workers, 1), start, torch.zeros(workers, len(start), dtype=start.dtype)
    average = torch.zeros(workers, len(SIZES), dtype=start.dtype)
    last_above, active = torch.full((workers,), -inf), torch.ones(workers, dtype=torch.bool)
    losses: list[Tensor] = []
    for t in range(1, len(inputs) + 1):
        g, loss = gradients(x, inputs[t - 1], targets[t - 1])
        losses.append(loss)
        if t <= method.shared_steps:
            g = g.mean(dim=0).expand_as(x)
        if probes is None:
            average = STEP_DECAY * average + (1 - STEP_DECAY) * norms_of(g)
        g = g + WEIGHT_DECAY * x
        v = MOMENTUM * v + g
        x = x - LR * (g + MOMENTUM * v)
        times = torch.ones(workers) if method.pulls is None else method.pulls[t - 1]
        strength = (method.prox / TAU * times.to(x)).unsqueeze(1)  # (N, 1)
        x = (1 - strength) * x + strength * c
        if t % TAU:
            continue
        if probes is None:
            norms = average / (1 - STEP_DECAY**TAU)
            average = torch.zeros_like(average)
        else:
            n = t // TAU
            probe = [batch[n - 1].expand(workers, -1, -1) for batch in probes]
            average = ROUND_DECAY * average + (1 - ROUND_DECAY) * norms_of(gradients(x, *probe)[0])
            norms = average / (1 - ROUND_DECAY**n)
        recent = torch.stack(losses[-WINDOW:]).mean(dim=0)
        whole = torch.stack(losses[-TAU:]).mean(dim=0)
        if guarded:
            above = whole > 2.0 * whole.median() + 0.3
            proven = ~above & (t - last_above >= PROBATION)
            last_above[above] = t
            active = proven if bool(proven.any()) else ~above
            recent = recent.masked_fill(~active, inf)
        x, c = method.round(x, c, Scores(norms, recent, guarded))
    return x, c if method.consensus_is_center else (x[active] if tells_losses else x).mean(dim=0)
