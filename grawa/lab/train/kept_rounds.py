"""Keeps the workers' parameters as they were before the last rounds."""

from collections import deque

import torch
from torch import Tensor

from grawa.lab.train.events import ByWorker
from grawa.math.leaves import Rows
from grawa.rounds.engine import Engine


class KeptRounds:
    """Copies of the hosted workers' parameters, before each of the last rounds of each fragment.

    Args:
        engine: runs the rounds.
        rounds: R, how many of them are kept.
    """

    def __init__(self, engine: Engine, rounds: int) -> None:
        self._comm, self._rounds = engine.comm, rounds
        self._kept: dict[str, deque[Tensor]] = {}
        for fragment in engine.keeper.runner.fragments:
            fragment.watchers.append(self._watch)

    def _watch(self, params: Rows, active: Tensor) -> None:
        """Copies parameters; those of a worker that is left out are not numbers."""
        left_out = torch.where(~self._comm.hosted(active))[0].tolist()
        for name, rows in params.items():
            copy = rows.detach().to("cpu", copy=True)
            copy[left_out] = torch.nan
            self._kept.setdefault(name, deque(maxlen=self._rounds)).append(copy)

    def of_workers(self) -> ByWorker:
        """The copies.

        Returns:
            Hosted worker -> name -> (R, *shape), or fewer if there were fewer rounds; empty if
            there was none.
        """
        fewest = min((len(copies) for copies in self._kept.values()), default=0)
        if not fewest:
            return {}
        stacks = {name: torch.stack([*copies][-fewest:]) for name, copies in self._kept.items()}
        hosted = self._comm.num_hosted
        return {
            self._comm.process * hosted + k: {name: x[:, k] for name, x in stacks.items()}
            for k in range(hosted)
        }
