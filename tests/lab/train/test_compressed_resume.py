"""Teams whose means travel in fewer bits resume with the same bits."""

from pathlib import Path

import pytest

import grawa
from tests.lab.train.runs import always, end, events, same_model, settings

LSGD = always(grawa.LSGD(team_size=2, leader_every=2))


@pytest.mark.parametrize("comm_dtype", ["bf16", "int8"])
@pytest.mark.parametrize("until", [2, 4, 6])
def test_a_resumed_run_in_teams_ends_with_the_same_bits(
    comm_dtype: str, until: int, tmp_path: Path
) -> None:
    whole = end(events(LSGD, settings(comm_dtype=comm_dtype)))
    chosen = settings(comm_dtype=comm_dtype)
    events(LSGD, chosen, checkpoints=tmp_path, every=1, until=until)
    assert same_model(end(events(LSGD, chosen, checkpoints=tmp_path, every=1)), whole)
