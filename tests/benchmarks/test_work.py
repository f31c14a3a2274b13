"""What benchmarks measure does the work that it is named after."""

import os
import sys
import warnings
from collections import Counter
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

import local_step
import methods
from models import ManyTensors
from sync_worker import tell_accelerate
from tests.world import on_ranks

pytestmark = pytest.mark.world


class _Counted(TorchDispatchMode):
    """Counts the operations that are run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.operations[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def _norms_and_pulls() -> dict[str, tuple[int, int]]:
    """How often each variant takes norms and pulls parameters between the first two rounds."""
    found = {}
    for name, cycle in local_step._optimizer_alone("SGD", False, local_step.TOY).items():
        for _ in range(cycle.length):
            cycle.step()
        with _Counted() as counted:
            for _ in range(cycle.length - 1):
                cycle.step()
        operations = counted.operations
        found[name] = operations["_foreach_norm"], operations["_foreach_lerp_"]
    return found


def test_attached_local_steps_take_norms_and_pull() -> None:
    # The last step before a round, with its norms and its pull, is not among those that are timed.
    norms, pulls = local_step.NOTED - 1, local_step.PULLS - 1
    assert _norms_and_pulls() == {
        "bare": (0, 0),
        "counting": (0, 0),
        "norms": (norms, 0),
        "pull": (0, pulls),
        "norms and pull": (norms, pulls),
        "norms and pull, rounds every 128 steps": (norms + 4, pulls),  # and one in 25 before
    }


def _distances(name: str) -> tuple[float, float]:
    """How far apart the ranks' parameters are before and after a round of a method."""
    # torchft 0.2.0 calls it in a thread, and takes the exception for a lost peer.
    warnings.filterwarnings("ignore", "The 'warn' method is deprecated", DeprecationWarning)
    model = ManyTensors(1000, 1 if name == methods.BASELINE else 4, seed=dist.get_rank())
    with patch.dict(os.environ):
        tell_accelerate(dist.get_rank(), dist.get_world_size())
        method = methods.METHODS[name](model, methods.sgd(model))
    method.local_step()
    before = _apart(model)
    method.run()
    after = _apart(model)
    method.close()
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    return before, after


def _apart(model: ManyTensors) -> float:
    own = torch.cat([p.detach().flatten() for p in model.parameters()])
    everyone = [torch.empty_like(own), torch.empty_like(own)]
    dist.all_gather(everyone, own)
    return float((everyone[0] - everyone[1]).norm())


IN_BACKGROUND = "LGRAWA, overlap, blocked"


@pytest.mark.parametrize("name", [name for name in methods.METHODS if name != IN_BACKGROUND])
def test_a_measured_round_brings_the_workers_together(name: str) -> None:
    if not methods.is_installed(name):
        pytest.skip(f"what {name} needs is not installed")
    for before, after in on_ranks(2, _distances, name):
        assert before > 0.0
        assert after <= 0.95 * before  # the pull of LSGD is a tenth


def _blocked_seconds() -> float:
    model = ManyTensors(1000, 4, seed=dist.get_rank())
    with patch.object(methods, "HIDING_SECONDS", 0.1):
        method = methods.METHODS[IN_BACKGROUND](model, methods.sgd(model))
        method.local_step()
        method.run()
        method.close()
    assert method.seconds is not None
    return method.seconds()


def test_a_round_in_the_background_is_run_and_reported() -> None:
    for seconds in on_ranks(2, _blocked_seconds):
        assert 0.0 < seconds < 0.1  # the pause hides the round
