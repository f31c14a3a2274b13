"""Which samples a worker sees, and in which order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grawa.errors import UserError
from grawa.lab.train.batches import Batches, shard

LABELS = torch.arange(300) % 10


def stream(samples: int, size: int, seed: int = 0) -> Batches:
    """Batches of samples numbered from 100."""
    return Batches(torch.arange(100, 100 + samples), size, torch.Generator().manual_seed(seed))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_every_sample_comes_once_per_pass(samples: int, size: int, passes: int) -> None:
    batches = stream(samples, size)
    drawn: list[int] = []
    while len(drawn) < passes * samples:
        batch = batches.next().tolist()
        assert len(batch) == size
        drawn += batch
    for start in range(0, passes * samples, samples):
        assert sorted(drawn[start : start + samples]) == list(range(100, 100 + samples))


def test_each_pass_has_an_order_of_its_own() -> None:
    batches = stream(50, 50)
    assert batches.next().tolist() != batches.next().tolist()


def test_the_order_is_the_seeds() -> None:
    first, same, other = stream(50, 8), stream(50, 8), stream(50, 8, seed=1)
    drawn = [first.next().tolist() for _ in range(10)]
    assert drawn == [same.next().tolist() for _ in range(10)]
    assert drawn != [other.next().tolist() for _ in range(10)]


@pytest.mark.parametrize("before", [0, 1, 5, 7])
def test_a_stream_goes_on_where_it_was_saved(before: int) -> None:
    batches = stream(20, 6)
    for _ in range(before):
        batches.next()
    state = batches.state_dict()
    expected = [batches.next().tolist() for _ in range(9)]
    resumed = stream(20, 6, seed=99)
    resumed.load_state_dict(state)
    assert [resumed.next().tolist() for _ in range(9)] == expected


@given(st.integers(1, 9), st.sampled_from(["iid", "dirichlet:0.3", "dirichlet:100"]), st.integers())
def test_every_sample_belongs_to_one_worker(workers: int, kind: str, seed: int) -> None:
    shards = shard(LABELS, workers, kind, seed)
    assert len(shards) == workers
    assert sorted(torch.cat(shards).tolist()) == list(range(len(LABELS)))


@given(st.integers(1, 9), st.integers())
def test_iid_shards_are_as_equal_as_can_be(workers: int, seed: int) -> None:
    sizes = [len(samples) for samples in shard(LABELS, workers, "iid", seed)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet:1"])
def test_shards_are_the_seeds(kind: str) -> None:
    first, same, other = (shard(LABELS, 3, kind, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def concentration(kind: str) -> float:
    """The largest share of one label in a worker's samples, mean over workers and seeds."""
    shares = []
    for seed in range(10):
        for samples in shard(LABELS, 4, kind, seed):
            if len(samples):
                counts = torch.bincount(LABELS[samples], minlength=10)
                shares.append(float(counts.max() / counts.sum()))
    return sum(shares) / len(shares)


def test_a_small_parameter_gives_each_worker_few_labels() -> None:
    few, some, even = (concentration(f"dirichlet:{a}") for a in ("0.05", "1", "1000"))
    assert few > 0.4 > some > 0.15 > even


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "IID",
        "iid:1",
        "dirichlet",
        "dirichlet:",
        "dirichlet:0",
        "dirichlet:-1",
        "dirichlet:x",
        "dirichlet:nan",
        "dirichlet:inf",
        "uniform:1",
    ],
)
def test_other_kinds_of_shards_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match='shards must be "iid" or "dirichlet:A" with A > 0'):
        shard(LABELS, 4, kind, 0)


def test_shards_by_label_need_one_label_for_each_sample() -> None:
    with pytest.raises(UserError, match="shards dirichlet:1 need a label for each sample"):
        shard(torch.zeros(20, 3), 2, "dirichlet:1", 0)
    assert [len(part) for part in shard(torch.zeros(20, 3), 2, "iid", 0)] == [10, 10]
