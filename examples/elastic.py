"""Four workers of which one dies and is started again, while the others go on.

    python examples/elastic.py

It plays the part of a launcher on one machine: it runs the lighthouse, starts every worker with the
variables that `grawa.distributed()` reads, and starts again whoever dies. On several machines run
`torchft_lighthouse --min_replicas 1` on one of them, give each worker an `address` of its machine,
and let your cluster's scheduler start the workers again.
"""

import os
import signal
import subprocess
import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import grawa

WORKERS, STEPS, SECONDS_PER_STEP, TRAIN_SIZE = 4, 320, 0.01, 1200


def launch() -> None:
    """Starts the workers, and starts again whoever dies."""
    with grawa.lighthouse(grawa.Elastic(min_workers=2)) as address:
        workers = {number: start(number, address) for number in range(WORKERS)}
        while any(worker.poll() != 0 for worker in workers.values()):
            time.sleep(0.1)
            for number, worker in workers.items():
                if worker.poll() not in (None, 0):
                    print(f"worker {number} is started again", flush=True)
                    workers[number] = start(number, address)


def start(number: int, lighthouse: str) -> subprocess.Popen[bytes]:
    """Starts a worker."""
    told = {"TORCHFT_LIGHTHOUSE": lighthouse, "RANK": str(number), "WORLD_SIZE": str(WORKERS)}
    return subprocess.Popen([sys.executable, __file__], env=os.environ | told)


def train() -> None:
    """A worker; the same loop as without `elastic`, but for the steps that it may join late."""
    number = int(os.environ["RANK"])
    torch.manual_seed(number)
    torch.set_num_threads(1)
    images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
    inputs, targets = images.float() / 16, labels.long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with grawa.distributed("cpu"):
        averager = grawa.Averager(
            model,
            optimizer,
            grawa.LocalSGD(),
            sync_every=16,
            elastic=grawa.Elastic(min_workers=2),
            on_round=[lambda report: show(number, report)],
        )
        with averager:
            if joined := averager.round > 0:
                print(f"worker {number} joins after round {averager.round}", flush=True)
            while averager.step < STEPS:
                picked = torch.randint(number * 300, number * 300 + 300, (16,))
                optimizer.zero_grad()
                loss = cross_entropy(model(inputs[picked]), targets[picked])
                loss.backward()
                averager.record_loss(loss)
                if number == 1 and not joined and averager.round == 5:
                    print("worker 1 dies", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                optimizer.step()
                time.sleep(SECONDS_PER_STEP)  # as if the model were large
        with torch.no_grad():
            wrong = model(inputs[TRAIN_SIZE:]).argmax(1) != targets[TRAIN_SIZE:]
    print(f"worker {number}: test error {100 * wrong.float().mean():.1f}%", flush=True)


def show(number: int, report: grawa.RoundReport) -> None:
    """Prints who is missing; worker 0 speaks for all."""
    if number == 0 and report.left_out:
        print(f"round {report.round} without {report.left_out}", flush=True)


if __name__ == "__main__":
    if "TORCHFT_LIGHTHOUSE" in os.environ:
        train()
    else:
        launch()
