"""What must hold on a GPU; every test is skipped where there is none."""

import contextlib
import copy
import socket
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import ASGD, AdamW, NAdam, Optimizer

import grawa
from grawa.lab.cli.trials import prepare
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness import CONSENSUS
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.experiments.trial import Result, run_trial
from grawa.lab.tasks import Digits, Task
from grawa.lab.train.sharing import load
from grawa.lab.train.stacking import choose_stacking
from tests.helpers import STRATEGIES, Data, Fleet, batches, flat, flat_state, mlp, sgd, shown
from tests.lab.experiments.studies import study
from tests.lab.train.runs import settings
from tests.lab.train.test_stacked import Dropped

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode"),  # that it is a prototype
]

GPU = torch.device("cuda", 0)
WORKERS = 4

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def on_gpu(data: Data) -> Data:
    return Data(data.inputs.to(GPU), data.targets.to(GPU))


def fleet_on(device: torch.device, workers: int, dtype: torch.dtype = torch.float64) -> Fleet:
    return Fleet(workers, lambda: mlp(dtype).to(device))


@contextlib.contextmanager
def no_synchronisation() -> Generator[None]:
    """An error for whatever makes the host wait for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@every_strategy
def test_the_gpu_agrees_with_the_cpu(strategy: grawa.Strategy) -> None:
    data = batches(steps=12, workers=WORKERS)
    found: list[tuple[Tensor, Tensor]] = []
    for device in (torch.device("cpu"), GPU):
        fleet = fleet_on(device, WORKERS)
        with grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=4) as averager:
            fleet.train(data if device.type == "cpu" else on_gpu(data), averager)
        consensus = flat_state(fleet.models[0], averager.consensus())
        found.append((fleet.parameters().cpu(), consensus.cpu()))
    for on_cpu, on_device in zip(*found, strict=True):
        torch.testing.assert_close(on_device, on_cpu, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("make", [NAdam, ASGD, partial(AdamW, capturable=True)], ids=str)
def test_an_outer_optimizer_has_its_state_where_torch_keeps_it(
    make: Callable[..., Optimizer],
) -> None:
    data = batches(steps=8, workers=WORKERS)
    found: list[Tensor] = []
    for device, outer in ((torch.device("cpu"), getattr(make, "func", make)), (GPU, make)):
        fleet = fleet_on(device, WORKERS)
        method = grawa.DiLoCo(outer=outer)
        with grawa.Averager(fleet.models, fleet.optimizers, method, sync_every=2) as averager:
            fleet.train(data if device.type == "cpu" else on_gpu(data), averager)
        found.append(fleet.parameters().cpu())
    torch.testing.assert_close(found[1], found[0], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("workers", [1, WORKERS])
@pytest.mark.parametrize(
    "strategy",
    [
        strategy
        for name, strategy in STRATEGIES.items()
        if name
        in {
            "mgrawa",
            "lgrawa",
            "lgrawa by rms norm times loss",
            "easgd with prox",
            "lsgd",
            "local sgd, soft pull with prox",
            "diloco",
        }
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_local_steps_do_not_make_the_host_wait(strategy: grawa.Strategy, workers: int) -> None:
    data = on_gpu(batches(steps=8, workers=workers, dtype=torch.float32))
    fleet = fleet_on(GPU, workers, torch.float32)
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=4)
    averager.attach()
    # The first round, and the first step after it, may set things up.
    fleet.train(data.steps(0, 5), averager)
    torch.cuda.synchronize()
    with no_synchronisation():
        fleet.train(data.steps(5, 7), averager)
    fleet.train(data.steps(7, 8), averager)
    assert averager.round == 2


def test_a_step_of_sam_does_not_make_the_host_wait() -> None:
    data = on_gpu(batches(steps=8, workers=1, dtype=torch.float32))
    model = mlp(torch.float32).to(GPU)
    sam = grawa.SAM(model, sgd(model), rho=0.1)

    def step(index: int) -> None:
        def clear_and_backward() -> None:
            sam.zero_grad()
            mse_loss(model(data.inputs[index, 0]), data.targets[index, 0]).backward()

        clear_and_backward()
        with sam.perturbed():
            clear_and_backward()
        sam.step()

    step(0)
    torch.cuda.synchronize()
    with no_synchronisation():
        step(1)


def test_sam_trains_in_half_precision_and_a_step_that_is_skipped_leaves_no_trace() -> None:
    data = on_gpu(batches(steps=8, workers=1, dtype=torch.float32))
    model = mlp(torch.float32).to(GPU)
    sam = grawa.SAM(model, sgd(model), rho=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**30)  # overflows at first
    losses, kept = [], 0
    for _ in range(60):
        before = flat(model)
        for perturbing in (contextlib.nullcontext(), sam.perturbed()):
            with perturbing:
                sam.zero_grad()
                with torch.autocast("cuda", dtype=torch.float16):
                    loss = mse_loss(model(data.inputs[0, 0]).float(), data.targets[0, 0])
                scaler.scale(loss).backward()
                losses.append(float(loss.detach()))
        assert torch.equal(flat(model), before)
        scale = scaler.get_scale()
        scaler.step(sam)
        scaler.update()
        if scaler.get_scale() < scale:
            kept += 1
            assert torch.equal(flat(model), before)
    assert 0 < kept < 30
    assert losses[-2] < 0.5 * losses[0]


def test_waiting_would_be_noticed() -> None:
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=GPU).item()


def test_autocast_to_bfloat16() -> None:
    data = on_gpu(batches(steps=8, workers=2, dtype=torch.float32))
    fleet = fleet_on(GPU, 2, torch.float32)
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ):
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            for model, optimizer, x, y in zip(
                fleet.models, fleet.optimizers, inputs, targets, strict=True
            ):
                optimizer.zero_grad()
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    output = model(x)
                    assert output.dtype == torch.bfloat16
                    loss = mse_loss(output.float(), y)
                loss.backward()
            for optimizer in fleet.optimizers:
                optimizer.step()
    assert fleet.parameters().dtype == torch.float32
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert [report.left_out for report in reports] == [{}] * 4


def scaled(init_scale: float, optimizer: type[torch.optim.Optimizer], **options: Any) -> Tensor:
    """The scores (N, G) of the last round of two workers that train through a `GradScaler`."""
    data = on_gpu(batches(steps=4, workers=2, dtype=torch.float32))
    fleet = Fleet(
        2,
        lambda: mlp(torch.float32).to(GPU),
        lambda model: optimizer(model.parameters(), lr=1e-3, **options),  # type: ignore[call-arg]
    )
    scaler = torch.amp.GradScaler("cuda", init_scale=init_scale)
    reports: list[grawa.RoundReport] = []
    with grawa.Averager(
        fleet.models, fleet.optimizers, grawa.LGRAWA(), sync_every=2, on_round=[reports.append]
    ):
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            for model, each, x, y in zip(
                fleet.models, fleet.optimizers, inputs, targets, strict=True
            ):
                each.zero_grad()
                with torch.autocast("cuda", dtype=torch.float16):
                    loss = mse_loss(model(x).float(), y)
                scaler.scale(loss).backward()
            for each in fleet.optimizers:
                scaler.step(each)
            scaler.update()
    assert bool(torch.isfinite(fleet.parameters()).all())
    assert reports[-1].scores is not None
    return reports[-1].scores


@pytest.mark.parametrize("fused", [False, True], ids=["unfused", "fused"])
def test_autocast_to_float16_with_a_loss_scale_reports_true_norms(fused: bool) -> None:
    # A fused optimizer takes the scale into its own step; the norms must be true all the same.
    small = scaled(256.0, torch.optim.AdamW, fused=fused)
    large = scaled(2048.0, torch.optim.AdamW, fused=fused)
    torch.testing.assert_close(large, small, rtol=1e-2, atol=0.0)


def test_a_step_that_the_scaler_skips_is_no_step() -> None:
    model = mlp(torch.float32).to(GPU)
    optimizer = sgd(model)
    scaler = torch.amp.GradScaler("cuda")
    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
        for gradient in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            loss = torch.stack([(p * gradient).sum() for p in model.parameters()]).sum()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert (averager.step, averager.round) == (2, 1)
    assert bool(torch.isfinite(flat(model)).all())


@pytest.mark.filterwarnings("ignore")  # compilers warn about the machine
def test_a_compiled_model_trains_as_the_model_does() -> None:
    data = on_gpu(batches(steps=8, workers=1, dtype=torch.float32))

    def run(compiled: bool) -> tuple[Tensor, dict[str, Tensor]]:
        model = mlp(torch.float32).to(GPU)
        optimizer = sgd(model)
        forward: nn.Module = torch.compile(model) if compiled else model  # type: ignore[assignment]
        with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=2) as averager:
            for inputs, targets in zip(data.inputs, data.targets, strict=True):
                optimizer.zero_grad()
                mse_loss(forward(inputs[0]), targets[0]).backward()
                optimizer.step()
        assert averager.round == 4
        return flat(model), averager.consensus()

    (eager, eager_consensus), (fast, fast_consensus) = run(compiled=False), run(compiled=True)
    torch.testing.assert_close(fast, eager, rtol=1e-4, atol=1e-5)
    assert fast_consensus.keys() == eager_consensus.keys()


@pytest.mark.parametrize("strategy", [grawa.LGRAWA(), grawa.LSGD()], ids=shown)
def test_a_checkpoint_read_to_the_cpu_resumes_on_the_gpu(
    strategy: grawa.Strategy, tmp_path: Path
) -> None:
    data = on_gpu(batches(steps=8, workers=2))

    def start() -> tuple[Fleet, grawa.Averager]:
        fleet = fleet_on(GPU, 2)
        averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=3)
        averager.attach()
        return fleet, averager

    whole, averager = start()
    whole.train(data.steps(0, 5), averager)
    state = {
        "models": [model.state_dict() for model in whole.models],
        "optimizers": [optimizer.state_dict() for optimizer in whole.optimizers],
        "averager": averager.state_dict(),
    }
    torch.save(copy.deepcopy(state), tmp_path / "checkpoint.pt")
    whole.train(data.steps(5, 8), averager)

    resumed, averager = start()
    loaded = torch.load(tmp_path / "checkpoint.pt", map_location="cpu", weights_only=True)
    for k in range(2):
        resumed.models[k].load_state_dict(loaded["models"][k])
        resumed.optimizers[k].load_state_dict(loaded["optimizers"][k])
    averager.load_state_dict(loaded["averager"])
    resumed.train(data.steps(5, 8), averager)
    assert torch.equal(resumed.parameters(), whole.parameters())


@contextlib.contextmanager
def nccl() -> Generator[None]:
    """A process group of this process alone."""
    torch.cuda.set_device(GPU)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group("nccl", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_nccl_available(), reason="torch was built without NCCL")
@pytest.mark.parametrize("workers", [1, WORKERS])
@pytest.mark.parametrize(
    "strategy", [grawa.LGRAWA(), grawa.EASGD(), grawa.LocalSGD(), grawa.DataParallel()], ids=shown
)
def test_over_nccl_it_trains_as_in_process(strategy: grawa.Strategy, workers: int) -> None:
    data = on_gpu(batches(steps=6, workers=workers))

    def run() -> tuple[Tensor, Tensor]:
        fleet = fleet_on(GPU, workers)
        with grawa.Averager(fleet.models, fleet.optimizers, strategy, sync_every=2) as averager:
            fleet.train(data, averager)
        return fleet.parameters(), flat_state(fleet.models[0], averager.consensus())

    with nccl():
        over_nccl = run()
    for found, expected in zip(over_nccl, run(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


def test_a_trial_of_a_study_comes_to_the_same() -> None:
    def came_to(device: str) -> Result:
        base = TrainConfig(
            task="digits", steps=32, clock="virtual", dtype="float64", score="probe", device=device
        )
        asked = study(base=base, flatness=FlatnessConfig(samples=64, eigenvalues=0))
        chosen = {(a.name, c.name): 0 for a in asked.arms for c in asked.conditions}
        return run_trial(prepare, asked.test_trials({a.name: 32 for a in asked.arms}, chosen)[0])

    ours, expected = came_to("cuda"), came_to("cpu")
    assert ours.curve.steps == expected.curve.steps
    assert ours.error == pytest.approx(expected.error, abs=1e-3)
    assert ours.curve.loss == pytest.approx(expected.curve.loss, rel=1e-6)
    found, wanted = ((r.flatness or {})["models"][CONSENSUS] for r in (ours, expected))
    assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-6)


@pytest.mark.parametrize("task", [Digits(train_size=200), Dropped()], ids=["mlp", "dropout"])
def test_a_timed_choice_of_local_steps_leaves_no_trace(task: Task) -> None:
    own = settings(stack_workers="auto", steps=10**6)
    data = load(task, own, GPU)
    samples = [(i, torch.arange(i * 20, i * 20 + 20)) for i in range(own.workers)]
    before = torch.cuda.get_rng_state(GPU), torch.get_rng_state()
    found = choose_stacking(task, data, own, samples, own.steps)
    for state, expected in zip(
        (torch.cuda.get_rng_state(GPU), torch.get_rng_state()), before, strict=True
    ):
        assert torch.equal(state, expected)
    if isinstance(task, Dropped):
        assert "the model can't be stacked: it fails for several models" in found.reason
    else:
        assert "times as fast" in found.reason
