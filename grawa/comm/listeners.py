"""Sockets that listen for the other processes of this machine, and then for nobody."""

import ctypes
import os
import socket
import struct
from collections.abc import Generator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

_DESCRIPTORS = Path("/proc/self/fd")

_ATTACH_FILTER = 26
"""SO_ATTACH_FILTER of Linux."""

_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A packet filter of one instruction: keep no byte."""


@contextmanager
def closed_afterwards() -> Generator[None]:
    """Stops sockets from taking connections after the block in which they began to listen.

    Only those on the loopback interface; connections that exist go on.

    gloo listens as long as a process group lives, though its processes have all connected when it
    has been made; whoever then connects to it often enough ends the process, which has no
    descriptors left.
    """
    before = _listening()
    try:
        yield
    finally:
        new = {name: number for name, number in _listening().items() if name not in before}
        if "TORCH_GLOO_LAZY_INIT" not in os.environ:  # else connections are made later
            for descriptor in new.values():
                _drop_packets(descriptor)


def _listening() -> dict[str, int]:
    """This process's sockets that listen on the loopback interface: name -> descriptor."""
    found = {}
    for entry in _DESCRIPTORS.iterdir() if _DESCRIPTORS.exists() else ():
        with suppress(OSError, ValueError):  # it has been closed, or is no such socket
            name, descriptor = str(entry.readlink()), int(entry.name)
            if name.startswith("socket:") and _listens_on_loopback(descriptor):
                found[name] = descriptor
    return found


def _listens_on_loopback(descriptor: int) -> bool:
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        return copy.family != socket.AF_UNIX and ip_address(copy.getsockname()[0]).is_loopback


def _drop_packets(descriptor: int) -> None:
    """Has the kernel drop what arrives for a listening socket, but not for its connections."""
    instruction = ctypes.create_string_buffer(_DROP_ALL)
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    with socket.socket(fileno=os.dup(descriptor)) as copy, suppress(OSError):
        copy.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
