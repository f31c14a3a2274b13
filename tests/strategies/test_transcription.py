"""Every strategy, over real training, against its formulas in plain torch."""

from dataclasses import dataclass
from functools import partial
from math import inf

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, AdamW

import grawa
from examples.krum import Krum
from examples.median import Median
from grawa.math.leaves import Leaves, Stack
from grawa.math.order import trimmed_mean
from grawa.strategies import InverseLoss, RandomWeights
from grawa.strategies.protocol import Communicator, State
from grawa.strategies.prox import Proximal
from tests import reference
from tests.helpers import Data, Fleet, averaged, batches, flat, flat_state, mlp
from tests.reference import Method

WORKERS, ROUNDS = 4, 4
STEPS = ROUNDS * reference.TAU
SCALES = (1.0, 0.15, 1.6, 1.7, 0.8)
"""Of the workers' data: worker 1's gradients are below half the median, and the losses of the
second team are above the guard's gate; the last one is there where there are five."""

BLOCKS = [32, 18]
"""Parameters of the network's two blocks."""


@dataclass
class Case:
    strategy: grawa.Strategy
    method: Method
    needs_losses: bool = False
    workers: int = WORKERS


@dataclass(frozen=True, kw_only=True)
class TrimmedMean(Median):
    """As a user would write it, in any file."""

    trimmed: int

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        return comm.reduce_rows(params, partial(trimmed_mean, trimmed=self.trimmed))


DRAWN = grawa.LocalSGD(pull=0.5, prox=0.3, prox_probability=0.25, prox_seed=3)


def pulls_of(strategy: Proximal) -> Tensor:
    """What a strategy draws, in units of its prox, (S, N)."""
    drawn = [[strategy.prox_at(i, t) for i in range(WORKERS)] for t in range(1, STEPS + 1)]
    return torch.tensor(drawn, dtype=torch.float64) / strategy.prox


def cases() -> dict[str, Case]:
    """Anew for each test, since some methods keep state."""
    outer = grawa.OuterNesterov()
    return {
        "mgrawa": Case(grawa.MGRAWA(prox=0.1), Method(reference.mgrawa(), prox=0.1)),
        "mgrawa, squared": Case(
            grawa.MGRAWA(pull=0.3, prox=0.0, power=2.0), Method(reference.mgrawa(0.3, 2.0))
        ),
        "lgrawa": Case(grawa.LGRAWA(prox=0.1), Method(reference.lgrawa(), prox=0.1)),
        "lgrawa with outer Nesterov": Case(
            grawa.LGRAWA(prox=0.1, outer=outer),
            Method(reference.with_outer_nesterov(reference.lgrawa(), pull=0.5), prox=0.1),
        ),
        "easgd": Case(grawa.EASGD(), Method(reference.easgd())),
        "easgd with prox": Case(grawa.EASGD(prox=0.1), Method(reference.easgd(), prox=0.1)),
        "lsgd": Case(
            grawa.LSGD(prox=0.1),
            Method(reference.lsgd(), prox=0.1, consensus_is_center=False),
            needs_losses=True,
        ),
        "lsgd in teams": Case(
            grawa.LSGD(prox=0.1, team_size=2, team_pull=0.2, leader_every=2),
            Method(
                reference.lsgd_in_teams(2, leader_every=2, team_pull=0.2),
                prox=0.1,
                consensus_is_center=False,
            ),
            needs_losses=True,
        ),
        "local sgd": Case(
            grawa.LocalSGD(), Method(reference.local_sgd(), consensus_is_center=False)
        ),
        "local sgd, soft pull with prox": Case(
            grawa.LocalSGD(pull=0.5, prox=0.1),
            Method(reference.local_sgd(0.5), prox=0.1, consensus_is_center=False),
        ),
        "local sgd with drawn pulls": Case(
            DRAWN,
            Method(
                reference.local_sgd(0.5),
                prox=DRAWN.prox,
                consensus_is_center=False,
                pulls=pulls_of(DRAWN),
            ),
        ),
        "lgrawa with drawn pulls": Case(
            grawa.LGRAWA(prox=0.1, prox_probability=0.5),
            Method(
                reference.lgrawa(),
                prox=0.1,
                pulls=pulls_of(grawa.LGRAWA(prox=0.1, prox_probability=0.5)),
            ),
        ),
        "local sgd with warm-up": Case(
            grawa.LocalSGD(warmup_steps=7),
            Method(reference.local_sgd(), consensus_is_center=False, shared_steps=7),
        ),
        "diloco": Case(
            grawa.DiLoCo(),
            Method(reference.with_outer_nesterov(reference.local_sgd(), pull=1.0)),
        ),
        "diloco with outer SGD": Case(
            grawa.DiLoCo(outer=partial(SGD, lr=0.7, momentum=0.9, nesterov=True)),
            Method(reference.with_outer_nesterov(reference.local_sgd(), 1.0, 0.7, 0.9)),
        ),
        "diloco with outer AdamW": Case(
            grawa.DiLoCo(outer=partial(AdamW, lr=0.05, weight_decay=0.1, eps=1e-3)),
            Method(reference.diloco_with_adamw(0.05, 0.1, eps=1e-3)),
        ),
        "outer steps": Case(
            grawa.OuterSteps(outer=grawa.OuterNesterov(lr=0.6, momentum=0.5)),
            Method(reference.with_outer_nesterov(reference.local_sgd(), 1.0, 0.6, 0.5)),
        ),
        "slowmo": Case(grawa.SlowMo(), Method(reference.slowmo())),
        "slowmo, half a step": Case(
            grawa.SlowMo(slow_lr=0.5, momentum=0.9), Method(reference.slowmo(0.5, 0.9))
        ),
        "rda": Case(
            grawa.RDA(outer=grawa.OuterNesterov(lr=0.4, momentum=0.5)),
            Method(reference.rda(0.4, 0.5)),
        ),
        "edit": Case(
            grawa.EDiT(temperature=0.2, threshold=0.5, warmup_rounds=2, clip=0.2),
            Method(reference.edit(BLOCKS, 0.2, 0.5, 2, 0.2)),
        ),
        "edit by tensor": Case(
            grawa.EDiT(group_by=grawa.by_tensor),
            Method(reference.edit(reference.SIZES, 1.0, 3.0, 20, 10.0)),
        ),
        "mgrawa by displacement": Case(
            grawa.MGRAWA(score=grawa.DisplacementNorms(), prox=0.1),
            Method(reference.by_displacement(reference.mgrawa()), prox=0.1),
        ),
        "lgrawa by displacement": Case(
            grawa.LGRAWA(score=grawa.DisplacementNorms(), prox=0.1),
            Method(reference.by_displacement(reference.lgrawa()), prox=0.1),
        ),
        "dppf": Case(grawa.DPPF(), Method(reference.dppf(), consensus_is_center=False)),
        "dppf with warm-up": Case(
            grawa.DPPF(pull=0.3, push=0.02, push_warmup=2),
            Method(reference.dppf(0.3, 0.02, 2), consensus_is_center=False),
        ),
        "random": Case(
            RandomWeights(prox=0.1, seed=5),
            Method(
                reference.given_weights(
                    RandomWeights(seed=5).draw(WORKERS, done) for done in range(ROUNDS)
                ),
                prox=0.1,
            ),
            needs_losses=True,
        ),
        "inverse loss": Case(
            InverseLoss(prox=0.1),
            Method(reference.inverse_loss(), prox=0.1),
            needs_losses=True,
        ),
        "inverse loss, squared": Case(
            InverseLoss(pull=0.3, prox=0.0, power=2.0),
            Method(reference.inverse_loss(0.3, 2.0)),
            needs_losses=True,
        ),
        "data parallel": Case(
            grawa.DataParallel(),
            Method(reference.nothing, consensus_is_center=False, shared_steps=inf),
        ),
        "median": Case(Median(), Method(reference.median()), needs_losses=True),
        "median of five": Case(Median(), Method(reference.median()), needs_losses=True, workers=5),
        "trimmed mean": Case(
            TrimmedMean(trimmed=1), Method(reference.trimmed_mean(1)), needs_losses=True, workers=5
        ),
        "krum": Case(Krum(), Method(reference.krum(faulty=1)), needs_losses=True, workers=5),
    }


def data_of(dtype: torch.dtype, workers: int = WORKERS) -> Data:
    return batches(STEPS, workers, dtype, SCALES[:workers])


def start(dtype: torch.dtype) -> Tensor:
    return flat(mlp(dtype))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("guarded", [False, True], ids=["no guard", "guard"])
@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)], ids=str
)
def test_training_is_what_the_formulas_say(
    name: str, guarded: bool, dtype: torch.dtype, tolerance: float
) -> None:
    case = cases()[name]
    data = data_of(dtype, case.workers)
    workers, consensus = averaged(
        case.strategy,
        data,
        sync_every=reference.TAU,
        guard=grawa.Guard() if guarded else None,
        tell_loss=case.needs_losses,
    )
    expected_workers, expected_consensus = reference.train(
        case.method,
        start(dtype).double(),
        data.inputs.double(),
        data.targets.double(),
        guarded=guarded,
        tells_losses=case.needs_losses,
    )
    assert relative_error(workers, expected_workers) <= tolerance
    assert relative_error(consensus, expected_consensus) <= tolerance


@pytest.mark.parametrize("name", ["mgrawa", "lgrawa", "lsgd in teams"])
def test_the_guard_changes_these_runs(name: str) -> None:
    data = data_of(torch.float64)
    with_guard, without = (
        reference.train(
            cases()[name].method, start(torch.float64), data.inputs, data.targets, guarded=guarded
        )[0]
        for guarded in (True, False)
    )
    assert relative_error(with_guard, without) > 1e-3


@pytest.mark.parametrize("name", ["mgrawa", "lgrawa"])
def test_probe_norms_are_what_the_formulas_say(name: str) -> None:
    data = data_of(torch.float64)
    probes = batches(ROUNDS + 1, 1)
    inputs, targets = probes.inputs[:, 0], probes.targets[:, 0]

    def loss(model: nn.Module, index: int) -> Tensor:
        return mse_loss(model(inputs[index]), targets[index])

    fleet = Fleet(WORKERS)
    norms = grawa.ProbeNorms(batch=lambda index: index, loss=loss)
    kinds = {"mgrawa": grawa.MGRAWA, "lgrawa": grawa.LGRAWA}
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        kinds[name](score=norms, prox=0.1),
        sync_every=reference.TAU,
        guard=None,
    )
    averager.attach()
    fleet.train(data, averager)
    expected_workers, expected_consensus = reference.train(
        cases()[name].method,
        start(torch.float64),
        data.inputs,
        data.targets,
        probes=(inputs, targets),
    )
    assert relative_error(fleet.parameters(), expected_workers) <= 1e-12
    consensus = flat_state(fleet.models[0], averager.consensus())
    assert relative_error(consensus, expected_consensus) <= 1e-12
