"""What processes do in the tests of launchers: `python -m tests.lab.train.programs NAME ...`."""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

import grawa
import tests.lab.train.imported

RANK = int(os.environ.get("RANK", "0"))
RESTART = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

STALE = ("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "TORCHFT_LIGHTHOUSE", "REPLICA_GROUP_ID")
"""What another launcher may have left, and is not there."""


def hear_interrupts() -> None:
    """Lets SIGINT through, and die of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def fail(message: str) -> None:
    """Says why this process fails, and fails."""
    told = {"message": {"message": message, "extraInfo": {"timestamp": "1"}}}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(told))
    sys.exit(1)


def failing(end: str, times: str) -> None:
    """The second of two processes fails so often, and the first waits for ever."""
    hear_interrupts()
    if int(times) > RESTART:
        if RANK == 0:
            sys.stdin.read()
        if end.isdigit():
            os.kill(os.getpid(), int(end))
        fail(end)


def exiting(code: str) -> None:
    """Exits."""
    sys.exit(int(code))


def sleeping() -> None:
    """Never ends by itself."""
    time.sleep(1000)


def meeting() -> None:
    """Looks at its environment, and at the files that it shares."""
    assert not {*STALE} & {*os.environ}
    assert os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"] == "2"
    assert os.environ["RANK"] == os.environ["LOCAL_RANK"]
    for name in ("GRAWA_STORE", "GRAWA_COUNTS"):
        file = os.open(os.environ[name], os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert os.fstat(file).st_mode & 0o077 == 0 or "/proc/self" in os.environ[name]


def sharing_imports() -> None:
    """Says who has done the imports, whose child it is, its arguments, and what /proc shows."""
    shown, given = (Path("/proc/self", name).read_text() for name in ("cmdline", "environ"))
    found = {
        "imported_by": tests.lab.train.imported.PROCESS,
        "process": os.getpid(),
        "parent": os.getppid(),
        "arguments": sys.argv,
        "shown": shown.rstrip("\0").split("\0"),
        "rank": dict(pair.partition("=")[::2] for pair in given.split("\0"))["RANK"],
    }
    print(json.dumps(found) + "\n", end="", flush=True)


def without_server() -> None:
    """Ends the process that has done the imports, and fails once."""
    if RESTART == 0 and RANK == 0:
        server = tests.lab.train.imported.PROCESS
        os.kill(server, signal.SIGTERM)  # which does not end it
        time.sleep(0.1)
        os.kill(server, signal.SIGKILL)
    if RESTART == 0:
        sys.exit(3)


def stopping(how: str, number: str) -> None:
    """The first of two processes sends the launcher a signal when both are ready."""
    hear_interrupts()
    came = []
    signal.signal(signal.SIGTERM, lambda *_: came.append(0))
    ready = os.open(os.environ["GRAWA_COUNTS"], os.O_RDWR)
    os.pwrite(ready, b"x", RANK)
    while os.pread(ready, 2, 0) != b"xx":
        time.sleep(0.01)
    if RANK == 0:
        os.kill(os.getppid(), int(number))
    while not came:
        time.sleep(0.01)
    if how == "fails" and RANK == 1:
        sys.exit(3)
    while how in ("never", "again", "fails"):
        time.sleep(0.25)
        if how == "again":
            os.kill(os.getppid(), int(number))
    sys.exit(0 if how == "finishes" else 143)


def elastic(ends: str, begun: str, go: str) -> None:
    """Ends as it is told for each of its starts; otherwise when there is a file."""
    assert ":" in os.environ["TORCHFT_LIGHTHOUSE"] and os.environ["WORLD_SIZE"] == "3"
    mine = json.loads(ends).get(str(RANK), ["0"])
    end = mine[min(RESTART, len(mine) - 1)]
    with Path(begun).open("a") as file:
        file.write(f"{RANK}.{RESTART} ")
    if end.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, end))
    if end == "stops":
        sys.exit(143)
    if ":" in end:
        fail(end)
    while not Path(go).exists() and end != "now":
        time.sleep(0.02)


def open_and_close() -> None:
    """Says how many threads there are before and after an averager in a process group."""
    found = [threads()]
    with grawa.distributed("cpu"):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with grawa.Averager(model, optimizer, grawa.LGRAWA(), sync_every=1):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
        found.append(threads())
    print(json.dumps([*found, threads()]) + "\n", end="", flush=True)


def threads() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/task"))


PROGRAMS = (
    *(failing, exiting, sleeping, meeting, sharing_imports, without_server, stopping),
    *(elastic, open_and_close),
)

if __name__ == "__main__":
    {program.__name__: program for program in PROGRAMS}[sys.argv[1]](*sys.argv[2:])
