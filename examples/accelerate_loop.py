"""GRAWA in a loop of Accelerate's, where its own `LocalSGD` would be.

    torchrun --standalone --nproc-per-node=2 examples/accelerate_loop.py

Accelerate wraps the model in DDP, shards the data and accumulates gradients; within the block DDP
averages no gradients, and a round follows every 32 optimizer steps.
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

import grawa
from grawa.integrations.accelerate import GrawaSGD


def main() -> None:
    """Trains, and measures the consensus."""
    on_cpus = not torch.cuda.is_available()  # else several processes on CPUs don't find each other
    accelerator = Accelerator(cpu=on_cpus, gradient_accumulation_steps=2)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.from_numpy(images).float() / 16, torch.from_numpy(labels).long())
    train, test = random_split(data, [1200, 597], torch.Generator().manual_seed(0))

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(train, batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

    with GrawaSGD(accelerator, model, optimizer, grawa.LGRAWA(), sync_every=32) as local:
        for _ in range(15):
            for inputs, targets in loader:
                with accelerator.accumulate(model):
                    loss = cross_entropy(model(inputs), targets)
                    accelerator.backward(loss)
                    local.averager.record_loss(loss)  # optional: for the guard
                    local.clip_grad_norm_(1.0)  # in place of accelerator.clip_grad_norm_
                    optimizer.step()
                    optimizer.zero_grad()

    inputs, targets = next(iter(DataLoader(test, batch_size=len(test))))
    with torch.no_grad():
        found = model(inputs.to(accelerator.device)).argmax(dim=1).cpu()
    error = (found != targets).double().mean().item()
    accelerator.print(f"rounds {local.averager.round}, test error {error:.1%}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
