"""Weights by the steps, or the samples, that workers have made since the last round."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

import grawa
from examples.median import Median
from grawa.comm import InProcessCommunicator, Participants
from grawa.lab.simulate.clock import VirtualClock
from grawa.math.weights import uniform
from grawa.rounds.plan import RoundPlan
from tests.helpers import Fleet, Simulated, alone, batches, mlp, plain_sgd, shown

SIZES = (1, 5)
"""Samples of each worker's batches."""

DATA = batches(8, 2)


def trained(
    strategy: grawa.Strategy, steps: slice = slice(0, 8), state: object = None, sync_every: int = 1
) -> tuple[Fleet, grawa.Averager, list[grawa.RoundReport]]:
    """Two hosted workers with batches of different sizes."""
    fleet, reports = Fleet(2, optimizer=plain_sgd), list[grawa.RoundReport]()
    averager = grawa.Averager(
        fleet.models,
        fleet.optimizers,
        strategy,
        sync_every=sync_every,
        weigh_by="samples",
        guard=None,
        on_round=reports.append,
    )
    if isinstance(state, dict):
        averager.load_state_dict(state["averager"])
        for model, own in zip(fleet.models, state["models"], strict=True):
            model.load_state_dict(own)
    averager.attach()
    for inputs, targets in zip(DATA.inputs[steps], DATA.targets[steps], strict=True):
        for k, size in enumerate(SIZES):
            fleet.optimizers[k].zero_grad()
            mse_loss(fleet.models[k](inputs[k, :size]), targets[k, :size]).backward()
        averager.record_samples(SIZES)
        for optimizer in fleet.optimizers:
            optimizer.step()
    return fleet, averager, reports


def test_local_sgd_every_step_by_samples_is_one_worker_on_the_joined_batch() -> None:
    fleet, _, reports = trained(grawa.LocalSGD())
    model = mlp()
    optimizer = plain_sgd(model)
    for inputs, targets in zip(DATA.inputs, DATA.targets, strict=True):
        optimizer.zero_grad()
        joined = [torch.cat([x[k, :n] for k, n in enumerate(SIZES)]) for x in (inputs, targets)]
        mse_loss(model(joined[0]), joined[1]).backward()
        optimizer.step()
    single = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.testing.assert_close(fleet.parameters(), single.expand(2, -1), rtol=0.0, atol=1e-13)
    for report in reports:
        assert report.weights is not None
        torch.testing.assert_close(report.weights.flatten(), torch.tensor([1 / 6, 5 / 6]).double())


@pytest.mark.parametrize(
    "strategy",
    [grawa.DiLoCo(), grawa.SlowMo(), grawa.EASGD(), grawa.DPPF(), grawa.LocalSGD(pull=0.5)],
    ids=shown,
)
def test_methods_that_count_workers_equally_report_their_shares_of_the_samples(
    strategy: grawa.Strategy,
) -> None:
    _, _, reports = trained(strategy)
    assert reports[-1].weights is not None
    assert reports[-1].weights.flatten().tolist() == pytest.approx([1 / 6, 5 / 6])


def test_grawas_weights_are_multiplied_by_the_samples() -> None:
    _, _, (report, *_) = trained(grawa.LGRAWA(pull=1.0, prox=0.0))
    assert report.weights is not None and report.scores is not None
    expected = torch.tensor(SIZES).unsqueeze(1) / report.scores
    torch.testing.assert_close(report.weights, (expected / expected.sum(dim=0)).double())


def test_numbers_of_samples_are_part_of_the_state() -> None:
    whole, _, _ = trained(grawa.LocalSGD(), sync_every=3)
    first, averager, _ = trained(grawa.LocalSGD(), slice(0, 4), sync_every=3)
    file = io.BytesIO()
    models = [model.state_dict() for model in first.models]
    torch.save({"averager": averager.state_dict(), "models": models}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    second, _, reports = trained(grawa.LocalSGD(), slice(4, 8), state, sync_every=3)
    assert torch.equal(second.parameters(), whole.parameters())
    assert reports[0].weights is not None
    assert reports[0].weights.flatten().tolist() == pytest.approx([1 / 6, 5 / 6])
    fleet = Fleet(2)
    without = grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD(), sync_every=3)
    with pytest.raises(grawa.UserError, match="weigh_by: samples saved, none here"):
        without.load_state_dict(state["averager"])


def test_workers_that_step_faster_count_more_by_their_steps() -> None:
    fleet = Fleet(3)
    clock = VirtualClock(1.0, speeds=[1.0, 1.0, 0.5])
    schedule = grawa.SharedCount(10)
    simulated = Simulated(fleet, grawa.RDA(), clock, schedule=schedule, weigh_by="steps")
    simulated.train_one_by_one(batches(60, 3), 60)
    report = simulated.reports[0]
    assert report.weights is not None and report.scores is not None
    assert report.steps_made.tolist() == [13.0, 13.0, 6.0]
    expected = report.steps_made.unsqueeze(1) / report.scores
    torch.testing.assert_close(report.weights, expected / expected.sum(dim=0))


def means(amounts: list[float], weights: Tensor, active: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    rows = {"x": torch.tensor([[0.0], [6.0], [12.0]], dtype=torch.float64)}
    taking = torch.tensor([i in active for i in range(3)])
    comm = Participants(
        InProcessCommunicator(3), taking, amounts=torch.tensor(amounts, dtype=torch.float64)
    )
    reported = comm.reported(weights)
    assert reported is not None
    torch.testing.assert_close(reported.sum(dim=0), torch.ones(weights.shape[1]).double())
    return comm.weighted_mean(rows, weights)["x"]


def test_whoever_has_made_nothing_has_no_weight() -> None:
    assert means([0.0, 3.0, 1.0], uniform(3)).item() == pytest.approx(7.5)


def test_where_nobody_has_made_anything_weights_stay_as_they_are() -> None:
    assert means([0.0, 0.0, 0.0], uniform(3)).item() == pytest.approx(6.0)
    assert means([0.0, 5.0, 0.0], uniform(3), active=(0, 2)).item() == pytest.approx(6.0)


def test_where_only_those_with_weight_zero_have_made_something_too() -> None:
    weights = torch.tensor([[0.0], [0.5], [0.5]], dtype=torch.float64)
    assert means([4.0, 0.0, 0.0], weights).item() == pytest.approx(9.0)


@pytest.mark.parametrize("strategy", [grawa.LSGD(), grawa.DataParallel()], ids=shown)
def test_methods_without_a_mean_are_refused(strategy: grawa.Strategy) -> None:
    fleet = Fleet(2)
    with pytest.raises(grawa.UserError, match="takes no mean at its rounds"):
        grawa.Averager(fleet.models, fleet.optimizers, strategy, weigh_by="steps")
    with pytest.raises(grawa.UserError, match="takes none of its workers"):
        trained(Median())


def test_other_words_are_refused() -> None:
    with pytest.raises(grawa.UserError, match=r'None, "steps" or "samples", got .tokens'):
        RoundPlan(strategy=grawa.LocalSGD(), weigh_by="tokens")


def test_samples_must_be_recorded_before_the_first_step() -> None:
    fleet = Fleet(2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD(), weigh_by="samples")
    averager.attach()
    with pytest.raises(grawa.UserError, match=r"call averager.record_samples\(len\(batch\)\)"):
        fleet.train(DATA.steps(0, 1), averager)


@pytest.mark.parametrize("wrong", [-1, float("nan"), [1, 2, 3], "8", None, nn.Linear(1, 1)])
def test_what_is_no_number_of_samples_is_refused(wrong: object) -> None:
    fleet = Fleet(2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD())
    with pytest.raises(grawa.UserError, match="record_samples takes the number of samples"):
        averager.record_samples(wrong)  # type: ignore[arg-type]


def test_without_weigh_by_training_is_as_it_was() -> None:
    fleet = Fleet(2)
    averager = grawa.Averager(fleet.models, fleet.optimizers, grawa.LocalSGD(pull=0.0))
    averager.attach()
    averager.record_samples(7)
    fleet.train(DATA, averager)
    assert torch.equal(fleet.parameters(), alone(DATA))
