"""Lightning's `Trainer` and Fabric train as a plain loop does, and go on from a checkpoint."""

import importlib
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import grawa
from tests.integrations.trainers import (
    SYNC_EVERY,
    Batches,
    Recording,
    Samples,
    State,
    adamw,
    assert_as_plain,
    assert_same,
    copied,
)
from tests.world import launched, results

pytest.importorskip("lightning")
pytestmark = pytest.mark.world

LGRAWA = grawa.LGRAWA()
EPOCHS = 4


def trained(
    folder: str,
    *,
    strategy: grawa.Strategy = LGRAWA,
    clip: float | None = None,
    dropout: float = 0.0,
    resume: str | None = None,
    over: str = "",
    precision: str = "32-true",
    accumulate: int = 1,
) -> tuple[State, Batches, float]:
    """The model after `fit`, what it has seen, and the last validation loss."""
    lightning: Any = importlib.import_module("lightning.pytorch")
    integration: Any = importlib.import_module("grawa.integrations.lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = Recording(dropout)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.inner(**batch)["loss"]

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("loss", self.inner(**batch)["loss"], sync_dist=True)

        def configure_optimizers(self) -> Any:
            return adamw(self)

    module = Module()
    every = lightning.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        strategy=over or integration.GrawaStrategy(), accelerator="cpu", devices=2,
        callbacks=[integration.GrawaCallback(strategy, sync_every=SYNC_EVERY), every],
        max_epochs=EPOCHS, logger=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=clip, precision=precision, accumulate_grad_batches=accumulate,
    )  # fmt: skip
    try:
        loaders = DataLoader(Samples(24), batch_size=4), DataLoader(Samples(16), batch_size=4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's own
            trainer.fit(module, *loaders, ckpt_path=resume)
        return copied(module.inner), module.inner.seen, float(trainer.callback_metrics["loss"])
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("strategy", [grawa.LGRAWA(), grawa.LocalSGD(warmup_steps=3)])
def test_it_trains_as_a_plain_loop_does(
    tmp_path: Path, strategy: grawa.Strategy, clip: float | None
) -> None:
    found = results(launched(2, trained, str(tmp_path), strategy=strategy, clip=clip))
    assert len(found[0][1]) == EPOCHS * 3
    if not (
        clip and strategy.shares_gradients(0)
    ):  # a plain loop clips before gradients are shared
        assert_as_plain([(state, seen) for state, seen, _ in found], strategy, clip)
    assert_same([found[0][0]], [found[1][0]])


def test_mixed_precision_and_accumulation_count_optimizer_steps(tmp_path: Path) -> None:
    folder = str(tmp_path)
    found = results(launched(2, trained, folder, precision="bf16-mixed", accumulate=3))
    assert_same([found[0][0]], [found[1][0]])
    saves = sorted(tmp_path.glob("*.workers/save-*"))
    assert [save.name[-1] for save in saves] == ["0", "0", "0", "1"], "a step is an epoch of 3"


def test_saved_and_validated_is_the_consensus_and_training_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    whole = results(launched(2, trained, str(tmp_path / "a"), dropout=0.2))
    half = tmp_path / "a" / "epoch=1.ckpt"
    resumed = results(launched(2, trained, str(tmp_path / "b"), dropout=0.2, resume=str(half)))
    assert_same([state for state, *_ in whole], [state for state, *_ in resumed])
    saved = torch.load(tmp_path / "a" / f"epoch={EPOCHS - 1}.ckpt", weights_only=True)
    model = Recording(0.2)
    model.load_state_dict({k.removeprefix("inner."): v for k, v in saved["state_dict"].items()})
    model.eval()
    with torch.no_grad():
        batches = list(DataLoader(Samples(16), batch_size=16))
        loss = float(model(**batches[0])["loss"])
    assert loss == pytest.approx(whole[0][2], abs=1e-6)


def test_losses_that_a_scaler_has_scaled_are_noted_as_they_were() -> None:
    integration: Any = importlib.import_module("grawa.integrations.lightning")
    callback = integration.GrawaCallback(LGRAWA)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    for loss in (0.5, 0.25):
        callback.on_before_backward(trainer, None, scaler.scale(torch.tensor(loss)))
    assert float(callback._loss) == pytest.approx(0.75)


def test_another_strategy_of_lightning_is_refused(tmp_path: Path) -> None:
    found = launched(2, trained, str(tmp_path), over="ddp")
    assert all("GrawaCallback needs" in str(error) for error in found)


@contextmanager
def fabric_on_two() -> Generator[Any]:
    """A `Fabric` with DDP, in one of two processes."""
    lightning: Any = importlib.import_module("lightning.fabric")
    fabric = lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp")
    fabric.launch()
    try:
        yield fabric
    finally:
        torch.distributed.destroy_process_group()


def fabric_loop() -> tuple[State, Batches]:
    """Three lines in a loop of Fabric's."""
    with fabric_on_two() as fabric:
        bare = Recording()
        model, optimizer = fabric.setup(bare, adamw(bare))
        loader = fabric.setup_dataloaders(DataLoader(Samples(24), batch_size=4))
        averager = grawa.Averager(bare, optimizer, grawa.LGRAWA(), sync_every=SYNC_EVERY)
        with fabric.no_backward_sync(model), averager:
            for _ in range(EPOCHS):
                for batch in loader:
                    loss = model(**batch)["loss"]
                    fabric.backward(loss)
                    averager.record_loss(loss)
                    optimizer.step()
                    optimizer.zero_grad()
        return averager.consensus(), bare.seen


def test_fabric_trains_as_a_plain_loop_does() -> None:
    assert_as_plain(results(launched(2, fabric_loop)), grawa.LGRAWA(), None)


def test_a_model_of_fabric_with_ddp_is_refused() -> None:
    found = launched(2, _fabric_without_no_sync)
    assert all("DistributedDataParallel" in str(error) for error in found)


def _fabric_without_no_sync() -> None:
    with fabric_on_two() as fabric:
        bare = Recording()
        model, optimizer = fabric.setup(bare, adamw(bare))
        grawa.Averager(model, optimizer, grawa.LGRAWA())
