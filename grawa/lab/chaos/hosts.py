"""Hosts, made of Linux namespaces: each has its own network, processes and shared memory."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from grawa.errors import UserError
from grawa.lab.chaos.programs import Program, children_of, name_of
from grawa.launching.shared import tied_to

_TOOLS = ("ip", "unshare", "nsenter", "mount")
_START_SECONDS = 10.0
_LOOK_SECONDS = 0.01

_RUN = 'exec 3>&2 2>/dev/null; cd "$0" && (exec "$@" 2>&3 3>&-); exit $?'
"""Entering leads to the root folder. The shell forks the program and waits for its end; nsenter,
where it forks itself, stops when the program is stopped, and then misses its end. What the shell
itself says, such as "Killed", is nothing that the job has noticed."""

INTERFACE = "eth0"
"""A host's end of its link."""


class HostsError(UserError):
    """Hosts can't be made on this machine."""


def why_no_hosts() -> str | None:
    """Why hosts can't be made on this machine; `None` if they can."""
    try:
        with Cluster(1):
            return None
    except HostsError as error:
        return str(error)


def address(host: int) -> str:
    """The address of a host's link."""
    return f"10.77.0.{host + 1}"


class _Held:
    """Namespaces, which a process holds that does nothing else; they end with it.

    It ends with this process, however that ends, and all processes in them end with it.

    Args:
        command: starts a program in new namespaces.
        own_user: whether a user namespace is among them, in which this user is root.
    """

    def __init__(self, command: Sequence[str], *, own_user: bool) -> None:
        self._user = ("--user", "--preserve-credentials") if own_user else ()
        self._holder = subprocess.Popen(
            [*command, "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            preexec_fn=tied_to(os.getpid()),
            start_new_session=True,
        )
        try:
            self.pid = self._first_process()
        except BaseException:
            self.end()
            raise

    def _first_process(self) -> int:
        """The process number, here, of the namespaces' first process."""
        end = time.monotonic() + _START_SECONDS
        while time.monotonic() < end:
            found = self._holder.pid
            while children := children_of(found):
                found = children[0]
            if name_of(found) == "sleep":
                return found
            if self._holder.poll() is not None:
                assert self._holder.stderr is not None
                said = self._holder.stderr.read().decode(errors="replace").strip()
                raise HostsError(f"namespaces can't be made: {said or self._holder.returncode}")
            time.sleep(_LOOK_SECONDS)
        raise HostsError(f"namespaces can't be made within {_START_SECONDS:.0f} s")

    def entering(self, *kinds: str) -> list[str]:
        """The command line's beginning that runs what follows inside."""
        flags = [f"--{kind}" for kind in kinds]
        return ["nsenter", "--target", str(self.pid), *self._user, *flags, "--"]

    def run(self, *command: str) -> None:
        """Runs a command with the network and files inside.

        Raises:
            HostsError: with what it says, if it fails.
        """
        words = [*self.entering("net", "mount"), *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise HostsError(f"{' '.join(command)}: {done.stderr.strip()}")

    @property
    def is_up(self) -> bool:
        """Whether they are there."""
        return self._holder.poll() is None

    def end(self) -> None:
        """Ends all processes inside at once, and so the namespaces."""
        if hasattr(self, "pid"):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._holder.kill()
        self._holder.wait()
        if self._holder.stderr is not None:
            self._holder.stderr.close()


class Host:
    """A host: a network of its own with one link, its own processes and shared memory.

    Args:
        index: its number.
        ground: what it is made in.
        own_user: as for the ground.
    """

    def __init__(self, index: int, ground: _Held, *, own_user: bool) -> None:
        self.index, self.address, self.port = index, address(index), f"port{index}"
        self._ground, self._own_user = ground, own_user
        self.boot()

    def boot(self) -> None:
        """Starts the host, anew if it was killed."""
        enter = self._ground.entering("mount", "net", "pid")
        kinds = ("--mount", "--net", "--pid", "--uts", "--ipc")
        new = ("unshare", *kinds, "--mount-proc", "--fork", "--kill-child")
        self._held = _Held([*enter, *new], own_user=self._own_user)
        peer = ("type", "veth", "peer", "name", INTERFACE, "netns", str(self._held.pid))
        self._ground.run("ip", "link", "add", self.port, *peer)
        self._ground.run("ip", "link", "set", self.port, "master", "br0", "up")
        self.run("ip", "addr", "add", f"{self.address}/24", "dev", INTERFACE)
        self.run("ip", "link", "set", INTERFACE, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        words = [*self._held.entering("uts"), "hostname", f"host{self.index}"]
        subprocess.run(words, check=True, capture_output=True)

    @property
    def pid(self) -> int:
        """Its first process."""
        return self._held.pid

    @property
    def root(self) -> Path:
        """Where its files are seen from here."""
        return Path(f"/proc/{self.pid}/root")

    def run(self, *command: str) -> None:
        """Runs a command with its network and files; `HostsError` if it fails."""
        self._held.run(*command)

    def start(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Program:
        """Starts a program on it.

        Args:
            command: the program and its arguments.
            environment: its environment.
            log: the file for what it prints.

        Returns:
            The program.
        """
        enter = self._held.entering("mount", "net", "pid", "uts", "ipc")
        enter.insert(1, "--no-fork")
        here = ("sh", "-c", _RUN, str(Path.cwd()))
        return Program([*enter, *here, *command], environment, log)

    def kill(self) -> None:
        """Ends all of its processes at once, as a power cut does; its link goes, too."""
        self._held.end()
        with suppress(HostsError):  # the kernel may have removed it already
            self._ground.run("ip", "link", "del", self.port)

    @property
    def is_up(self) -> bool:
        """Whether it was not killed."""
        return self._held.is_up

    def link(self, *, up: bool) -> None:
        """Cuts its link, or restores it."""
        self._ground.run("ip", "link", "set", self.port, "up" if up else "down")


class Cluster:
    """Hosts on a bridge, for a `with` block; all that runs on them ends with it.

    Args:
        count: number of hosts.
        disk: a folder that becomes a small disk of its own, and its size in bytes; all hosts see
            it, and it is gone at the end.

    Raises:
        HostsError: if this machine or this user can't have them.
    """

    def __init__(self, count: int, disk: tuple[Path, int] | None = None) -> None:
        missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
        if missing:
            raise HostsError(
                f"hosts are made of namespaces, which needs {' and '.join(missing)} (the packages "
                "iproute2, util-linux and mount)"
            )
        own_user = os.geteuid() != 0
        user = ("--user", "--map-root-user") if own_user else ()
        new = ("unshare", *user, "--mount", "--net", "--pid", "--fork", "--kill-child")
        with ExitStack() as undo:
            self._ground = _Held(new, own_user=own_user)
            undo.callback(self._ground.end)
            self._ground.run("ip", "link", "add", "br0", "type", "bridge")
            self._ground.run("ip", "link", "set", "br0", "up")
            self._ground.run("ip", "link", "set", "lo", "up")
            if disk is not None:
                folder, size = disk
                words = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
                self._ground.run(*words)
            self.hosts: list[Host] = []
            for index in range(count):
                self.hosts.append(Host(index, self._ground, own_user=own_user))
                undo.callback(self.hosts[-1].kill)
            self._undo = undo.pop_all()

    @property
    def root(self) -> Path:
        """Where the files that all hosts share are seen from here, the small disk too."""
        return Path(f"/proc/{self._ground.pid}/root")

    def run(self, *command: str) -> None:
        """Runs a command where the bridge is; `HostsError` if it fails."""
        self._ground.run(*command)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._undo.close()
