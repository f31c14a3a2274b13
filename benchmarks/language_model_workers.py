"""What each worker of `language_model.py` reads, of clean or of mixed quality."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from grawa.errors import UserError
from grawa.seeding import generator
from language_model_data import Corpus

CLEAN, MIXED = "clean", "mixed"

KINDS = (CLEAN, "random", "small", "repeated", "other")
"""What a worker can read: Python; Python in which half of the symbols are random; Python in batches
of a quarter; a small part of it again and again, with a few symbols changed; another language."""

RANDOM_SHARE = 0.5
"""Share of a "random" worker's symbols that are replaced by uniformly random ones."""

SMALLER = 4
"""How many times smaller the batches of a "small" worker are."""

REPEATS = 20
"""How often a "repeated" worker reads its text in a run."""

CHANGED_SHARE = 0.01
"""Share of the symbols that a "repeated" worker reads changed, others each time."""

_CLEAN_SHARE = 0.5
"""Probability that a worker of a mixed population is clean."""


def population(quality: str, workers: int, seed: int) -> tuple[str, ...]:
    """What each worker reads.

    In a mixed population each worker is clean with a probability of one half, and otherwise of one
    of the other kinds; of all such populations, those that have at least one clean worker and one
    of another kind.

    Args:
        quality: "clean", "mixed", or a kind for each worker, joined by +.
        workers: N.
        seed: of the draw.

    Returns:
        N of `KINDS`.

    Raises:
        UserError: if it is none of these.
    """
    if quality == MIXED:
        return _drawn(workers, seed)
    kinds = (CLEAN,) * workers if quality == CLEAN else tuple(quality.split("+"))
    if len(kinds) != workers or not set(kinds) <= set(KINDS):
        raise UserError(
            f"--quality is clean, mixed, or one of {', '.join(KINDS)} for each of the {workers} "
            f"workers, joined by +, got {quality!r}"
        )
    return kinds


def _drawn(workers: int, seed: int) -> tuple[str, ...]:
    if workers < 2:
        raise UserError("a mixed population needs at least 2 workers")
    for attempt in count():
        random = generator(seed, "population", attempt)
        is_clean = torch.rand(workers, generator=random) < _CLEAN_SHARE
        others = torch.randint(1, len(KINDS), (workers,), generator=random)
        if 0 < is_clean.sum() < workers:
            return tuple(KINDS[i] for i in torch.where(is_clean, 0, others).tolist())
    raise AssertionError("half of all draws have both")


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """A worker's batches, which depend on the seed and not on the method.

    Attributes:
        symbols: the worker's text, (n,).
        places: where each window of each step begins, (steps, B).
        context: symbols of a window.
        changes: the number of different symbols, if some are changed at random; otherwise 0.
        random: draws the changes.
    """

    symbols: Tensor
    places: Tensor
    context: int
    changes: int
    random: torch.Generator

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, (B, context) each."""
        ahead = torch.arange(self.context + 1, device=self.places.device)
        windows = self.symbols[self.places[step].unsqueeze(1) + ahead].long()
        if self.changes:
            windows = _changed(windows, CHANGED_SHARE, self.changes, self.random)
        return windows[:, :-1], windows[:, 1:]


def streams(
    corpus: Corpus,
    kinds: Sequence[str],
    *,
    seed: int,
    steps: int,
    batch: int,
    context: int,
    device: torch.device,
) -> list[Stream]:
    """The batches of all workers; each has its own part of the text.

    Args:
        corpus: the text.
        kinds: what the N workers read.
        seed: of the draws.
        steps: of a run.
        batch: windows in a batch of a worker whose batches are not small.
        context: symbols of a window.
        device: of the text.

    Returns:
        N streams.
    """
    found = []
    for worker, kind in enumerate(kinds):
        random = generator(seed, "batches", worker)
        own = corpus.other if kind == "other" else corpus.train
        own = own.tensor_split(len(kinds))[worker]
        if kind == "random":
            own = _changed(own, RANDOM_SHARE, corpus.symbols, random)
        if kind == "repeated":
            length = max(2 * (context + 1), steps * batch * context // REPEATS)
            first = int(torch.randint(max(1, len(own) - length), (), generator=random))
            own = own[first : first + length]
        if len(own) <= context:
            raise UserError(f"there is too little text for {len(kinds)} workers")
        windows = max(1, batch // SMALLER) if kind == "small" else batch
        places = torch.randint(len(own) - context, (steps, windows), generator=random)
        found.append(
            Stream(
                symbols=own.to(device),
                places=places.to(device),
                context=context,
                changes=corpus.symbols if kind == "repeated" else 0,
                random=random,
            )
        )
    return found


def _changed(symbols: Tensor, share: float, of: int, random: torch.Generator) -> Tensor:
    """The same symbols, a share of which is replaced by random ones."""
    drawn = torch.randint(of, symbols.shape, generator=random).to(symbols)
    is_changed = torch.rand(symbols.shape, generator=random) < share
    return torch.where(is_changed.to(symbols.device), drawn, symbols)
