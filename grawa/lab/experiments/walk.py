"""The way that workers and consensus take in a run, of models small enough to draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.errors import DivergedError
from grawa.lab.tasks import Task
from grawa.lab.train.loop import Run, StrategyFor
from grawa.lab.train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Where a run has been; P counts the values of a model's state.

    Attributes:
        workers: each worker after every local step, and the round if one was due, (T+1, N, P); the
            first row is the start.
        consensus: after every round, (R+1, P); the first row is the start.
        rounds: at which local step each row of `consensus` was taken, from 0.
        end: the consensus at the end, (P,); of a run that failed, the last one.
        error: the task's metric at the end; not a number for a run that failed.
        failure: why it did; empty if it did not.
    """

    workers: Tensor
    consensus: Tensor
    rounds: tuple[int, ...]
    end: Tensor
    error: float
    failure: str


def walk(task: Task, strategy_for: StrategyFor, settings: Settings) -> Walk:
    """Trains with all workers in this process, and keeps where they were.

    Args:
        task: what is learnt.
        strategy_for: makes the strategy.
        settings: how.

    Returns:
        The whole way; of a run that diverges, as far as it came.
    """
    track = _Track(Run(task, strategy_for, settings, torch.device("cpu"), None))
    try:
        track.follow()
        finished = track.run.finish()
    except DivergedError as stopped:
        return track.walk(track.consensus[-1], math.nan, str(stopped))
    return track.walk(_flat(finished.consensus), finished.error, "")


class _Track:
    """Writes down where a run is."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.workers = [self._places()]
        self.consensus = [_flat(consensus_of(run))]
        self.rounds = [0]

    def follow(self) -> None:
        """Makes all the steps."""
        run = self.run
        run.engine.local_steps_begin()
        while not run.is_over():
            run.step()
            self.workers.append(self._places())
            self._note_round()
        run.engine.leave()
        if self._note_round():  # that took in the last steps
            self.workers[-1] = self._places()

    def walk(self, end: Tensor, error: float, failure: str) -> Walk:
        """What was written down."""
        return Walk(
            workers=torch.stack(self.workers),
            consensus=torch.stack(self.consensus),
            rounds=tuple(self.rounds),
            end=end,
            error=error,
            failure=failure,
        )

    def _note_round(self) -> bool:
        """Whether there was one since the last call."""
        is_new = bool(list(self.run.news()))
        if is_new:
            self.consensus.append(_flat(consensus_of(self.run)))
            self.rounds.append(len(self.workers) - 1)
        return is_new

    def _places(self) -> Tensor:
        states = self.run.workers_states()
        return torch.stack([_flat(states[worker]) for worker in sorted(states)])


def consensus_of(run: Run) -> dict[str, Tensor]:
    """The state dict of the model that a run would evaluate now."""
    return run.engine.replicas.state_dict_with(run.engine.consensus())


def _flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in state.values()])
