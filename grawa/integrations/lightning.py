"""Lightning: workers that rarely communicate under its `Trainer`; needs lightning 2.6 or later."""

import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.integrations.checks import restore_workers
from grawa.strategies.protocol import Strategy


class GrawaStrategy(DDPStrategy):
    """As DDP, but wraps nothing, so that each process trains on its own; with a `GrawaCallback`.

    Checkpoints have the consensus as their model, and what each worker needs to go on in a folder
    beside them, `NAME.ckpt.workers`.
    """

    averager: Averager | None = None
    resumed: Path | None = None

    def configure_ddp(self) -> None:
        """Leaves the model as it is."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The model to save: while it trains, the consensus; every process calls it."""
        if self.averager is None:
            return super().lightning_module_state_dict()
        return self.averager.consensus()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Saves every worker, then the checkpoint."""
        if self.averager is not None and "optimizer_states" in checkpoint:
            self.averager.save(_workers_of(filepath), keep=1)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Loads a checkpoint, and notes where its workers are.

        Returns:
            The checkpoint.
        """
        self.resumed = _workers_of(checkpoint_path)
        return super().load_checkpoint(checkpoint_path, weights_only)

    def remove_checkpoint(self, filepath: Any) -> None:
        """Removes a checkpoint and its workers."""
        super().remove_checkpoint(filepath)
        if self.local_rank == 0:
            shutil.rmtree(_workers_of(filepath), ignore_errors=True)

    def on_train_end(self) -> None:
        """Called when all has been saved: the model gets the consensus."""
        super().on_train_end()
        if self.averager is not None and self.lightning_module is not None:
            self.lightning_module.load_state_dict(self.averager.consensus())
        self.averager = None


class GrawaCallback(Callback):
    """Averages workers under `Trainer(strategy=GrawaStrategy())`.

    Losses are recorded, norms are noted before gradients are clipped, and validation is by the
    consensus, which the model has after `fit`.

    Args:
        strategy: how workers are averaged.
        options: of the `Averager`, such as `sync_every`.
    """

    def __init__(self, strategy: Strategy, **options: Any) -> None:
        self._strategy, self._options = strategy, options
        self._attached, self._validating = ExitStack(), ExitStack()
        self._averager: Averager | None = None
        self._loss: Tensor | float = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the `Averager`, and restores the workers."""
        over = trainer.strategy
        if not isinstance(over, GrawaStrategy):
            raise UserError(
                "GrawaCallback needs Trainer(strategy=GrawaStrategy()); "
                f"{type(over).__name__} may average gradients at every step"
            )
        self._loss = 0.0
        optimizers = list(over.optimizers)
        self._averager = Averager(pl_module, optimizers, self._strategy, **self._options)
        if over.resumed is not None:
            restore_workers(self._averager, over.resumed)
            if not trainer.fit_loop.restarted_mid_epoch:
                # It has begun the epoch's batches by now, with other random numbers.
                iter(cast(Any, trainer.fit_loop._data_fetcher))
        over.averager = self._attached.enter_context(self._averager)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Adds up the losses of accumulated batches, which come scaled if there is a scaler."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.scale(torch.ones_like(loss))
        self._loss = self._loss + loss.detach() / scale

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Tells the loss; shares gradients, or notes their norms, before they are clipped."""
        assert self._averager is not None, "it trains"
        if pl_module.automatic_optimization:
            self._averager.record_loss(self._loss)
        self._loss = 0.0
        self._averager.share_gradients()
        if trainer.gradient_clip_val:
            self._averager.note_grad_norms()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the consensus into the model."""
        if self._averager is not None:
            self._validating.enter_context(self._averager.consensus_applied())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the worker's own parameters back."""
        self._validating.close()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Averages once more."""
        self._attached.close()
        self._averager = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, error: Any) -> None:
        """Stops averaging; a checkpoint of this moment can't wait for the other processes."""
        if isinstance(trainer.strategy, GrawaStrategy):
            trainer.strategy.averager = None
        self._averager = None
        self._validating.close()
        self._attached.__exit__(type(error), error, error.__traceback__)


def _workers_of(checkpoint: Any) -> Path:
    return Path(f"{checkpoint}.workers")
