"""Random numbers: one stream per purpose, and the global one left alone."""

import torch

from grawa.seeding import derive_seed, generator, seeded


def test_seeds_are_the_same_on_every_machine() -> None:
    # sha256 of "(0, 'batches', 1)", its first 63 bits.
    assert derive_seed(0, "batches", 1) == 0x58B8720B3FB26238


def test_every_seed_and_purpose_has_a_seed_of_its_own() -> None:
    purposes: list[tuple[str | int, ...]] = [
        (purpose, worker) for purpose in ("batches", "wrong-labels") for worker in range(50)
    ]
    purposes += [("model",), ("1",), (1,), ("batches",), ("batches", 1, 1), ("batches1",)]
    seeds = [derive_seed(seed, *purpose) for seed in range(20) for purpose in purposes]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_repeatable_and_differ() -> None:
    first, same, other = (
        torch.rand(100, generator=generator(0, "batches", worker)) for worker in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not bool((first == other).any())


def test_the_global_generator_is_borrowed_and_given_back() -> None:
    torch.manual_seed(12)
    expected = torch.rand(4)
    torch.manual_seed(12)
    with seeded(0, "model"):
        drawn = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with seeded(0, "model"):
        assert torch.equal(torch.rand(4), drawn)
    with seeded(1, "model"):
        assert not torch.equal(torch.rand(4), drawn)


def test_it_is_given_back_after_an_error_too() -> None:
    torch.manual_seed(12)
    before = torch.get_rng_state()
    try:
        with seeded(0, "model"):
            torch.rand(4)
            raise KeyError
    except KeyError:
        assert torch.equal(torch.get_rng_state(), before)
