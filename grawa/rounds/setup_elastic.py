"""Sets an engine up for a job whose workers come and go."""

from collections.abc import Callable, Sequence
from hashlib import sha256

import torch
from torch import nn
from torch.optim import Optimizer

from grawa.comm.elastic import Elastic
from grawa.comm.present import ElasticCommunicator
from grawa.errors import UserError
from grawa.rounds.clock import Clock
from grawa.rounds.engine import Engine
from grawa.rounds.plan import RoundPlan
from grawa.rounds.quorums import Quorums
from grawa.rounds.report import OnRound
from grawa.workers.replicas import Replicas
from grawa.workers.start import form_of


def set_up_elastic(
    models: Sequence[nn.Module],
    optimizers: Sequence[Sequence[Optimizer]],
    plan: Callable[[], RoundPlan],
    options: str,
    elastic: Elastic,
    *,
    shared_memory: bool,
    hosts: Sequence[Sequence[int]] | None,
    clock: Clock,
    tell: Sequence[OnRound],
) -> Engine:
    """Builds this process's engine; it meets the others when local steps begin.

    Args:
        models: the one hosted model.
        optimizers: its optimizers.
        plan: makes the plan of rounds.
        options: the plan as text, which must be the same on every process.
        elastic: who may come and go.
        shared_memory: whether processes of one machine may exchange messages in shared memory.
        hosts: the workers of each host; found out by default.
        clock: times the workers.
        tell: called with the report of each round.

    Returns:
        The engine.

    Raises:
        UserError: if something does not fit.
    """
    if len(models) != 1:
        raise UserError(
            f"an elastic process hosts one worker, got {len(models)} models: start more processes"
        )
    placed = elastic.placed()
    assert placed.worker is not None and placed.num_workers is not None, "it is complete"
    replicas = Replicas(models, optimizers)
    comm = ElasticCommunicator(
        placed.num_workers,
        placed.worker,
        address=placed.address,
        timeout=placed.times.timeout,
        device=next((p.device for p in models[0].parameters()), torch.device("cpu")),
        shared_memory=shared_memory,
        hosts=hosts,
    )
    form = sha256(f"{form_of(replicas)} {options} {placed.num_workers}".encode()).hexdigest()
    assembly = Quorums(placed, comm, form)
    planned = plan().for_parameters(replicas.names)
    return Engine(replicas, clock.meter(comm), None, planned, clock, tell, assembly)


def check_no_groups(process_group: object, worker_group: object, between_hosts: object) -> None:
    """Refuses options of process groups, which elastic workers don't share."""
    given = {
        "process_group": process_group,
        "worker_group": worker_group,
        "between_hosts": between_hosts,
    }
    for name, value in given.items():
        if value is not None:
            raise UserError(
                f"{name} can't be used with elastic: a process group ends with the first of its "
                "processes, so elastic workers connect by gloo, without one; each is one process"
            )
