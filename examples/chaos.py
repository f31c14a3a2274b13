"""A training of one's own that `grawa chaos` kills, stops and cuts off, to see that it survives.

    grawa chaos examples.chaos:train --faults 10

calls `train` in every worker's process. Whatever dies is started again, and calls it again.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import grawa

STEPS, SYNC_EVERY, SAVE_EVERY, BATCH_SIZE = 24_000, 32, 320, 16
TIMEOUT = timedelta(seconds=15)


def train(folder: Path, on_round: Callable[[grawa.RoundReport], None]) -> float:
    """Trains this rank's worker, from the newest checkpoint in `folder` on.

    Returns:
        The consensus's error on the test images.
    """
    with grawa.distributed(timeout=TIMEOUT) as device:
        together = dist.is_initialized()
        rank, world_size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        images, labels = map(torch.from_numpy, load_digits(return_X_y=True))
        images, labels = images.float().to(device) / 16, labels.to(device)
        torch.manual_seed(0)
        own, test = slice(rank, 1500, world_size), slice(1500, None)

        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        averager = grawa.Averager(
            model, optimizer, grawa.LGRAWA(), sync_every=SYNC_EVERY, on_round=[on_round]
        )
        with averager:
            averager.restore(folder, fall_back=True)  # an older one, if the newest is damaged
            while averager.step < STEPS:
                random = torch.Generator().manual_seed(averager.step * world_size + rank)
                batch = torch.randint(len(labels[own]), (BATCH_SIZE,), generator=random)
                optimizer.zero_grad()
                cross_entropy(model(images[own][batch]), labels[own][batch]).backward()
                optimizer.step()
                if averager.step % SAVE_EVERY == 0:
                    averager.save(folder, wait=False)
            model.load_state_dict(averager.consensus())
        wrong = model(images[test]).argmax(dim=1) != labels[test]
        return float(wrong.float().mean())
