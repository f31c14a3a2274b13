"""A worker of `benchmarks/kills.py`: trains on its part of digits, and says so line by line."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import grawa

TRAIN_SIZE, SYNC_EVERY, TIMEOUT = 1400, 16, timedelta(seconds=10)

SAVE_EVERY = 50
"""Rounds between checkpoints of a job that is started again as a whole: some 8 s."""


def say(**facts: Any) -> None:
    """Prints a line of JSON in one piece, with who says it and the time on the machine's clock."""
    about = {"at": time.monotonic(), "worker": WORKER, "pid": os.getpid()}
    sys.stdout.write(json.dumps({**about, **facts}) + "\n")
    sys.stdout.flush()


class Loop:
    """A model, its data and its local steps.

    Args:
        worker: its number.
        size: of how many.
        seconds: how long a local step takes at least.
    """

    def __init__(self, worker: int, size: int, seconds: float) -> None:
        torch.manual_seed(os.getpid())  # not the parameters of the one before
        self.model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        inputs, targets = images[order].float() / 16, labels[order].long()
        self._test = inputs[TRAIN_SIZE:], targets[TRAIN_SIZE:]
        own = slice(worker, TRAIN_SIZE, size)
        self._inputs, self._targets = inputs[own], targets[own]
        self._seconds = seconds
        self.made = 0

    def step(self, record: Callable[[Tensor], None]) -> None:
        """One local step."""
        picked = torch.randint(len(self._inputs), (16,))
        self.optimizer.zero_grad()
        loss = cross_entropy(self.model(self._inputs[picked]), self._targets[picked])
        loss.backward()
        record(loss)
        self.optimizer.step()
        self.made += 1
        time.sleep(self._seconds)

    def error(self) -> float:
        """Percent of the test images that are wrong."""
        with torch.no_grad():
            wrong = self.model(self._test[0]).argmax(1) != self._test[1]
        return 100.0 * float(wrong.float().mean())


def with_grawa(loop: Loop, worker: int, size: int, lighthouse: str, steps: int) -> None:
    """Trains by the Averager."""

    def told(report: grawa.RoundReport) -> None:
        say(round=report.round, step=report.step, out=sorted(report.left_out), made=loop.made)

    averager = grawa.Averager(
        loop.model,
        loop.optimizer,
        grawa.LocalSGD(),
        sync_every=SYNC_EVERY,
        on_round=[told],
        elastic=grawa.Elastic(
            min_workers=2,
            lighthouse=lighthouse,
            worker=worker,
            num_workers=size,
            timeout=TIMEOUT,
        ),
    )
    with averager:
        while averager.step < steps:
            loop.step(averager.record_loss)


@contextmanager
def _managed(loop: Loop, worker: int, lighthouse: str) -> Generator[Any]:
    from torchft import Manager, ProcessGroupGloo

    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    manager = Manager(
        pg=ProcessGroupGloo(timeout=TIMEOUT),
        load_state_dict=loop.model.load_state_dict,
        state_dict=loop.model.state_dict,
        min_replica_size=2,
        timeout=TIMEOUT,
        rank=0,
        world_size=1,
        store_addr="127.0.0.1",
        store_port=store.port,
        lighthouse_addr=f"http://{lighthouse}",
        replica_id=str(worker),
        hostname="127.0.0.1",
        use_async_quorum=False,
    )
    try:
        yield manager
    finally:
        manager.shutdown(wait=False)


def with_torchft(loop: Loop, worker: int, lighthouse: str, steps: int) -> None:
    """Trains by torchft's LocalSGD; its step counts rounds."""
    from torchft.local_sgd import LocalSGD

    with _managed(loop, worker, lighthouse) as manager:
        seen = manager.current_step()
        with LocalSGD(manager, loop.model, loop.optimizer, sync_every=SYNC_EVERY):
            while manager.current_step() * SYNC_EVERY < steps:
                loop.step(lambda _: None)
                if manager.current_step() != seen:
                    seen = manager.current_step()
                    there = manager.num_participants()
                    say(round=seen, step=seen * SYNC_EVERY, there=there, made=loop.made)


def with_restarts(loop: Loop, folder: str, steps: int) -> None:
    """Trains by the Averager of workers that are all there, or are all started again."""

    def told(report: grawa.RoundReport) -> None:
        say(round=report.round, step=report.step, made=loop.made)
        if report.round % SAVE_EVERY == 0:
            averager.save(folder, wait=False)

    with grawa.distributed("cpu", TIMEOUT):
        averager = grawa.Averager(
            loop.model, loop.optimizer, grawa.LocalSGD(), sync_every=SYNC_EVERY, on_round=[told]
        )
        averager.restore(folder, fall_back=True)
        say(restored=averager.step)
        with averager:
            while averager.step < steps:
                loop.step(averager.record_loss)


WORKER = int(os.environ.get("RANK", "0"))


def main() -> None:
    """Trains until the end, and says the error."""
    engine, place, size, steps, seconds = sys.argv[1:]
    # Whoever starts processes together blocks Ctrl-C until they have done their imports.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    torch.set_num_threads(1)
    loop = Loop(WORKER, int(size), float(seconds))
    say(begins=True)
    if engine == "grawa":
        with_grawa(loop, WORKER, int(size), place, int(steps))
    elif engine == "torchft":
        with_torchft(loop, WORKER, place, int(steps))
    else:
        with_restarts(loop, place, int(steps))
    say(error=loop.error(), made=loop.made)


if __name__ == "__main__":
    main()
