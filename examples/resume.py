"""Training that goes on where it stopped, if it is started again after it was killed.

    python examples/resume.py checkpoints                                           one worker
    torchrun --standalone --nproc-per-node=2 examples/resume.py checkpoints         two workers

Each worker trains on its own part of scikit-learn's digits, and all save a checkpoint after every
epoch. Kill it at any moment (kill -9) and start it again: it ends with the same model, bit for bit.
At SIGTERM, with which schedulers announce the end, it stops after the epoch's checkpoint.
"""

import hashlib
import signal
import sys

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset, TensorDataset

import grawa

EPOCHS, BATCH_SIZE = 8, 16


def main() -> None:
    """Trains this rank's worker, from the newest checkpoint on."""
    folder = sys.argv[1]
    with grawa.distributed() as device:
        together = dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        torch.manual_seed(rank)
        images, labels = load_digits(return_X_y=True)
        digits = TensorDataset(torch.from_numpy(images).float() / 16, torch.from_numpy(labels))
        own_part = Subset(digits, range(rank, len(digits), world_size))
        loader = DataLoader(own_part, batch_size=BATCH_SIZE, shuffle=True)

        layers = nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
        model = nn.Sequential(*layers).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

        with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=16) as averager:
            signal.signal(signal.SIGTERM, lambda *_: averager.request_stop())
            extra = averager.restore(folder)  # None if there is no checkpoint yet
            if extra is not None:
                scheduler.load_state_dict(extra["scheduler"])
            for epoch in range(0 if extra is None else extra["epoch"], EPOCHS):
                for inputs, targets in loader:
                    optimizer.zero_grad()
                    cross_entropy(model(inputs.to(device)), targets.to(device)).backward()
                    optimizer.step()
                scheduler.step()
                averager.save(folder, {"epoch": epoch + 1, "scheduler": scheduler.state_dict()})
                if rank == 0:
                    print(f"epoch {epoch + 1}, round {averager.round}", flush=True)
                if averager.stopping:  # on all ranks, if any has got the signal
                    sys.exit(128 + signal.SIGTERM)

        consensus = averager.consensus()
    if rank == 0:
        content = b"".join(value.cpu().numpy().tobytes() for value in consensus.values())
        print(f"model {hashlib.sha256(content).hexdigest()[:16]}")


if __name__ == "__main__":
    main()
