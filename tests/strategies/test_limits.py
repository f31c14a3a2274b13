"""Where one method turns into another, or into nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD

import grawa
from examples.median import Median
from grawa.strategies import InverseLoss, RandomWeights
from grawa.strategies.protocol import first_state
from tests.helpers import (
    BATCH,
    INPUTS,
    OUTPUTS,
    STRATEGIES,
    Data,
    alone,
    averaged,
    batches,
    everyone,
    flat,
    mlp,
    plain_sgd,
    shown,
)

WORKERS, STEPS = 4, 12
DATA = batches(STEPS, WORKERS, scales=(1.0, 0.3, 1.4, 0.8))
ROUNDING = 1e-13


def assert_same(a: grawa.Strategy, b: grawa.Strategy, data: Data = DATA) -> None:
    """Two strategies train the workers to the same parameters and consensus, up to rounding."""
    for one, other in zip(averaged(a, data), averaged(b, data), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=ROUNDING)


def sync(strategy: grawa.Strategy, rows: Tensor, scores: Tensor | None) -> Tensor:
    """The workers' parameters after one round, from (N, P)."""
    params = {"x": rows.clone()}
    state = first_state(strategy, {"x": rows}, len(rows))
    strategy.sync(params, scores, state, everyone(len(rows)), 0)
    return params["x"]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_grawa_with_equal_norms_and_a_full_pull_is_local_sgd(power: float) -> None:
    rows = torch.randn(WORKERS, 50, dtype=torch.float64)
    norms = torch.full((WORKERS, 1), 0.37, dtype=torch.float64)
    pulled = sync(grawa.MGRAWA(pull=1.0, prox=0.0, power=power), rows, norms)
    torch.testing.assert_close(pulled, rows.mean(dim=0).expand_as(rows), rtol=0.0, atol=1e-14)
    assert torch.equal(pulled, sync(grawa.LocalSGD(), rows, None))


def test_grawa_with_power_zero_is_the_uniform_soft_pull() -> None:
    strategy = grawa.MGRAWA(pull=0.4, prox=0.1, power=0.0)
    control = grawa.LocalSGD(pull=0.4, prox=0.1)
    assert torch.equal(averaged(strategy, DATA)[0], averaged(control, DATA)[0])


def test_a_large_power_makes_the_worker_with_the_smallest_norm_the_leader() -> None:
    rows = torch.randn(WORKERS, 50, dtype=torch.float64)
    scores = torch.tensor([[0.4], [0.9], [0.1], [0.2]], dtype=torch.float64)
    strategy = grawa.MGRAWA(pull=0.3, prox=0.0, power=200.0)
    assert torch.equal(sync(strategy, rows, scores), sync(grawa.LSGD(pull=0.3), rows, scores))


def test_the_median_of_two_workers_is_their_mean() -> None:
    assert_same(Median(), grawa.LocalSGD(), DATA.workers([0, 1]))


def test_lgrawa_with_one_group_is_mgrawa() -> None:
    one_group = grawa.LGRAWA(group_by=grawa.by_model)
    assert torch.equal(averaged(one_group, DATA)[0], averaged(grawa.MGRAWA(), DATA)[0])


def test_lgrawa_of_a_model_with_one_tensor_is_mgrawa() -> None:
    def run(strategy: grawa.Strategy) -> Tensor:
        models = [nn.Linear(INPUTS, OUTPUTS, bias=False).double() for _ in range(WORKERS)]
        optimizers = [plain_sgd(model) for model in models]
        for model in models:
            nn.init.ones_(model.weight)
        with grawa.Averager(models, optimizers, strategy, sync_every=2):
            for inputs, targets in zip(DATA.inputs, DATA.targets, strict=True):
                for model, optimizer, x, y in zip(models, optimizers, inputs, targets, strict=True):
                    optimizer.zero_grad()
                    mse_loss(model(x), y).backward()
                for optimizer in optimizers:
                    optimizer.step()
        return torch.stack([flat(model) for model in models])

    assert torch.equal(run(grawa.LGRAWA()), run(grawa.MGRAWA()))


def test_lgrawa_is_not_mgrawa_otherwise() -> None:
    assert not torch.allclose(averaged(grawa.LGRAWA(), DATA)[0], averaged(grawa.MGRAWA(), DATA)[0])


def test_a_plain_outer_step_changes_nothing() -> None:
    outer = grawa.OuterNesterov(lr=1.0, momentum=0.0)
    assert_same(grawa.LGRAWA(outer=outer), grawa.LGRAWA())


def test_diloco_with_a_plain_outer_step_is_local_sgd() -> None:
    assert_same(grawa.DiLoCo(outer=grawa.OuterNesterov(lr=1.0, momentum=0.0)), grawa.LocalSGD())


def test_diloco_is_uniform_grawa_with_a_full_pull_and_an_outer_optimizer() -> None:
    outer = grawa.OuterNesterov()
    assert_same(grawa.MGRAWA(pull=1.0, prox=0.0, power=0.0, outer=outer), grawa.DiLoCo(outer=outer))


def test_outer_steps_of_several_workers_are_diloco() -> None:
    outer = grawa.OuterNesterov(lr=0.4, momentum=0.6)
    steps, diloco = grawa.OuterSteps(outer=outer), grawa.DiLoCo(outer=outer)
    for one, other in zip(averaged(steps, DATA), averaged(diloco, DATA), strict=True):
        assert torch.equal(one, other)


def test_slowmo_without_momentum_is_local_sgd_or_diloco_without() -> None:
    assert_same(grawa.SlowMo(momentum=0.0), grawa.LocalSGD())
    outer = grawa.OuterNesterov(lr=0.6, momentum=0.0)
    assert_same(grawa.SlowMo(slow_lr=0.6, momentum=0.0), grawa.DiLoCo(outer=outer))


def test_slowmo_every_step_is_one_worker_with_heavy_ball_momentum_on_the_joined_batch() -> None:
    slow, _ = averaged(grawa.SlowMo(momentum=0.9), DATA, sync_every=1, optimizer=plain_sgd)
    single = alone(joined(DATA), lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9))
    torch.testing.assert_close(slow, single.expand_as(slow), rtol=0.0, atol=ROUNDING)


OUTER = grawa.OuterNesterov(lr=1.0, momentum=0.0)
"""The center becomes what the workers are merged to."""


def moved(strategy: grawa.Strategy, gaps: Tensor) -> Tensor:
    """Where the center moves, (P,), from workers that have moved so far from it, (N, P)."""
    lengths = gaps.norm(dim=1, keepdim=True)
    params = {"x": torch.zeros_like(gaps)}
    state = first_state(strategy, params, len(gaps))
    params["x"] += gaps
    strategy.sync(params, lengths, state, everyone(len(gaps)), 0)
    return state["center"]["x"]


def test_rdas_direction_is_grawas_by_displacement_norms() -> None:
    gaps = torch.randn(WORKERS, 50, dtype=torch.float64)
    rda = moved(grawa.RDA(outer=OUTER), gaps)
    by_norms = grawa.MGRAWA(score=grawa.DisplacementNorms(), outer=OUTER)
    grawas = moved(by_norms, gaps)
    torch.testing.assert_close(rda / rda.norm(), grawas / grawas.norm(), rtol=0.0, atol=1e-12)
    assert float(rda.norm()) == pytest.approx(float(gaps.norm(dim=1).mean()), rel=1e-12)


def test_with_equal_lengths_rda_moves_where_diloco_does_but_as_far_as_a_worker() -> None:
    gaps = torch.randn(WORKERS, 50, dtype=torch.float64)
    gaps *= 0.3 / gaps.norm(dim=1, keepdim=True)
    rda, diloco = (moved(kind(outer=OUTER), gaps) for kind in (grawa.RDA, grawa.DiLoCo))
    torch.testing.assert_close(rda, diloco * 0.3 / diloco.norm(), rtol=0.0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:all . workers have exactly equal")
def test_rda_of_workers_with_the_same_displacement_is_diloco() -> None:
    data = DATA.workers([0] * WORKERS)
    for one, other in zip(averaged(grawa.RDA(), data), averaged(grawa.DiLoCo(), data), strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("workers", [2, 16])
def test_rda_moves_as_far_however_many_workers_pull_into_other_directions(workers: int) -> None:
    found = moved(grawa.RDA(outer=OUTER), 0.5 * torch.eye(workers, 20, dtype=torch.float64))
    assert float(found.norm()) == pytest.approx(0.5, rel=1e-12)


def test_edit_with_a_high_temperature_and_no_limits_is_diloco() -> None:
    outer = grawa.OuterNesterov()
    edit = grawa.EDiT(outer=outer, temperature=1e9, threshold=1e9, clip=1e9)
    for one, other in zip(
        averaged(edit, DATA), averaged(grawa.DiLoCo(outer=outer), DATA), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-8)


def test_edit_with_a_low_temperature_follows_the_worker_that_moved_least() -> None:
    gaps = torch.randn(WORKERS, 50, dtype=torch.float64) * torch.tensor([
        [2.0],
        [1.0],
        [3.0],
        [4.0],
    ])
    found = moved(grawa.EDiT(outer=OUTER, temperature=1e-3, clip=1e9), gaps)
    torch.testing.assert_close(found, gaps[1])


def test_edit_clips_the_length_of_the_merged_displacement() -> None:
    gaps = torch.randn(WORKERS, 50, dtype=torch.float64)
    free, clipped = (moved(grawa.EDiT(outer=OUTER, clip=c), gaps) for c in (1e9, 0.25))
    torch.testing.assert_close(clipped, 0.25 * free / free.norm(), rtol=0.0, atol=1e-12)


def test_dppf_without_a_push_is_the_uniform_soft_pull() -> None:
    pulled, control = grawa.DPPF(pull=0.3, push=0.0), grawa.LocalSGD(pull=0.3)
    assert torch.equal(averaged(pulled, DATA)[0], averaged(control, DATA)[0])


def test_dppf_comes_to_rest_at_push_over_pull_from_the_mean() -> None:
    rows = torch.randn(2, 30, dtype=torch.float64)
    for _ in range(200):
        rows = sync(grawa.DPPF(pull=0.1, push=0.05), rows, None)
    distances = (rows - rows.mean(dim=0)).norm(dim=1)
    torch.testing.assert_close(distances, torch.full_like(distances, 0.5))


def test_dppf_pushes_by_the_same_length_however_far_a_worker_is() -> None:
    rows = torch.randn(WORKERS, 30, dtype=torch.float64)
    moved = sync(grawa.DPPF(pull=0.0, push=0.7), rows, None) - rows
    torch.testing.assert_close(moved.norm(dim=1), torch.full((WORKERS,), 0.7).double())


def test_random_weights_that_are_nearly_equal_are_the_uniform_soft_pull() -> None:
    strategy = RandomWeights(pull=0.4, prox=0.1, concentration=1e12)
    workers, _ = averaged(strategy, DATA)
    control, _ = averaged(grawa.LocalSGD(pull=0.4, prox=0.1), DATA)
    torch.testing.assert_close(workers, control, rtol=0.0, atol=1e-5)


def test_random_weights_are_drawn_from_seed_and_round() -> None:
    draws = torch.stack([RandomWeights(seed=3).draw(4, rounds) for rounds in range(2000)])
    again = torch.stack([RandomWeights(seed=3).draw(4, rounds) for rounds in range(5)])
    assert torch.equal(draws[:5], again)
    assert not torch.equal(draws[0], RandomWeights(seed=4).draw(4, 0))
    torch.testing.assert_close(draws.sum(dim=1), torch.ones(2000).double())
    # Evenly from all weights that sum to 1: mean 1/4, variance (1/4)(3/4)/5.
    assert float((draws.mean(dim=0) - 0.25).abs().max()) < 0.02
    assert float((draws.var(dim=0) - 0.0375).abs().max()) < 0.005


def test_each_round_has_random_weights_of_its_own() -> None:
    reports: list[grawa.RoundReport] = []
    averaged(RandomWeights(seed=3), DATA, on_round=[reports.append])
    for rounds, report in enumerate(reports):
        assert report.weights is not None
        drawn = RandomWeights(seed=3).draw(4, rounds)
        torch.testing.assert_close(report.weights[:, 0], drawn)


def test_inverse_loss_with_power_zero_is_the_uniform_soft_pull() -> None:
    strategy = InverseLoss(pull=0.4, prox=0.1, power=0.0)
    control = grawa.LocalSGD(pull=0.4, prox=0.1)
    assert torch.equal(averaged(strategy, DATA)[0], averaged(control, DATA)[0])


def test_inverse_loss_with_a_large_power_follows_the_leader() -> None:
    rows = torch.randn(WORKERS, 50, dtype=torch.float64)
    losses = torch.tensor([[0.4], [0.9], [0.1], [0.2]], dtype=torch.float64)
    strategy = InverseLoss(pull=0.3, prox=0.0, power=200.0)
    assert torch.equal(sync(strategy, rows, losses), sync(grawa.LSGD(pull=0.3), rows, losses))


def test_a_loss_below_zero_takes_all_the_weight() -> None:
    rows = torch.tensor([[1.0], [2.0], [4.0]])
    losses = torch.tensor([[0.5], [-0.1], [0.0]], dtype=torch.float64)
    assert sync(InverseLoss(pull=1.0), rows, losses).flatten().tolist() == [3.0] * 3


def test_inverse_loss_is_grawa_with_losses_for_norms() -> None:
    control = grawa.MGRAWA(score=grawa.TrainingLoss())
    assert torch.equal(averaged(InverseLoss(), DATA)[0], averaged(control, DATA)[0])


def test_an_outer_learning_rate_of_zero_returns_every_round_to_the_start() -> None:
    workers, consensus = averaged(grawa.DiLoCo(outer=grawa.OuterNesterov(lr=0.0)), DATA)
    assert torch.equal(consensus, flat(mlp()))
    assert torch.equal(workers, flat(mlp()).expand_as(workers))


def test_easgd_without_elasticity_trains_alone_around_a_fixed_center() -> None:
    workers, consensus = averaged(grawa.EASGD(elasticity=0.0), DATA)
    assert torch.equal(workers, alone(DATA))
    assert torch.equal(consensus, flat(mlp()))


def test_easgds_springs_act_and_react() -> None:
    # What the workers lose the center gains: the sum of all N + 1 positions is kept.
    strategy, comm = grawa.EASGD(elasticity=0.6), everyone(WORKERS)
    params = {"x": torch.randn(WORKERS, 30, dtype=torch.float64)}
    state = strategy.init({"x": torch.zeros(WORKERS, 30, dtype=torch.float64)})
    for number in range(3):
        before = params["x"].sum(dim=0) + state["center"]["x"]
        strategy.sync(params, None, state, comm, number)
        after = params["x"].sum(dim=0) + state["center"]["x"]
        torch.testing.assert_close(after, before, rtol=0.0, atol=1e-13)


def test_easgd_with_full_elasticity_and_one_worker_swaps_worker_and_center() -> None:
    strategy = grawa.EASGD(elasticity=1.0)
    state = strategy.init({"x": torch.tensor([[1.0, 2.0]])})
    params = {"x": torch.tensor([[5.0, 6.0]])}
    strategy.sync(params, None, state, everyone(1), 0)
    assert params["x"].tolist() == [[1.0, 2.0]]
    assert state["center"]["x"].tolist() == [5.0, 6.0]


def test_lsgd_with_a_full_pull_puts_everyone_on_the_leader() -> None:
    rows = torch.randn(WORKERS, 20)
    losses = torch.tensor([[0.3], [0.2], [0.1], [0.4]])
    assert torch.equal(sync(grawa.LSGD(pull=1.0), rows, losses), rows[2].expand_as(rows))


def test_lsgd_with_one_team_of_all_is_lsgd() -> None:
    one_team = grawa.LSGD(pull=0.0, team_size=WORKERS, team_pull=0.3)
    assert torch.equal(averaged(one_team, DATA)[0], averaged(grawa.LSGD(pull=0.3), DATA)[0])


def test_teams_without_a_leader_of_all_are_strangers() -> None:
    strategy = grawa.LSGD(pull=0.0, team_size=2, team_pull=0.3)
    workers, _ = averaged(strategy, DATA)
    for team in ([0, 1], [2, 3]):
        pair, _ = averaged(grawa.LSGD(pull=0.3), DATA.workers(team))
        assert torch.equal(workers[team], pair)


def test_between_the_leaders_rounds_only_teams_talk() -> None:
    rarely = grawa.LSGD(pull=1.0, team_size=2, team_pull=0.3, leader_every=1000)
    never = grawa.LSGD(pull=0.0, team_size=2, team_pull=0.3)
    assert torch.equal(averaged(rarely, DATA)[0], averaged(never, DATA)[0])


def joined(data: Data) -> Data:
    """One worker on all workers' batches at once."""
    steps, workers = data.inputs.shape[:2]
    return Data(
        data.inputs.reshape(steps, 1, workers * BATCH, INPUTS),
        data.targets.reshape(steps, 1, workers * BATCH, OUTPUTS),
    )


@pytest.mark.parametrize("num_workers", [2, 3, 4])
def test_local_sgd_every_step_is_data_parallel_is_one_worker_on_the_joined_batch(
    num_workers: int,
) -> None:
    data = DATA.workers(range(num_workers))
    local, mean = averaged(grawa.LocalSGD(), data, sync_every=1, optimizer=plain_sgd)
    parallel, _ = averaged(grawa.DataParallel(), data, sync_every=1, optimizer=plain_sgd)
    single = alone(joined(data), plain_sgd)
    torch.testing.assert_close(local, parallel, rtol=0.0, atol=ROUNDING)
    torch.testing.assert_close(parallel, single.expand_as(parallel), rtol=0.0, atol=ROUNDING)
    torch.testing.assert_close(mean, single[0], rtol=0.0, atol=ROUNDING)


def test_data_parallel_with_momentum_is_one_worker_on_the_joined_batch() -> None:
    parallel, _ = averaged(grawa.DataParallel(), DATA)
    torch.testing.assert_close(
        parallel, alone(joined(DATA)).expand_as(parallel), rtol=0.0, atol=ROUNDING
    )


def test_a_warm_up_of_the_whole_training_is_data_parallel() -> None:
    warm, _ = averaged(grawa.LocalSGD(warmup_steps=STEPS), DATA)
    assert torch.equal(warm, averaged(grawa.DataParallel(), DATA)[0])


@pytest.mark.parametrize(
    "strategy",
    [
        grawa.LocalSGD(pull=0.0),
        grawa.MGRAWA(pull=0.0, prox=0.0),
        grawa.LGRAWA(pull=0.0, prox=0.0),
        grawa.LSGD(pull=0.0),
        grawa.LSGD(pull=0.0, team_size=2, team_pull=0.0),
        grawa.DPPF(pull=0.0, push=0.0),
        InverseLoss(pull=0.0, prox=0.0),
        RandomWeights(pull=0.0, prox=0.0),
    ],
    ids=shown,
)
def test_without_a_pull_the_workers_train_alone(strategy: grawa.Strategy) -> None:
    assert torch.equal(averaged(strategy, DATA)[0], alone(DATA))


@pytest.mark.parametrize(
    "strategy",
    [
        grawa.LocalSGD(),
        grawa.LocalSGD(pull=0.3, warmup_steps=3),
        grawa.MGRAWA(prox=0.0),
        grawa.LGRAWA(prox=0.0),
        grawa.LSGD(),
        grawa.DPPF(),
        InverseLoss(prox=0.0),
        RandomWeights(prox=0.0),
        grawa.DataParallel(),
    ],
    ids=shown,
)
@pytest.mark.parametrize("guard", [None, grawa.Guard()], ids=["no guard", "guard"])
def test_one_worker_trains_as_its_bare_optimizer_does(
    strategy: grawa.Strategy, guard: grawa.Guard | None
) -> None:
    data = DATA.workers([0])
    workers, consensus = averaged(strategy, data, guard=guard)
    assert torch.equal(workers, alone(data))
    assert torch.equal(consensus, workers[0])


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_before_the_first_round_only_shared_gradients_and_prox_act(
    strategy: grawa.Strategy,
) -> None:
    workers, _ = averaged(strategy, DATA, sync_every=STEPS + 1)
    acts = strategy.shares_gradients(0) or getattr(strategy, "prox", 0.0) > 0
    assert torch.equal(workers, alone(DATA)) is not acts
