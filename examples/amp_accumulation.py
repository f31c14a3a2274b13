"""Mixed precision, gradient accumulation and a learning-rate schedule, together with GRAWA.

    python examples/amp_accumulation.py
    torchrun --standalone --nproc-per-node=2 examples/amp_accumulation.py

A round follows every 16 optimizer steps, however many batches a step takes. On a GPU the loss is
scaled for float16; the averager does not count a step that the scaler skips, and `detach` waits for
workers that made fewer steps.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import grawa

TRAIN_SIZE, STEPS, MICRO_BATCHES, MICRO_BATCH_SIZE = 1200, 160, 4, 16


def digits() -> tuple[Tensor, Tensor]:
    """1,797 images of 8 x 8 pixels in [0, 1], in the same random order on every rank."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    inputs = torch.from_numpy(images).float() / 16
    return inputs[order], torch.from_numpy(labels).long()[order]


def batches(inputs: Tensor, targets: Tensor, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless random batches."""
    random = torch.Generator().manual_seed(seed)
    while True:
        picked = torch.randint(len(inputs), (MICRO_BATCH_SIZE,), generator=random)
        yield inputs[picked], targets[picked]


def print_round(report: grawa.RoundReport) -> None:
    """Prints a round in one line, on rank 0; other ranks get the same report, except for times."""
    if report.weights is None or (dist.is_initialized() and dist.get_rank() > 0):
        return
    weights = " ".join(f"{weight:.2f}" for weight in report.weights[:, 0])
    losses = " ".join(f"{loss:.3f}" for loss in report.losses)
    print(f"round {report.round} after step {report.step}: losses {losses}, weights {weights}")


def train(device: torch.device, rank: int, world_size: int) -> None:
    """Trains this rank's worker, with the others."""
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    scaler = torch.amp.GradScaler(device.type, enabled=half == torch.float16)
    images, labels = digits()
    own_part = slice(rank, TRAIN_SIZE, world_size)
    stream = batches(images[own_part], labels[own_part], seed=rank)

    averager = grawa.Averager(
        model, optimizer, grawa.MGRAWA(), sync_every=16, on_round=[print_round]
    )
    averager.attach()
    for _ in range(STEPS):
        optimizer.zero_grad()
        step_loss = torch.zeros((), device=device)
        for _ in range(MICRO_BATCHES):
            inputs, targets = next(stream)
            with torch.autocast(device.type, dtype=half):
                outputs = model(inputs.to(device))
                loss = cross_entropy(outputs, targets.to(device)) / MICRO_BATCHES
            scaler.scale(loss).backward()
            step_loss += loss.detach()
        averager.record_loss(step_loss)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    averager.detach()

    with averager.consensus_applied() as consensus, torch.no_grad():
        predicted = consensus(images[TRAIN_SIZE:].to(device)).argmax(dim=1).cpu()
    error = (predicted != labels[TRAIN_SIZE:]).double().mean().item()
    if rank == 0:
        print(f"steps {averager.step}, rounds {averager.round}, test error {error:.1%}")


def main() -> None:
    """Joins the other ranks, if torchrun started this one, and trains."""
    with grawa.distributed() as device:
        together = dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        train(device, rank, world_size)


if __name__ == "__main__":
    main()
