"""Processes find each other; what a launcher left in the environment is one clear line."""

import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

import grawa
from grawa.comm.attempt import of_attempt
from grawa.comm.interfaces import loopback_interface
from grawa.errors import CommunicationError, UserError
from grawa.lab.chaos.hosts import INTERFACE, Cluster, address, why_no_hosts
from grawa.lab.train.fork_server import Command
from grawa.lab.train.launch import launch
from grawa.process_group import is_first_process, restart_count, under_launcher
from grawa.rendezvous import launched, open_group
from tests.lab.cli.processes import until
from tests.world import launched as in_launched
from tests.world import results

NO_HOSTS = why_no_hosts()
SOON = timedelta(seconds=0.3)
PATIENCE = timedelta(seconds=20)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """No launcher's variables."""
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


def set_all(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [{"RANK": "3"}, {"WORLD_SIZE": "2"}, {"MASTER_ADDR": "x"}])
def test_half_of_a_launchers_variables_is_none(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, variables)
    assert (launched(), under_launcher(), is_first_process()) == (None, False, True)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "a"}, "RANK must be a number, got 'a'"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a number, got ''"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE must be a number, got '-2'"),
        ({"RANK": "2"}, "RANK must be below WORLD_SIZE, got RANK=2 and WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE must be a number"),
        ({}, "not MASTER_ADDR"),
        ({"MASTER_ADDR": "127.0.0.1"}, "not MASTER_PORT"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "http"}, "MASTER_PORT must be a number"),
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "70000"}, "from 1 to 65535, got 70000"),
    ],
)
def test_variables_that_make_no_sense_are_named(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2", **variables})
    with pytest.raises(UserError, match=message):
        open_group("gloo", SOON)


@pytest.mark.parametrize("agent", ["True", "False"])
@pytest.mark.parametrize(
    ("address", "why"), [("127.0.0.1", "Connection refused"), ("no.such.host.invalid", "known|res")]
)
def test_an_address_where_nothing_answers_is_named(
    address: str, why: str, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": address})
    set_all(monkeypatch, {"MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": agent})
    with pytest.raises(CommunicationError, match=why) as found:
        open_group("gloo", SOON)
    assert f"MASTER_ADDR={address}, MASTER_PORT=1" in str(found.value)
    assert "\n" not in str(found.value)


def test_one_process_needs_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "0", "WORLD_SIZE": "1"})
    with grawa.distributed("cpu", SOON):
        assert dist.get_world_size() == 1
        assert os.environ["GLOO_SOCKET_IFNAME"] == loopback_interface()


HELLO = """
import os, torch, grawa
with grawa.distributed("cpu", timeout=30):
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    print(os.environ["GLOO_SOCKET_IFNAME"], int(total))
"""


@pytest.mark.world
@pytest.mark.skipif(NO_HOSTS is not None, reason=str(NO_HOSTS))
def test_hosts_whose_names_lead_nowhere_connect_by_the_link_between_them(tmp_path: Path) -> None:
    with Cluster(2) as cluster:
        programs = []
        for rank, host in enumerate(cluster.hosts):
            told = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
            told |= {"MASTER_ADDR": address(0), "MASTER_PORT": "29500"}
            log = tmp_path / f"{rank}.log"
            programs.append(host.start([sys.executable, "-c", HELLO], os.environ | told, log))
        until(lambda: all(program.code is not None for program in programs), "the end")
    said = [program.log.read_text().splitlines()[-1] for program in programs]  # torch may warn
    assert said == [f"{INTERFACE} 2"] * 2


def test_an_error_under_torchrun_says_which_variables_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_all(monkeypatch, {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"})
    set_all(monkeypatch, {"MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "none"})
    with pytest.raises(CommunicationError, match="set GLOO_SOCKET_IFNAME, on GPUs NCCL_SOCKET"):
        open_group("gloo", SOON)


def name_in(store: HashStore, rank: int, size: int, timeout: timedelta = PATIENCE) -> bytes:
    """What all processes of an attempt read in their part of a store."""
    part = of_attempt(store, rank, size, timeout)
    if rank == 0:
        part.set("name", "new")
    return bytes(part.get("name"))


@pytest.mark.parametrize("late", [0, 1])
def test_processes_that_start_again_pass_over_ended_ones(late: int) -> None:
    store = HashStore()
    store.set("grawa/first", "old")
    store.set("grawa/old/1", "ended")
    store.set("grawa/old/members", "old ended")
    store.set("grawa/old/name", "old")
    with ThreadPoolExecutor(3) as pool:
        early = [pool.submit(name_in, store, rank, 3) for rank in range(3) if rank != late]
        found = [name_in(store, late, 3), *(future.result() for future in early)]
    assert found == [b"new"] * 3


def test_ranks_that_do_not_come_are_named() -> None:
    store = HashStore()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(of_attempt, store, 1, 4, SOON)
        with pytest.raises(CommunicationError, match=r"gave up waiting for ranks \[2, 3\]"):
            of_attempt(store, 0, 4, SOON)
        with pytest.raises(CommunicationError, match="for rank 0 to begin"):
            other.result()


def attempts(counts: list[str]) -> list[float]:
    """Opens groups one after the other, as restarted processes of an agent do."""
    sums = []
    for count in counts:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = count
        assert restart_count() == int(count)
        with grawa.distributed("cpu", PATIENCE):
            total = torch.full((1,), 1.0 + dist.get_rank())
            dist.all_reduce(total)
            sums.append(float(total))
    return sums


@pytest.mark.world
def test_a_store_that_outlives_processes_serves_those_that_start_again() -> None:
    assert results(in_launched(2, attempts, ["0", "1", "2"])) == [[3.0] * 3] * 2


def test_when_the_group_has_ended_none_of_its_threads_is_left(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One that is left may meet the interpreter's end with the GIL in mind, and abort."""
    launch(Command("tests.lab.train.programs", ["open_and_close"], ["grawa"]), 2)
    for line in capfd.readouterr().out.splitlines():
        before, within, after = json.loads(line)
        assert after == before < within
