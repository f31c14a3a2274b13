"""Where what is restored on this process comes from, if the workers may be others than then."""

from typing import Any

import torch
from torch import Tensor

from grawa.checkpoints.layout import Layout
from grawa.checkpoints.regroup import Place, Regrouping
from grawa.checkpoints.saved import Saved, dict_in
from grawa.rounds.engine import Engine
from grawa.saving.part import CheckpointError
from grawa.strategies.protocol import OF_WORKERS


class Sources:
    """Finds the parts of a checkpoint for the workers of this process.

    A worker that was saved gets what is its own. A new one starts at the center, with buffers and
    the options of optimizers from its donor: the worker whose number is the same modulo the number
    of saved ones.

    Args:
        saved: the checkpoint.
        here: the layout of the job that restores it.
        engine: that restores it.
        donors: whether new workers also get their donor's optimizer state; otherwise it is fresh.
    """

    def __init__(self, saved: Saved, here: Layout, engine: Engine, *, donors: bool) -> None:
        self._saved, self._here, self._donors = saved, here, donors
        self._of_clock = engine.keeper.clock.by_worker
        self._fixed = engine.keeper.origin.fixed
        self._roll_call = engine.keeper.runner.roll_call
        # The rounds of a single worker leave the center where it began.
        self._moved = saved.layout.workers > 1 or engine.plan.strategy.moves_one_worker

    def worker(self, worker: int) -> dict[str, Any]:
        """The model and optimizers of a worker's file, or what a new worker has in their place."""
        workers = self._saved.layout.workers
        donor = {**self._saved.worker(worker % workers)}
        donor.pop("extra", None)
        if worker < workers:
            return donor
        own = dict_in(donor, "parameters")
        center = self._center()
        made = {n: center.get(n, x).to(x.dtype) for n, x in own.items()}
        optimizers = donor.get("optimizers")
        if not self._donors:
            optimizers = [_without_state(entry) for entry in _list(optimizers)]
        return {**donor, "parameters": made, "optimizers": optimizers}

    def extra(self, worker: int) -> dict[str, Any] | None:
        """The extra that was saved with a worker; `None` for a new one."""
        if worker >= self._saved.layout.workers:
            return None
        return dict_in(self._saved.worker(worker), "extra")

    def process(self) -> dict[str, Any]:
        """The entries of this process's file; else of that of the process of its first worker.

        Returns:
            Random state and extra; a new process has no random state.
        """
        was = self._saved.layout
        if self._saved.is_alike:
            own: dict[str, Any] = self._saved.process(self._here.process)
            return own
        first = self._saved.process(was.process_of(self._here.hosted[0] % was.workers))
        its = self._here.process < was.processes
        random = self._saved.process(self._here.process).get("random") if its else {}
        return {**first, "random": random}

    def state(self) -> dict[str, Any]:
        """The averager's state on this process; `UserError` if it can't be divided, or is damaged.

        Returns:
            The state.
        """
        if self._saved.is_alike:
            own, shared = self._saved.process(self._here.process), self._saved.shared()
            return _whole(own.get("averager"), shared.get("strategy"))
        new = self._here.workers > self._saved.layout.workers
        saved = [self._place(w) for w in range(self._saved.layout.workers)] if new else []
        hosted = [self._place(w) if self._is_saved(w) else None for w in self._here.hosted]
        first = self._saved.layout.process_of(0)
        processes = [first, *(p.process for p in (*saved, *hosted) if p is not None)]
        states = {p: self._saved.process(p).get("averager") for p in dict.fromkeys(processes)}
        workers = range(self._here.workers)
        everyone = [Place(first, w) if self._is_saved(w) else None for w in workers]
        regrouping = Regrouping(states, hosted, everyone, saved, self._of_clock, moved=self._moved)
        state = regrouping.state()
        roll_call = dict_in(dict_in(state, "runner"), "roll_call")
        if roll_call.get("tracker") is None:  # as of a single worker, which has no score
            roll_call["tracker"] = self._roll_call.state_dict()["tracker"]
        belongs = dict_in(dict_in(state, "origin"), "fixed")
        belongs.update({name: self._fixed[name] for name in _OF_PROCESS})
        return _whole(state, self._strategy())

    def _strategy(self) -> list[Any]:
        """The strategy's state, by fragments; if it never moved, with the only worker as center."""
        fragments = _list(self._saved.shared().get("strategy"))
        return [{key: self._leaves(key, leaves) for key, leaves in _dict(part).items()}
                for part in fragments]  # fmt: skip

    def _leaves(self, key: str, leaves: Any) -> Any:
        """An entry of the strategy's state, for the workers that there are now."""
        if key == OF_WORKERS:
            return {n: _resized(rows, self._here.workers) for n, rows in _dict(leaves).items()}
        if self._moved or key not in _CENTERS:
            return leaves
        return _at(dict_in(self._saved.worker(0), "parameters"), leaves)

    def _is_saved(self, worker: int) -> bool:
        return worker < self._saved.layout.workers

    def _place(self, worker: int) -> Place:
        was = self._saved.layout
        return Place(was.process_of(worker), worker % len(was.hosted))

    def _center(self) -> dict[str, Tensor]:
        """The center of the strategy; without one, the mean of the workers that are finite."""
        fragments = self._strategy()
        if fragments and all("center" in part for part in fragments):
            return {name: x for part in fragments for name, x in part["center"].items()}
        workers = range(self._saved.layout.workers)
        everyone = [dict_in(self._saved.worker(w), "parameters") for w in workers]
        sound = [own for own in everyone if all(bool(x.isfinite().all()) for x in own.values())]
        if not sound:
            raise CheckpointError("no saved worker's parameters are finite")
        names = sound[0]
        return {n: torch.stack([own[n].double() for own in sound]).mean(dim=0) for n in names}


_OF_PROCESS = "workers", "workers of this process", "process of the worker"
"""What a state belongs to that is another with other workers."""


_CENTERS = "center", "exact"
"""Entries of a strategy's state that are a center, in the parameters' dtype and in a wider one."""


def _at(parameters: dict[str, Tensor], leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameters[name].to(leaf.dtype) for name, leaf in leaves.items()}


def _resized(rows: Any, workers: int) -> Tensor:
    """The first rows, or with rows of zeros after them."""
    if not isinstance(rows, Tensor) or not rows.dim():
        raise CheckpointError("its state is damaged")
    made = rows.new_zeros(workers, *rows.shape[1:])
    common = min(workers, len(rows))
    made[:common] = rows[:common]
    return made


def _without_state(entry: Any) -> Any:
    if not isinstance(entry, dict) or not isinstance(entry.get("state"), dict):
        raise CheckpointError("the optimizers' states in it are damaged")
    return {**entry, "state": {**entry["state"], "state": {}}}


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError("its state is damaged")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError("its state is damaged")
    return value


def _whole(state: Any, shared: Any) -> dict[str, Any]:
    """A state with what is the same on every process put back."""
    try:
        fragments = state["runner"]["fragments"]
        parts = [
            {**fragment, "state": kept} for fragment, kept in zip(fragments, shared, strict=True)
        ]
        return {**state, "runner": {**state["runner"], "fragments": parts}}
    except (LookupError, TypeError, ValueError):
        raise CheckpointError("its state is damaged") from None
