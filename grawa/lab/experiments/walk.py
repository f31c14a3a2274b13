"""Records the paths of workers and consensus in a run, for models small enough to draw."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from grawa.errors import DivergedError
from grawa.lab.tasks import Task
from grawa.lab.train.events import Finished
from grawa.lab.train.run import Run, StrategyFor
from grawa.lab.train.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The path of a run; P is the number of values in a model's state dict.

    Attributes:
        workers: each worker after every local step, and after the round if one was due,
            (T+1, N, P); the first row is the start.
        consensus: after every round, (R+1, P); the first row is the start.
        rounds: the local step of each row of `consensus`, from 0.
        end: the consensus at the end, (P,); the last one if the run failed.
        error: the task's metric at the end; NaN if the run failed.
        failure: why it failed; empty if it did not.
    """

    workers: Tensor
    consensus: Tensor
    rounds: tuple[int, ...]
    end: Tensor
    error: float
    failure: str


def walk(task: Task, strategy_for: StrategyFor, settings: Settings) -> Walk:
    """Trains with all workers in this process, and records their paths.

    Args:
        task: the task.
        strategy_for: makes the strategy.
        settings: the settings.

    Returns:
        The whole path; for a run that diverges, the path until then.
    """
    track = _Track(Run(task, strategy_for, settings, torch.device("cpu"), None))
    try:
        track.follow()
        *_, finished = track.run.end(keep_workers=False, rounds={})
        assert isinstance(finished, Finished), "the last event is the end"
    except DivergedError as stopped:
        return track.walk(track.consensus[-1], math.nan, str(stopped))
    return track.walk(_flat(finished.consensus), finished.error, "")


class _Track:
    """Records the positions of workers and consensus while a run trains."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.workers = [self._places()]
        self.consensus = [_flat(consensus_of(run))]
        self.rounds = [0]

    def follow(self) -> None:
        """Trains to the end."""
        run = self.run
        run.engine.local_steps_begin()
        while not run.is_over():
            run.step()
            self.workers.append(self._places())
            self._note_round()
        run.engine.leave()
        if self._note_round():  # after the last steps
            self.workers[-1] = self._places()

    def walk(self, end: Tensor, error: float, failure: str) -> Walk:
        """The recorded path."""
        return Walk(
            workers=torch.stack(self.workers),
            consensus=torch.stack(self.consensus),
            rounds=tuple(self.rounds),
            end=end,
            error=error,
            failure=failure,
        )

    def _note_round(self) -> bool:
        """Records the consensus if there was a round since the last call; returns whether."""
        is_new = bool(list(self.run.news()))
        if is_new:
            self.consensus.append(_flat(consensus_of(self.run)))
            self.rounds.append(len(self.workers) - 1)
        return is_new

    def _places(self) -> Tensor:
        states = self.run.workers_states()
        return torch.stack([_flat(states[worker]) for worker in sorted(states)])


def consensus_of(run: Run) -> dict[str, Tensor]:
    """The state dict of the run's current consensus."""
    return run.engine.replicas.state_dict_with(run.engine.consensus())


def _flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.detach().double().flatten() for value in state.values()])
