"""Processes of a group prove to each other that they are."""

from datetime import timedelta
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from grawa.comm.greeting import greet
from grawa.errors import CommunicationError
from tests.world import on_ranks, outcomes

pytestmark = pytest.mark.world

PATIENCE, SOON = timedelta(seconds=20), timedelta(seconds=0.5)


def among_themselves() -> float:
    assert dist.group.WORLD is not None
    for _ in range(2):
        greet(dist.group.WORLD, PATIENCE)
    total = torch.ones(1)
    dist.all_reduce(total)
    return float(total)


def test_processes_know_each_other() -> None:
    assert on_ranks(3, among_themselves) == [3.0] * 3


def with_a_stranger() -> None:
    """Rank 1 connects, but knows nothing."""
    assert dist.group.WORLD is not None
    guess = torch.zeros(32, dtype=torch.uint8)
    if dist.get_rank() == 1:
        with patch("grawa.comm.greeting._proof", return_value=guess):
            greet(dist.group.WORLD, PATIENCE)
    else:
        greet(dist.group.WORLD, PATIENCE)


def beside_a_silent_one() -> None:
    if dist.get_rank() == 0:
        assert dist.group.WORLD is not None
        greet(dist.group.WORLD, SOON)


@pytest.mark.parametrize(
    ("job", "fault"),
    [(with_a_stranger, "does not know"), (beside_a_silent_one, "does not answer")],
)
def test_somebody_else_is_noticed(job: object, fault: str) -> None:
    assert callable(job)
    first, _ = outcomes(2, job)
    assert isinstance(first, CommunicationError)
    assert f"what connected as process 1 of the group {fault}" in str(first)
