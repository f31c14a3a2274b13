"""What the options of `grawa plan` ask for: whether they fit together, and the network."""

import os
from math import prod

import torch.distributed as dist

from grawa.errors import UserError
from grawa.lab.cli.plan_config import NetworkOptions, PlanConfig
from grawa.lab.planning.links import Hosts, find_hosts
from grawa.lab.report.console import in_words
from grawa.lab.shapes import shown
from grawa.lab.simulate.network import Link, Network, network_of, parse_hosts
from grawa.process_group import under_launcher

WORKERS = 4

_MOST_WORKERS = 2048
"""Their messages are counted with N numbers for each of N workers: in some seconds for so many."""

_MOST_SAMPLES = 10**9

_EXAMPLE = "grawa plan --parameters 124M --step-time 300ms --link 1gbit:1ms"


def check(asked: PlanConfig) -> None:
    """Raises `UserError` unless there is either a task, or all numbers that replace one."""
    asked.most_lost()
    if not asked.strategies:
        raise UserError("strategies must name at least one, such as lgrawa")
    if asked.what is not None:
        if asked.model.given:
            raise UserError(
                f"a task is measured, and {in_words(asked.model.given)} would take its place: "
                f"leave out either {asked.what} or {in_words(asked.model.given)}"
            )
        return
    needed = {"--parameters": asked.model.parameters, "--step-time": asked.model.step_time}
    if not under_launcher():
        needed["--link"] = asked.network.link
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise UserError(
            f"give {in_words(missing)}, as in `{_EXAMPLE}`; or name a task to measure, as in "
            "`grawa plan digits --link 1gbit:1ms`"
        )
    if asked.task.data is not None:
        raise UserError("--data is for tasks only, and no task is named")
    batch_size = asked.task.batch_size
    if batch_size is not None and not 1 <= batch_size <= _MOST_SAMPLES:
        raise UserError(f"batch_size must be from 1 to {_MOST_SAMPLES}, got {shown(batch_size)}")


def network_asked(asked: NetworkOptions) -> Network | Hosts:
    """The network that is described; or the ranks of each host, to measure between."""
    if asked.link is None:
        if not under_launcher():
            raise UserError(
                "give the link between workers, such as --link 100mbit:20ms; or start this "
                "command with torchrun to measure the real link"
            )
        return _ranks(asked)
    workers = asked.workers
    if workers is None:
        running = int(os.environ["WORLD_SIZE"]) if under_launcher() else 1
        workers = WORKERS if running == 1 else running
        workers = workers if asked.hosts is None else prod(parse_hosts(asked.hosts))
    if workers < 2:
        raise UserError(f"a plan needs at least 2 workers, got {workers}")
    if workers > _MOST_WORKERS:
        raise UserError(f"a plan is made for at most {_MOST_WORKERS} workers, got {shown(workers)}")
    inner = None if asked.inner_link is None else Link.parse(asked.inner_link)
    return network_of(Link.parse(asked.link), asked.topology, workers, asked.hosts, inner)


def _ranks(asked: NetworkOptions) -> Hosts:
    """The ranks of each host, between which links are measured; collective."""
    processes = dist.get_world_size()
    if asked.inner_link is not None:
        raise UserError("--inner-link needs --link; without both, torchrun measures both links")
    if asked.workers not in (None, processes):
        raise UserError(
            f"links are measured between the {processes} processes that torchrun started, and "
            f"{asked.workers} workers were asked for: give --link to plan for others"
        )
    if asked.hosts is None:
        return find_hosts()
    number, each = parse_hosts(asked.hosts)
    if number * each != processes:
        raise UserError(
            f"{asked.hosts} hosts have {number * each} processes, and torchrun started "
            f"{processes}: give --link to plan for others"
        )
    return find_hosts([range(h * each, (h + 1) * each) for h in range(number)])
