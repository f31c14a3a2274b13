"""Sets an engine up, with the same checks on every process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Optimizer

from grawa.comm.elastic import Elastic
from grawa.comm.pool import ranks_of
from grawa.errors import UserError
from grawa.rounds.clock import Clock
from grawa.rounds.engine import Engine
from grawa.rounds.plan import RoundPlan
from grawa.rounds.report import OnRound
from grawa.rounds.setup_elastic import check_no_groups, set_up_elastic
from grawa.workers.checks import check_not_parallel
from grawa.workers.replicas import Replicas
from grawa.workers.start import build_equal, connect


@dataclass(frozen=True)
class _Built:
    replicas: Replicas
    plan: RoundPlan


def set_up(
    models: Sequence[nn.Module],
    optimizers: Sequence[Sequence[Optimizer]],
    plan: Callable[[], RoundPlan],
    options: str,
    *,
    process_group: dist.ProcessGroup | None,
    worker_group: dist.ProcessGroup | None,
    timeout: timedelta,
    shared_memory: bool = True,
    hosts: Sequence[Sequence[int]] | None = None,
    between_hosts: str | None = None,
    elastic: Elastic | None = None,
    clock: Clock,
    tell: Sequence[OnRound],
) -> Engine:
    """Connects this process to the others and builds its engine.

    Args:
        models: the K hosted models.
        optimizers: the optimizers of each model.
        plan: makes the plan of rounds.
        options: the plan as text, which must be the same on every process.
        process_group: the processes that average; `None` for all.
        worker_group: the processes that the hosted worker consists of, if they are several.
        timeout: how long a message may wait for the others.
        shared_memory: whether processes of one machine may exchange messages in shared memory.
        hosts: the ranks of each host; found out by default.
        between_hosts: the backend that sends from one host to another.
        elastic: who may come and go, if workers may.
        clock: times the workers.
        tell: called with the report of each round.

    Returns:
        The engine, with all workers at worker 0's parameters; if they are elastic, when they begin.

    Raises:
        UserError: if something does not fit, on every process.
    """
    if elastic is not None:
        check_no_groups(process_group, worker_group, between_hosts)
        make = partial(set_up_elastic, shared_memory=shared_memory, hosts=hosts)
        return make(models, optimizers, plan, options, elastic, clock=clock, tell=tell)
    if worker_group is not None and (len(models) > 1 or process_group is None):
        raise UserError(
            "with a worker_group a process hosts one worker only, and process_group must be "
            "given too: the processes with the same rank within each worker's group"
        )
    device = next((p.device for model in models for p in model.parameters()), torch.device("cpu"))
    comm = clock.meter(
        connect(
            process_group,
            len(models),
            timeout,
            device=device,
            shared_memory=shared_memory,
            hosts=hosts,
            between_hosts=between_hosts,
        )
    )

    def build() -> _Built:
        for model in models:
            check_not_parallel(model, _ranks(process_group))
        replicas = Replicas(models, optimizers, worker_group)
        return _Built(replicas, plan().for_parameters(replicas.names))

    built = build_equal(comm, build, options)
    worker = None
    if worker_group is not None:
        worker = connect(worker_group, 1, timeout, device=device)
    return Engine(built.replicas, comm, worker, built.plan, clock, tell)


def group_of(group: dist.ProcessGroup | DeviceMesh | None) -> dist.ProcessGroup | None:
    """The process group that a user means by a group or a mesh.

    Returns:
        It; `None` where none was given.

    Raises:
        UserError: if a mesh has several dimensions.
    """
    if not isinstance(group, DeviceMesh):
        return group
    if group.ndim != 1:
        raise UserError(
            f"the DeviceMesh has the dimensions {group.mesh_dim_names or group.ndim}: pass the one "
            'along which workers lie, mesh["across"] say'
        )
    return group.get_group()


def ranks_by_host(
    hosts: Sequence[Sequence[int]] | DeviceMesh | None,
) -> list[list[int]] | None:
    """The ranks of each host that a user means by lists, or by the rows of a mesh.

    Returns:
        Lists; `None` where nothing was given.

    Raises:
        UserError: if a mesh has not two dimensions.
    """
    if not isinstance(hosts, DeviceMesh):
        return None if hosts is None else [list(ranks) for ranks in hosts]
    if hosts.ndim != 2:
        raise UserError(
            f"hosts takes a DeviceMesh of two dimensions, hosts x processes, got {hosts.ndim}"
        )
    rows: list[list[int]] = hosts.mesh.tolist()
    return rows


def backend_of(between_hosts: str | None) -> str | None:
    """The backend that a user wants between hosts; refuses any other than gloo."""
    if between_hosts not in (None, "gloo"):
        raise UserError(f'between_hosts must be None or "gloo", got {between_hosts!r}')
    return between_hosts


def _ranks(group: dist.ProcessGroup | None) -> Sequence[int]:
    """The global ranks of the processes that average; none if there is no process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return ()
    return ranks_of(group)
