"""Checkpoints of torch.distributed.checkpoint that hold all workers."""

import os
import secrets
import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from grawa.averager import Averager
from grawa.checkpoints.entries import Entries, entries_of
from grawa.checkpoints.extras import Extras
from grawa.checkpoints.layout import Layout
from grawa.checkpoints.manifest import checked, manifest_of
from grawa.checkpoints.packed import Packed, Tree, blank, name_of, pack, unpack
from grawa.checkpoints.reading import Reading, Terms
from grawa.checkpoints.restore import restore_this
from grawa.checkpoints.saved import Saved
from grawa.errors import UserError
from grawa.modes import undisturbed
from grawa.rounds.agreement import Agreement
from grawa.rounds.purposes import Purpose
from grawa.saving.part import CheckpointError
from grawa.warn import warn

if TYPE_CHECKING:
    from torch.distributed.checkpoint.storage import StorageReader

_MANIFEST = "manifest"

_WHERE = "the checkpoint of torch.distributed.checkpoint"


class DistributedState:
    """All workers of an `Averager`, for `torch.distributed.checkpoint`.

    Put it into a checkpoint in place of model, optimizer and `Averager`; every process must do so:

        state = grawa.integrations.DistributedState(averager)
        dcp.save({"app": state}, checkpoint_id=path)
        dcp.load({"app": state}, checkpoint_id=path)

    It holds what `Averager.save` saves: each worker's model and optimizers under names of its own,
    such as `app.worker-3.parameters`, what is the same on all workers once, and torch's random
    state. A model or an optimizer that you put into the checkpoint yourself would be a mixture of
    workers: `dcp.save` takes values of one name on several processes for copies, and saves one.

    `dcp.load` needs the same numbers of workers and processes as when it was saved; `load_resized`
    takes others. It reads parameters in place, so after an error load again, or start anew. Unlike
    `Averager.restore`, it may execute what a file holds: load only files that you trust.

    `dcp.async_save` sends messages while training goes on, and from the CPU: give it a process
    group of its own, such as `process_group=dist.new_group(backend="gloo")`.

    Args:
        averager: whose workers.
        strict: whether settings must be what they were, see `Averager.load_state_dict`.

    Attributes:
        extra: what else this process needs to go on, such as its epoch and the state dict of its
            data loader; loading replaces it by what this process has saved.

    Raises:
        UserError: if workers are elastic: they save for themselves, with `Averager.save`.
    """

    def __init__(self, averager: Averager, *, strict: bool = True) -> None:
        self._averager, self._engine = averager, averager._engine
        self._strict = strict
        self.extra: dict[str, Any] = {}
        if self._engine.assembly.is_elastic:
            raise UserError("with elastic=, each worker saves for itself: use Averager.save")

    def state_dict(self) -> Tree:
        """What is saved; every process must call it, but not at the same step.

        Returns:
            A nested dict, which shares memory with the workers.
        """

        def together(agreement: Agreement) -> Tree:
            layout, extras = Layout.of(self._engine, agreement), Extras(process=self.extra)
            manifest = manifest_of(self._engine, layout, secrets.token_hex(8), extras)
            # For another job, torch says that it misses this one, before anything is read.
            what = f"{type(self._engine.plan.strategy).__name__} of {layout}"
            told = {what: Packed(True), _MANIFEST: Packed(manifest)}
            return told | self._trees(layout, extras)

        with self._averager._caught_up():
            return self._engine.together(Purpose.SAVING, together)

    def _trees(self, layout: Layout, extras: Extras) -> Tree:
        own, shared = entries_of(self._engine, layout, extras)
        files = {**own, layout.shared_file: shared}
        return {name_of(file): pack(entries) for file, entries in files.items()}

    def load_state_dict(self, state: Tree) -> None:
        """Restores what `state_dict` returned, after it was read; every process must call it.

        If a process can't, all raise `UserError`.
        """

        def saved(here: Layout) -> Saved:
            return Saved(_manifest(state), here, partial(unpack, trees=state), _WHERE)

        self._restore(saved, Terms(strict=self._strict))

    def load_resized(
        self,
        key: str,
        *,
        checkpoint_id: str | os.PathLike[str] | None = None,
        storage_reader: "StorageReader | None" = None,
        donors: bool = False,
    ) -> None:
        """Loads a checkpoint of other numbers of workers or processes; every process must call it.

        Call it in place of `dcp.load`, which loads what else is in the checkpoint. Workers that
        were saved go on as they were; new ones start at the center, see `Averager.restore`. What
        does not go on as it was is said in a warning.

        Args:
            key: under which this was saved, such as "app".
            checkpoint_id: see `dcp.load`.
            storage_reader: see `dcp.load`.
            donors: whether new workers get the optimizer state of saved ones.

        If a process can't load it, all raise `UserError`, and nothing has changed.
        """
        read = partial(_read, key, checkpoint_id=checkpoint_id, storage_reader=storage_reader)

        def saved(here: Layout) -> Saved:
            forms = {_kind(name): tree for name, tree in self._trees(here, Extras()).items()}

            def entries(file: str) -> Entries:
                name = name_of(file)
                return unpack(file, read({name: blank(forms[_kind(name)])}))

            return Saved(_manifest(read({_MANIFEST: Packed(None)})), here, entries, _WHERE)

        reading = self._restore(saved, Terms(strict=self._strict, resize=True, donors=donors))
        if notice := reading.notice():
            warn(notice)

    def _restore(self, saved: Callable[[Layout], Saved], terms: Terms) -> Reading:
        with undisturbed():
            reading = restore_this(self._engine, saved, terms, _WHERE)
        self.extra = reading.process
        return reading


def _kind(name: str) -> str:
    """What a tree is of: a worker, a process, or all."""
    return name.partition("-")[0]


def _manifest(trees: Tree) -> Entries:
    return checked(getattr(trees.get(_MANIFEST), "value", None), "its manifest")


def _read(key: str, trees: Tree, **place: Any) -> Tree:
    """Reads trees, on this process alone.

    Args:
        key: under which they are.
        trees: that have the same form; they are changed.
        place: of the checkpoint, for `dcp.load`.

    Returns:
        The trees.

    Raises:
        CheckpointError: if they can't be read.
    """
    # These take long to import, and few need them.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load({key: trees}, no_dist=True, **place)
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        raise CheckpointError(str(cause) or type(cause).__name__) from cause
    return trees
