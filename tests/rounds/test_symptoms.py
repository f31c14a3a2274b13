"""Looking for likely mistakes costs no memory that grows."""

import weakref

import torch

from grawa.rounds.symptoms import Symptoms


def test_norms_of_a_long_round_are_not_all_kept() -> None:
    symptoms = Symptoms(speaks=True)
    kept: list[weakref.ref[torch.Tensor]] = []
    for _ in range(1000):
        norms = torch.ones(1, 3)
        symptoms.note_norms(norms)
        kept.append(weakref.ref(norms))
    del norms
    assert sum(ref() is not None for ref in kept) <= 100
