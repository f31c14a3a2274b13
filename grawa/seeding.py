"""Random numbers: one generator per worker and purpose, and no global seed."""

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, independent of the seeds of all others.

    Returns:
        A number of 63 bits, the same on every machine.

    >>> derive_seed(0, "batches", 1) == derive_seed(0, "batches", 1) != derive_seed(0, "batches", 2)
    True
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose, on the CPU."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: str | int) -> Generator[None]:
    """Seeds torch's global generator for one purpose, and restores its state afterwards.

    For code that can't be given a generator, such as the initialisation of `torch.nn` layers.

    Yields:
        Nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, *purpose))
        yield
