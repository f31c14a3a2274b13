"""Messages between the processes of a group, all under way at once, none waited for forever."""

from collections.abc import Generator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from grawa.errors import CommunicationError


class Messages:
    """A batch of messages from this process to others and from others to this one.

    Args:
        group: the processes; its timeout bounds every wait.
        purpose: what they are for, for an error's message.

    Attributes:
        bytes_sent: by this process, in this batch.
    """

    def __init__(self, group: dist.ProcessGroup, purpose: str) -> None:
        self._group = group
        self._purpose = purpose
        self._transfers: list[dist.P2POp] = []
        self._works: list[dist.Work] = []
        self.bytes_sent = 0

    def send(self, values: Tensor, peer: int) -> None:
        """Adds a message to a peer, by its rank in the group."""
        self._transfers.append(dist.P2POp(dist.isend, values, group=self._group, group_peer=peer))
        self.bytes_sent += values.nbytes

    def receive(self, place: Tensor, peer: int) -> None:
        """Adds a message from a peer."""
        self._transfers.append(dist.P2POp(dist.irecv, place, group=self._group, group_peer=peer))

    def start(self) -> "Messages":
        """Sets them on their way.

        Returns:
            These messages.
        """
        if self._transfers:
            with contact(self._purpose):
                self._works = list(dist.batch_isend_irecv(self._transfers))
        return self

    def wait(self) -> None:
        """Waits until all have arrived; else raises `CommunicationError`, naming the peer."""
        ranks = dist.get_process_group_ranks(self._group)
        one_each = len(self._works) == len(self._transfers)  # NCCL has one for all
        for i, work in enumerate(self._works):
            peer = self._transfers[i].group_peer if one_each else None
            with contact(self._purpose, "the others" if peer is None else f"rank {ranks[peer]}"):
                work.wait()


@contextmanager
def contact(purpose: str, whom: str = "the others") -> Generator[None]:
    """Says who was lost, and what for, if torch fails."""
    try:
        yield
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise CommunicationError(
            f"rank {dist.get_rank()} lost contact with {whom} while trying to {purpose}: it "
            f"failed, or was silent for longer than the timeout ({cause})"
        ) from error
