"""What travels in fewer bits resumes with the same bits, without a first mean to load it into."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch

import grawa
from grawa.comm import InProcessCommunicator
from grawa.comm.compressed import Compressed, Precision
from tests.comm.test_compressed import EQUAL, FORMS, rows_of
from tests.lab.train.runs import always, end, events, same_model, settings

LSGD = always(grawa.LSGD(team_size=2, leader_every=2))


@pytest.mark.parametrize("comm_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("until", [2, 4, 6])
def test_a_resumed_run_in_teams_ends_with_the_same_bits(
    comm_dtype: str, until: int, tmp_path: Path
) -> None:
    whole = end(events(LSGD, settings(comm_dtype=comm_dtype)))
    chosen = settings(comm_dtype=comm_dtype, checkpoint_every=1)
    events(LSGD, chosen, checkpoints=tmp_path, until=until)
    assert same_model(end(events(LSGD, chosen, checkpoints=tmp_path)), whole)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_new_exchange_goes_on_from_a_saved_state(precision: Precision) -> None:
    first, second = (Compressed(InProcessCommunicator(4), precision) for _ in range(2))
    for step in range(3):
        first.weighted_mean(rows_of(step, range(4)), EQUAL)
    second.load_state_dict(deepcopy(first.state_dict()))
    one, two = (c.weighted_mean(rows_of(3, range(4)), EQUAL) for c in (first, second))
    assert all(torch.equal(one[name], two[name]) for name in FORMS)
