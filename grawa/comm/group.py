"""The processes that a transport talks to, and how they are reached."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from grawa.comm.messages import Messages
from grawa.comm.pool import Lease, backends_of
from grawa.errors import UserError


class Group:
    """The processes of a process group, and how to reach them.

    Args:
        leased: the process group.
        device: where what is averaged lives.

    Attributes:
        members: by their numbers in the world, such as global ranks.
        process: which of them this is.
        timeout: how long to wait for the others.
        device: from where messages are sent: that one, or the CPU where only it can send.
        names: of the members, for errors.
        own_name: of this process, for errors.
        in_step: whether large messages keep in step with the peers, see `Messages.run`.

    Raises:
        UserError: if the process group can't send from that device.
    """

    def __init__(self, leased: Lease, device: torch.device) -> None:
        self._group = leased.group
        self.timeout = leased.timeout
        self.members = leased.members
        self.process = leased.process
        self.device = _sending_device(leased.group, device)
        self.names = [f"{leased.noun} {member}" for member in self.members]
        self.own_name = self.names[self.process]
        self.in_step = False

    @property
    def backend(self) -> str:
        """The backend that sends, such as "gloo"."""
        return backends_of(self._group)[self.device.type]

    def peers(self) -> list[int]:
        """The other processes, p+1, p+2, ..., so that not all talk to process 0 first."""
        processes = len(self.members)
        return [(self.process + hop) % processes for hop in range(1, processes)]

    def messages(self, purpose: str) -> Messages:
        """A batch of messages between them."""
        return Messages(self._group, purpose, self.names, self.own_name, in_step=self.in_step)

    def everyone(self, own: Sequence[int], purpose: str) -> list[list[int]]:
        """Some whole numbers of every process; also a place to meet."""
        row = torch.tensor(own, device=self.device)
        found = row.expand(len(self.members), -1).clone()
        messages = self.messages(purpose)
        for peer in self.peers():
            messages.send(row, peer)
            messages.receive(found[peer], peer)
        messages.start()
        messages.wait()
        numbers: list[list[int]] = found.tolist()
        return numbers


def _sending_device(group: dist.ProcessGroup, device: torch.device) -> torch.device:
    backends = backends_of(group)
    backend = backends.get(device.type)
    if backend is not None and (backend != "gloo" or device.type == "cpu"):
        return device
    if "cpu" in backends:
        return torch.device("cpu")
    raise UserError(
        f"the parameters are on {device}, but the process group ({dist.get_backend_config(group)}) "
        "can't send from there: move the model first, or open the group with 'cpu:gloo,cuda:nccl'"
    )
