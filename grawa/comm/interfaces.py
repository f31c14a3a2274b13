"""Over which network interface gloo listens."""

import os
import socket
import struct
import sys
from contextlib import suppress
from ipaddress import ip_address

from grawa.errors import UserError

_GET_FLAGS, _UP, _LOOPBACK = 0x8913, 0x1, 0x8
"""SIOCGIFFLAGS, IFF_UP and IFF_LOOPBACK of Linux."""

_GET_ADDRESS = 0x8915
"""SIOCGIFADDR of Linux."""


def stay_on_this_machine() -> None:
    """Has gloo and NCCL listen on the loopback interface only, unless the user chose another.

    They would look up the machine's name otherwise, which need not resolve.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback_interface()
    os.environ.setdefault("NCCL_SOCKET_IFNAME", os.environ["GLOO_SOCKET_IFNAME"])


def face_other_machines(first: str) -> None:
    """Has gloo listen where other machines reach this one, unless the user chose an interface.

    gloo listens at the address to which the machine's own name resolves, which is a loopback
    address on many systems, or none. Only then the interface is taken that leads to the first
    process's machine.

    Args:
        first: the name or address of that machine.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or sys.platform != "linux" or _own_name_is_of_use():
        return
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.connect((first, 9))  # sends nothing
        name = _interface_of(any_socket, any_socket.getsockname()[0])
        if name is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = name


def _own_name_is_of_use() -> bool:
    """Whether gloo finds an address by this machine's name, and not one that stays within it."""
    with suppress(OSError):
        for family, kind, *_, place in socket.getaddrinfo(
            socket.gethostname(), None, type=socket.SOCK_STREAM
        ):
            with suppress(OSError), socket.socket(family, kind) as any_socket:
                any_socket.bind(place)
                return not ip_address(str(place[0]).partition("%")[0]).is_loopback
    return False


def _interface_of(any_socket: socket.socket, address: str) -> str | None:
    """The name of the interface that has an IPv4 address, unless it is a loopback address."""
    import fcntl  # there is none on Windows

    for _, name in socket.if_nameindex():
        with suppress(OSError):  # it has none
            request = struct.pack("256s", name.encode())
            answer = fcntl.ioctl(any_socket, _GET_ADDRESS, request)
            found = ip_address(answer[20:24])
            if str(found) == address and not found.is_loopback:
                return name
    return None


def loopback_interface() -> str:
    """The name of the interface over which a machine talks to itself.

    Returns:
        Its name, such as lo.

    Raises:
        UserError: if there is none, or it is down.
    """
    names = [name for _, name in socket.if_nameindex()]
    if sys.platform != "linux":
        return "lo0" if "lo0" in names else "lo"
    import fcntl  # there is none on Windows

    with socket.socket(socket.AF_UNIX) as any_socket:
        for name in names:
            request = struct.pack("256s", name.encode())
            answer = fcntl.ioctl(any_socket, _GET_FLAGS, request)
            flags = int.from_bytes(answer[16:18], sys.byteorder)
            if flags & _LOOPBACK and flags & _UP:
                return name
    raise UserError(
        "the loopback interface is down, over which processes of one machine talk: "
        "`ip link set lo up` as root, or name another interface in GLOO_SOCKET_IFNAME"
    )
