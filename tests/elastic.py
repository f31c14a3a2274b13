"""Elastic workers in processes of their own, which tests kill, stop and start again."""

import os
import pickle
import signal
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import mse_loss

import grawa
from grawa.comm.present import ElasticCommunicator
from grawa.rounds.quorums import Quorums
from tests.helpers import batches, flat, mlp, sgd
from tests.world import forks

STEPS, SYNC_EVERY = 24, 4
PATIENCE_SECONDS = 60.0
BEATS: dict[str, Any] = {"HEARTBEAT_SECONDS": 0.1, "DEAD_AFTER": timedelta(seconds=1)}
"""Faster than by default, so that the dead are noticed soon."""

Said = tuple[str, Any]


@contextmanager
def lighthouse(**options: Any) -> Generator[str]:
    """A lighthouse that notices the dead soon."""
    elastic = grawa.Elastic(min_workers=1, **options)
    with patch.multiple("grawa.comm.lighthouse", **BEATS), grawa.lighthouse(elastic) as at:
        yield at


class Worker:
    """A process that trains as an elastic worker, and says what it does.

    Args:
        at: the lighthouse.
        number: of the worker.
        size: N.
        options: as for `train`.
    """

    def __init__(self, at: str, number: int, size: int, **options: Any) -> None:
        self.number = number
        self.pipe, its = forks().Pipe()
        self.process: ForkServerProcess = forks().Process(
            target=train, args=(its, at, number, size, options)
        )
        self.process.daemon = True
        self.process.start()
        its.close()
        self.said: list[Said] = []

    def until(self, kind: str, round_number: int = 0) -> Any:
        """Reads until it says something of this kind; of a round, until that one or a later."""
        while wait([self.pipe], PATIENCE_SECONDS):
            try:
                said = pickle.loads(self.pipe.recv_bytes())
            except EOFError as error:
                raise AssertionError(f"worker {self.number} ended, after {self.said}") from error
            self.said.append(said)
            if said[0] == "error" != kind:
                raise said[1]
            if said[0] == kind and (kind != "round" or said[1].round >= round_number):
                return said[1]
        raise TimeoutError(f"worker {self.number} is silent, after {self.said}")

    def rounds(self) -> dict[int, grawa.RoundReport]:
        """The reports it has given, by round."""
        return {report.round: report for kind, report in self.said if kind == "round"}

    def kill(self) -> None:
        """Ends it as the machine's end would."""
        self.process.kill()
        self.process.join(PATIENCE_SECONDS)

    def signal(self, number: int) -> None:
        """Stops it or lets it go on."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)


@contextmanager
def workers(at: str, size: int, **options: Any) -> Generator[list[Worker]]:
    """N workers, which are gone afterwards."""
    found = [Worker(at, i, size, **options) for i in range(size)]
    try:
        yield found
    finally:
        for worker in found:
            worker.process.kill()


def say(pipe: Connection, kind: str, value: Any) -> None:
    """Says something; as bytes, so that nothing is left in memory that is shared."""
    pipe.send_bytes(pickle.dumps((kind, value)))


def train(pipe: Connection, at: str, number: int, size: int, options: dict[str, Any]) -> None:
    """A worker's life.

    Options, beside those of an `Averager`: `strategy`, `steps`, `seconds` for each local step,
    `seed` of its model, `dies`: at which round and where, `raises`: after how many steps, `asks`
    for a stop: likewise.
    """
    torch.set_num_threads(1)
    seconds, steps = options.pop("seconds", 0.0), options.pop("steps", STEPS)
    dies, seed = options.pop("dies", {}).get(number), options.pop("seed", number)
    seconds = seconds.get(number, 0.0) if isinstance(seconds, dict) else seconds
    limits = {name: options.pop(name) for name in ("min_workers", "wait") if name in options}
    elastic = grawa.Elastic(
        **{"min_workers": 1, **limits},
        lighthouse=at,
        worker=number,
        num_workers=size,
        timeout=timedelta(seconds=2),
    )
    try:
        with patch.multiple("grawa.comm.lighthouse", **BEATS):
            _train(pipe, number, steps, seconds, seed, dies, elastic=elastic, **options)
    except Exception as error:
        say(pipe, "error", error)
        pipe.poll(PATIENCE_SECONDS)  # it lives on


def _train(
    pipe: Connection,
    number: int,
    steps: int,
    seconds: float,
    seed: int,
    dies: tuple[int, str] | None,
    *,
    raises: dict[int, int] | None = None,
    asks: dict[int, int] | None = None,
    strategy: grawa.Strategy | None = None,
    **options: Any,
) -> None:
    model = mlp(seed=seed)
    optimizer = sgd(model)
    averager = grawa.Averager(
        model,
        optimizer,
        strategy or grawa.LocalSGD(),
        sync_every=SYNC_EVERY,
        on_round=[lambda report: say(pipe, "round", report)],
        **options,
    )
    if dies is not None:
        die_at(averager, *dies)
    data = batches(steps, number + 1).workers([number])
    made = 0
    try:
        with averager:
            say(pipe, "in", (averager.round, averager.step, flat(model)))
            while averager.step < steps and not averager.stopping:
                if (asks or {}).get(number) == made:
                    averager.request_stop()
                inputs, targets = data.inputs[averager.step, 0], data.targets[averager.step, 0]
                optimizer.zero_grad()
                loss = mse_loss(model(inputs), targets)
                loss.backward()
                averager.record_loss(loss)
                if (raises or {}).get(number) == made:
                    raise KeyError("mine")
                optimizer.step()
                made += 1
                signal.sigtimedwait([], seconds)
            if averager.stopping:
                raise SystemExit  # the others go on
    finally:
        say(pipe, "made", made)
        say(pipe, "state", averager.state_dict())
        say(pipe, "end", flat(model))


def die_at(averager: grawa.Averager, round_number: int, where: str) -> None:
    """Has this process killed in a round: "before" it, in the "exchange", or around the "vote"."""

    def deadly(function: Any, *, first: bool) -> Any:
        def called(self: Any, *args: Any) -> Any:
            is_due = averager.round == round_number - 1
            votes = where not in ("vote", "after") or (args and args[0].shape == (1, 1))
            if is_due and votes and first:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(self, *args)
            if is_due and votes:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    owner: Any = Quorums if where == "before" else ElasticCommunicator
    exchanges = ("weighted_mean", "reduce_rows", "pairwise_distances")
    for name in {"before": ("_vote",), "exchange": exchanges}.get(where, ("gather",)):
        setattr(owner, name, deadly(getattr(owner, name), first=where != "after"))
