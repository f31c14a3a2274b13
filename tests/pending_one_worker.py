"""One worker is plain training, to the bit, whatever the strategy."""

import pytest
import torch

import grawa
from tests.helpers import STRATEGIES, alone, averaged, batches, flat_state, mlp

DATA = batches(8, 1)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "lsgd in teams"])
@pytest.mark.parametrize("guard", [None, grawa.Guard()], ids=["no guard", "guard"])
def test_one_worker_trains_as_without_grawa(name: str, guard: grawa.Guard | None) -> None:
    workers, consensus = averaged(STRATEGIES[name], DATA, guard=guard)
    assert torch.equal(workers, alone(DATA))
    assert torch.equal(consensus, workers[0])
    assert not torch.equal(consensus, flat_state(mlp(), dict(mlp().named_parameters())))
