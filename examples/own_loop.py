"""GRAWA in your own training loop: three lines more than ordinary PyTorch.

    python examples/own_loop.py                                             one worker
    torchrun --standalone --nproc-per-node=4 examples/own_loop.py           four workers

Each worker trains on its own part of scikit-learn's digits. Rank 0 measures the consensus and saves
it to the path given, by default in the folder for temporary files.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset

import grawa

TRAIN_SIZE, BATCH_SIZE, EPOCHS = 1200, 16, 15


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8 pixels in [0, 1], in the same random order on every rank."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    inputs = torch.from_numpy(images).float() / 16
    return inputs[order], torch.from_numpy(labels).long()[order]


def train(device: torch.device, rank: int, world_size: int, path: Path) -> None:
    """Trains this rank's worker, with the others."""
    inputs, targets = digits()
    own_part = Subset(TensorDataset(inputs, targets), range(rank, TRAIN_SIZE, world_size))
    loader = DataLoader(own_part, batch_size=BATCH_SIZE, shuffle=True)

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)

    with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=32) as averager:
        for _ in range(EPOCHS):
            for images, labels in loader:
                optimizer.zero_grad()
                loss = cross_entropy(model(images.to(device)), labels.to(device))
                loss.backward()
                averager.record_loss(loss)  # optional: lets the guard notice a worker that diverges
                optimizer.step()  # runs a round when one is due

    consensus = averager.consensus()  # every rank must call this
    if rank == 0:
        model.load_state_dict(consensus)
        predicted = model(inputs[TRAIN_SIZE:].to(device)).argmax(dim=1).cpu()
        error = (predicted != targets[TRAIN_SIZE:]).double().mean().item()
        torch.save(consensus, path)
        print(f"workers {averager.num_workers}, rounds {averager.round}, test error {error:.1%}")
        print(f"saved to {path}")


def main() -> None:
    """Joins the other ranks, if torchrun started this one, and trains."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.gettempdir(), "own_loop.pt")
    with grawa.distributed() as device:
        together = dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        train(device, rank, world_size, path)


if __name__ == "__main__":
    main()
