"""Distributes the training samples over the workers, and draws batches from them."""

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.seeding import generator


class Batches:
    """An endless stream of batches from a worker's own samples, reshuffled at each pass.

    Args:
        samples: indices of the worker's samples, (n,).
        batch_size: samples per batch; a batch may extend over the end of a pass.
        random: the generator for shuffling.
    """

    def __init__(self, samples: Tensor, batch_size: int, random: torch.Generator) -> None:
        self._samples = samples
        self._batch_size = batch_size
        self._random = random
        self._left = samples[:0]

    def next(self) -> Tensor:
        """Indices of the next batch, (batch_size,)."""
        while len(self._left) < self._batch_size:
            order = torch.randperm(len(self._samples), generator=self._random)
            self._left = torch.cat([self._left, self._samples[order]])
        batch, self._left = self._left.tensor_split([self._batch_size])
        return batch

    def state_dict(self) -> dict[str, Tensor]:
        """What is left of this pass, and the generator's state."""
        return {"left": self._left, "random": self._random.get_state()}

    def load_state_dict(self, state: dict[str, Tensor], *, same_samples: bool = True) -> None:
        """Restores what `state_dict` returned.

        Args:
            state: what it returned.
            same_samples: whether the samples are the same; otherwise a new pass begins.
        """
        self._left = state["left"] if same_samples else self._samples[:0]
        self._random.set_state(state["random"])


def shard(targets: Tensor, num_workers: int, kind: str, seed: int) -> list[Tensor]:
    """Distributes the training samples over the workers.

    Args:
        targets: (n,), labels; used by "dirichlet" only.
        num_workers: N.
        kind: "iid" for equal random parts, "dirichlet:A" for parts whose mixture of labels is
            drawn from a symmetric Dirichlet distribution with parameter A (small: each worker
            sees few labels).
        seed: the run's seed.

    Returns:
        N index tensors; every sample is in one of them.

    Raises:
        UserError: if the kind is not known, or needs labels that the task does not have.

    Source: Hsu et al. (2019), "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", section 3, for the Dirichlet parts.
    """
    random = generator(seed, "shards")
    if kind == "iid":
        return list(torch.randperm(len(targets), generator=random).tensor_split(num_workers))
    name, _, parameter = kind.partition(":")
    concentration = _positive(parameter)
    if name != "dirichlet" or concentration is None:
        raise UserError(f'shards must be "iid" or "dirichlet:A" with A > 0, got {kind!r}')
    if targets.dim() != 1:
        raise UserError(f"shards {kind} need a label for each sample, and this task has none")
    parts: list[list[Tensor]] = [[] for _ in range(num_workers)]
    for label in torch.unique(targets):
        samples = torch.where(targets == label)[0]
        samples = samples[torch.randperm(len(samples), generator=random)]
        alphas = torch.full((num_workers,), concentration, dtype=torch.float64)
        shares = torch._sample_dirichlet(alphas, generator=random)
        cuts = (shares.cumsum(0)[:-1] * len(samples)).round().to(torch.int64)
        for part, piece in zip(parts, samples.tensor_split(cuts), strict=True):
            part.append(piece)
    return [torch.cat(part) for part in parts]


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0.0 < number < float("inf") else None
