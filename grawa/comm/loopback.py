"""The interface over which a machine talks to itself."""

import os
import socket
import struct
import sys

from grawa.errors import UserError

_GET_FLAGS, _UP, _LOOPBACK = 0x8913, 0x1, 0x8
"""SIOCGIFFLAGS, IFF_UP and IFF_LOOPBACK of Linux."""


def stay_on_this_machine() -> None:
    """Has gloo and NCCL listen on the loopback interface only, unless the user chose another.

    They would look up the machine's name otherwise, which need not resolve.
    """
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = loopback_interface()
    os.environ.setdefault("NCCL_SOCKET_IFNAME", os.environ["GLOO_SOCKET_IFNAME"])


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
