"""Restores a checkpoint, on all processes the same one, or refuses it by name."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from grawa.checkpoints.contents import (
    check_random_state,
    check_tensors,
    check_worker,
    frozen_state,
    put_random_state,
    put_tensors,
    put_worker,
)
from grawa.checkpoints.files import read_text
from grawa.checkpoints.layout import FORMAT, Layout
from grawa.checkpoints.places import MANIFEST, checkpoints, newest_sound, number_of
from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.engine import Engine
from grawa.rounds.purposes import Purpose
from grawa.saving import read_part
from grawa.version import __version__

_MOST = 100
"""Of the newest checkpoints, those that processes tell each other of."""


def restore(engine: Engine, folder: Path, *, strict: bool) -> dict[str, Any] | None:
    """Restores what `save` saved; every process must call it.

    Args:
        engine: with the hosted workers.
        folder: with checkpoints, of which the newest is taken; or one of them.
        strict: whether settings must be what they were.

    Returns:
        The user's extra; `None` if there is no checkpoint yet. If a process can't restore it, all
        raise `UserError`, and nothing has changed.
    """

    def together(agreement: Agreement) -> dict[str, Any] | None:
        path = _agreed(agreement, folder)
        if path is None:
            return None
        reading = _Reading(engine, Layout.of(engine, agreement), path, strict=strict)
        failure, id = None, ""
        try:
            id = reading.run()
        except UserError as error:
            failure = UserError(f"{path} can't be restored: {error}{_advice(path)}")
        if len(set(agreement.settle(failure, id))) > 1:
            raise UserError(
                f"{path} is not the same checkpoint on every process; let all of them see one "
                "folder, or copy each one's files to it"
            )
        return reading.put()

    return engine.together(Purpose.RESTORING, together)


def _agreed(agreement: Agreement, folder: Path) -> Path | None:
    """The newest checkpoint that all processes have, or the one that is asked for."""
    failure, found = None, {}
    try:
        asked = number_of(folder)
        found = checkpoints(folder) if asked is None else {asked: folder}
        if asked is not None and not folder.is_dir():
            raise UserError(f"there is no checkpoint {folder}")
    except UserError as error:
        failure = error
    lines = agreement.settle(failure, json.dumps(sorted(found)[-_MOST:]))
    numbers = [set(json.loads(line)) for line in lines]
    everywhere = set.intersection(*numbers)
    if everywhere:
        return found[max(everywhere)]
    without = [str(process) for process, own in enumerate(numbers) if not own]
    if len(without) == len(numbers):
        return None
    raise UserError(
        f"process {', '.join(without) or '0'} finds no checkpoint in {folder} that all have: hosts "
        "that don't share the folder each need the files that their own processes have saved"
    )


def _advice(path: Path) -> str:
    """Which checkpoint can be taken in place of one that can't."""
    sound = newest_sound(path.parent, number_of(path) or 0)
    if sound is None:
        return ". There is no sound one before it"
    return f". The one before it is sound: restore({str(sound)!r}) takes it"


class _Reading:
    """A checkpoint that is read and checked before anything is changed.

    Args:
        engine: with the hosted workers.
        layout: of the checkpoint.
        path: of its folder.
        strict: whether settings must be what they were.
    """

    def __init__(self, engine: Engine, layout: Layout, path: Path, *, strict: bool) -> None:
        self._engine, self._layout, self._path = engine, layout, path
        self._frozen, self._strict = engine.replicas.frozen_names(), strict

    def run(self) -> str:
        """Reads everything; `UserError` if it is damaged, or does not fit.

        Returns:
            The checkpoint's id.

        Raises:
            UserError: if its state does not fit.
        """
        manifest = self._manifest()
        *self._workers, process, shared = (
            self._entries(name, str(manifest["id"])) for name in self._layout.own_files()
        )
        for k, saved in enumerate(self._workers):
            replicas = self._engine.replicas
            check_worker(saved, replicas.models[k], replicas.optimizers[k], self._frozen)
        self._shared = shared
        check_tensors("parameter", shared.get("frozen"), self._own_frozen())
        self._state = _whole(process.get("averager"), shared.get("strategy"))
        self._extra: dict[str, Any] = _dict_in(process, "extra")
        self._random: dict[str, Tensor] = _dict_in(process, "random")
        check_random_state(self._random)
        if (refused := self._engine.keeper.refusal(self._state, strict=self._strict)) is not None:
            raise UserError(str(refused))
        return str(manifest["id"])

    def put(self) -> dict[str, Any]:
        """Restores everything; collective.

        Returns:
            The user's extra.
        """
        engine, replicas = self._engine, self._engine.replicas
        keeper = engine.keeper
        keeper.overwritten.drop()
        keeper.load(self._state, strict=self._strict)
        for k, saved in enumerate(self._workers):
            put_worker(saved, replicas.models[k], replicas.optimizers[k], self._frozen)
        for model in replicas.models:
            named = dict(model.named_parameters())
            put_tensors(self._shared["frozen"], {name: named[name] for name in self._frozen})
        keeper.runner.remember_buffers(self._state["runner"]["buffers"])
        put_random_state(self._random, replicas.gradients.device)
        return self._extra

    def _own_frozen(self) -> Mapping[str, Any]:
        return frozen_state(self._engine.replicas.models[0], self._frozen)

    def _manifest(self) -> dict[str, Any]:
        path = self._path / MANIFEST
        try:
            manifest = json.loads(read_text(path))
        except (json.JSONDecodeError, RecursionError):
            manifest = None
        if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
            raise UserError(f"{path} is damaged")
        if manifest["format"] != FORMAT:
            raise UserError(
                f"it was saved by grawa {str(manifest.get('grawa'))[:20]} in format "
                f"{manifest['format']}, and this is grawa {__version__}, which reads format "
                f"{FORMAT}: use that version"
            )
        for name, number in self._layout.counts().items():
            if manifest.get(name) != number:
                raise UserError(
                    f"it was saved by a job with {str(manifest.get(name))[:20]} {name}, and this "
                    f"one has {number}: start as many as then"
                )
        return manifest

    def _entries(self, name: str, id: str) -> dict[str, Any]:
        path = self._path / name
        entries = read_part(path)
        if (entries.pop("id", None), entries.pop("file", None)) != (id, name):
            raise UserError(f"{path} does not belong to this checkpoint")
        return entries


def _dict_in(entries: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = entries.get(name)
    if not isinstance(found, dict):
        raise UserError(f"its {name} is damaged")
    return found


def _whole(state: Any, shared: Any) -> Any:
    """A state with what is the same on every process put back."""
    try:
        fragments = state["runner"]["fragments"]
        for fragment, kept in zip(fragments, shared, strict=True):
            fragment["state"] = kept
    except (LookupError, TypeError, ValueError):
        raise UserError("its state is damaged") from None
    return state
