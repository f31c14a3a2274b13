"""What a checkpoint holds: the entries of each of its files."""

from typing import Any

from grawa.checkpoints.contents import frozen_state, random_state, worker_state
from grawa.checkpoints.extras import Extras
from grawa.checkpoints.layout import Layout
from grawa.rounds.engine import Engine

Entries = dict[str, Any]
"""Name -> plain values and tensors, of one file."""

Files = dict[str, Entries]
"""Name of a file -> entries."""


def entries_of(engine: Engine, layout: Layout, extras: Extras) -> tuple[Files, Entries]:
    """What is saved, which shares memory with the workers.

    Args:
        engine: with the hosted workers.
        layout: of the checkpoint.
        extras: what its user adds.

    Returns:
        The files of this process and its workers, and what is the same on all processes.
    """
    replicas, frozen = engine.replicas, engine.replicas.frozen_names()
    files: Files = {}
    for k, worker in enumerate(layout.hosted):
        own = worker_state(replicas.models[k], replicas.optimizers[k], frozen)
        files[layout.worker_file(worker)] = {**own, "extra": dict(extras.of_worker(k))}
    state = engine.keeper.state_dict()
    strategy = [fragment.pop("state") for fragment in state["runner"]["fragments"]]
    files[layout.process_file(layout.process)] = {
        "averager": state,
        "random": random_state(replicas.gradients.device),
        "extra": dict(extras.process),
    }
    shared = {"frozen": frozen_state(replicas.models[0], frozen), "strategy": strategy}
    return files, {**shared, "extra": dict(extras.shared)}
