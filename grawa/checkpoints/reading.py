"""Reads a checkpoint, and checks that it fits, before anything is changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from grawa.checkpoints.contents import (
    check_alike,
    check_random_state,
    check_tensors,
    check_worker,
    frozen_state,
    put_random_state,
    put_tensors,
    put_worker,
)
from grawa.checkpoints.layout import Layout
from grawa.checkpoints.saved import Saved, dict_in
from grawa.checkpoints.sources import Sources
from grawa.errors import UserError
from grawa.math.codec import codec_of
from grawa.rounds.engine import Engine
from grawa.saving.part import ForeignError


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Which checkpoints may be restored.

    Args:
        strict: whether settings must be what they were.
        resize: whether the workers, or the processes that host them, may be others than then.
        donors: whether new workers get their donor's optimizer state; otherwise it is fresh.
        how: says how a user allows other numbers of these.
        belongs: refuses, by a `ForeignError`, what belongs to something else, by what was saved
            as `Extras.about`.
    """

    strict: bool = True
    resize: bool = False
    donors: bool = False
    how: Callable[[int, int], str] = lambda workers, processes: "pass resize=True to go on so"
    belongs: Callable[[Mapping[str, Any]], None] = lambda about: None


class Reading:
    """A checkpoint that is read and checked before anything is changed.

    Args:
        engine: with the hosted workers.
        here: the layout of this job.
        saved: opens the checkpoint for a job with this layout.
        terms: which checkpoints may be restored.

    Attributes:
        process: the extra of this process.
        workers: the extra of each hosted worker; `None` for new ones.
        shared: the extra that is the same on every process.
    """

    process: dict[str, Any]
    workers: list[dict[str, Any] | None]
    shared: dict[str, Any]

    def __init__(
        self, engine: Engine, here: Layout, saved: Callable[[Layout], Saved], terms: Terms
    ) -> None:
        self._engine, self._here, self._saved, self._terms = engine, here, saved, terms
        self._frozen = engine.replicas.frozen_names()

    def run(self) -> str:
        """Reads everything; `UserError` if it is damaged, or does not fit.

        Returns:
            The checkpoint's id.

        Raises:
            UserError: if its state does not fit.
        """
        saved = self._saved(self._here)
        self._terms.belongs(saved.manifest["about"])
        self.was = saved.layout
        self._check_numbers()
        keeper, replicas = self._engine.keeper, self._engine.replicas
        sources = Sources(saved, self._here, self._engine, donors=self._terms.donors)
        self._entries = [sources.worker(worker) for worker in self._here.hosted]
        for k, own in enumerate(self._entries):
            check_worker(own, replicas.models[k], replicas.optimizers[k], self._frozen)
        check_alike([own["buffers"] for own in self._entries])
        self.workers = [sources.extra(worker) for worker in self._here.hosted]
        shared, process = saved.shared(), sources.process()
        frozen = frozen_state(replicas.models[0], self._frozen)
        check_tensors("parameter", shared.get("frozen"), frozen)
        self._kept: dict[str, Tensor] = shared["frozen"]
        self._state = sources.state()
        self.process, self.shared = dict_in(process, "extra"), dict_in(shared, "extra")
        self._random = dict_in(process, "random")
        if self._random:
            check_random_state(self._random)
        if (refused := keeper.refusal(self._state, strict=self._terms.strict)) is not None:
            raise UserError(str(refused))
        return str(saved.manifest.get("id"))

    def put(self) -> None:
        """Restores everything; collective."""
        engine, replicas = self._engine, self._engine.replicas
        keeper = engine.keeper
        keeper.overwritten.drop()
        keeper.load(self._state, strict=self._terms.strict)
        for k, own in enumerate(self._entries):
            put_worker(own, replicas.models[k], replicas.optimizers[k], self._frozen)
        for model in replicas.models:
            named = dict(model.named_parameters())
            put_tensors(self._kept, {name: named[name] for name in self._frozen})
        keeper.runner.remember_buffers(self._state["runner"]["buffers"])
        if self._random:
            put_random_state(self._random, replicas.gradients.device)

    def notice(self) -> str:
        """What is not as it was, in one line; empty if the workers and processes are those."""
        was, here = self.was, self._here
        if was == here:
            return ""
        parts = [f"{here} go on from a checkpoint of {was}"]
        if here.workers > was.workers:
            new = _range(was.workers, here.workers)
            theirs = "their donors'" if self._terms.donors else "a fresh"
            parts.append(f"{new} at the center with {theirs} optimizer state")
        if here.workers < was.workers:
            parts.append(f"without {_range(here.workers, was.workers)}")
        sent = self._engine.plan.comm_dtype
        if sent is not None and codec_of(sent).loses:
            parts.append(f"what sending as {sent} had lost starts from zero")
        return ", ".join(parts)

    def _check_numbers(self) -> None:
        was, here = self.was, self._here
        if was != here and not self._terms.resize:
            raise ForeignError(
                f"it was saved by a job with {was}, and this one has {here}: "
                f"start as many as then, or {self._terms.how(here.workers, here.processes)}"
            )


def _range(first: int, stop: int) -> str:
    return f"worker {first}" if stop == first + 1 else f"workers {first} to {stop - 1}"
