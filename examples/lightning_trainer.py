"""GRAWA under Lightning's `Trainer`.

    torchrun --standalone --nproc-per-node=2 examples/lightning_trainer.py

The model is an ordinary `LightningModule`. Validation and the checkpoints' model are by the
consensus; a checkpoint also keeps each worker, so that `fit(ckpt_path=...)` goes on bit for bit.
"""

import os

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

import grawa
from grawa.integrations.lightning import GrawaCallback, GrawaStrategy

Batch = tuple[Tensor, Tensor]


class Digits(L.LightningModule):
    """A network for images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """The loss of a batch."""
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Batch, index: int) -> None:
        """Logs the error."""
        wrong = (self.net(batch[0]).argmax(dim=1) != batch[1]).float().mean()
        self.log("error", wrong, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Each worker's own optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def main() -> None:
    """Trains, and prints the consensus's error."""
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long())
    train, test = random_split(data, [1200, 597], torch.Generator().manual_seed(0))
    trainer = L.Trainer(
        strategy=GrawaStrategy(),
        callbacks=[GrawaCallback(grawa.LGRAWA(), sync_every=32)],
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        accelerator="auto", max_epochs=10, gradient_clip_val=1.0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    loaders = DataLoader(train, batch_size=16, shuffle=True), DataLoader(test, batch_size=64)
    trainer.fit(Digits(), *loaders)
    if trainer.is_global_zero:
        print(f"test error {float(trainer.callback_metrics['error']):.1%}")


if __name__ == "__main__":
    main()
