"""Messages between the processes of a group, none waited for forever."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from grawa.errors import CommunicationError

PIECE_BYTES = 2**19
"""Of a large message that leave before the next peer has its turn."""

AHEAD = 2
"""Turns that may be under way. Both as measured over slow links: docs/decisions.md,
`benchmarks/exchange.py`."""


class _Message(NamedTuple):
    values: Tensor
    peer: int


_Underway = tuple[dist.Work, int | None]
"""A message on its way, and the peer it is to or from; None where one is for all of them."""

_Transfer = Callable[[list[Tensor], int, int], dist.Work]


class Messages:
    """A batch of messages from this process to others and from others to this one.

    Args:
        group: the processes; its timeout bounds every wait.
        purpose: what they are for, for an error's message.
        names: of the processes, for an error's message; by default their ranks.
        own_name: of this process, for an error's message; by default its rank.
        in_step: whether large messages keep in step with the peers, see `run`.
        piece_bytes: of a large message that leave before the next peer has its turn, in step.
        ahead: turns that may be under way, in step.
    """

    def __init__(
        self,
        group: dist.ProcessGroup,
        purpose: str,
        names: Sequence[str] | None = None,
        own_name: str | None = None,
        *,
        in_step: bool = False,
        piece_bytes: int | None = None,
        ahead: int | None = None,
    ) -> None:
        self._group = group
        self._names, self._own_name = names, own_name
        self._in_step = in_step
        self._piece_bytes = PIECE_BYTES if piece_bytes is None else piece_bytes
        self._ahead = AHEAD if ahead is None else ahead
        self._purpose = purpose
        self._leaving: list[_Message] = []
        self._arriving: list[_Message] = []
        self._works: list[_Underway] = []

    def send(self, values: Tensor, peer: int) -> None:
        """Adds a message to a peer, by its rank in the group."""
        self._leaving.append(_Message(values, peer))

    def receive(self, place: Tensor, peer: int) -> None:
        """Adds a message from a peer."""
        self._arriving.append(_Message(place, peer))

    def start(self) -> None:
        """Sets all of them on their way at once; for small ones."""
        messages = [*self._arriving, *self._leaving]
        if messages and messages[0].values.is_cuda:
            with contact(self._purpose, own_name=self._own_name):
                works = dist.batch_isend_irecv(self._transfers())
            one_each = len(works) == len(messages)  # NCCL has one for all
            peers = [message.peer if one_each else None for message in messages]
            self._works = list(zip(works, peers, strict=False))
        else:  # the same without its checks, which take longer than the sending
            arriving = self._begin(self._group.recv, self._arriving)
            self._works = [*arriving, *self._begin(self._group.send, self._leaving)]

    def _begin(self, transfer: _Transfer, messages: Iterable[_Message]) -> list[_Underway]:
        """Sets messages on their way; a peer whose end is known by now is named at once."""
        works: list[_Underway] = []
        for values, peer in messages:
            with contact(self._purpose, self._name(peer), self._own_name):
                works.append((transfer([values], peer, 0), peer))
        return works

    def _transfers(self) -> list[dist.P2POp]:
        return [
            dist.P2POp(kind, message.values, group=self._group, group_peer=message.peer)
            for kind, messages in ((dist.irecv, self._arriving), (dist.isend, self._leaving))
            for message in messages
        ]

    def wait(self) -> None:
        """Waits until those started have arrived; else `CommunicationError` names the peer."""
        self._wait_for(self._works)

    def run(self) -> None:
        """Sends and receives all of them, in step with the peers over a network.

        There, flows that leave all at once compete at both ends of links and end at different
        times, which leaves links idle. So large messages are cut up, each peer gets a piece in
        turn, and the next turn leaves when the one before the last has come in from everyone.
        Within a machine, and by NCCL, which sees to it itself, whole messages are faster.
        """
        if not self._in_step:
            self.start()
            self.wait()
            return
        arriving = _turns(self._arriving, self._piece_bytes)
        leaving = _turns(self._leaving, self._piece_bytes)
        ahead = self._ahead
        awaited = [self._begin(self._group.recv, turn) for turn in arriving]
        sent = []
        for i, turn in enumerate(leaving):
            if ahead <= i < ahead + len(awaited):
                self._wait_for(awaited[i - ahead])
            sent.append(self._begin(self._group.send, turn))
        for works in (*awaited[max(0, len(leaving) - ahead) :], *sent):
            self._wait_for(works)

    def _wait_for(self, works: Sequence[_Underway]) -> None:
        for work, peer in works:
            whom = "the others" if peer is None else self._name(peer)
            with contact(self._purpose, whom, self._own_name):
                work.wait()

    def _name(self, peer: int) -> str:
        if self._names:
            return self._names[peer]
        return f"rank {dist.get_process_group_ranks(self._group)[peer]}"


def _turns(messages: Sequence[_Message], piece_bytes: int) -> list[list[_Message]]:
    """A piece for each peer, then the next piece for each; cut alike at both ends."""
    by_peer: dict[int, list[_Message]] = {}
    for values, peer in messages:
        length = max(1, piece_bytes // values.element_size())
        pieces = [_Message(piece, peer) for piece in values.split(length)]
        by_peer.setdefault(peer, []).extend(pieces)
    return [list(filter(None, turn)) for turn in zip_longest(*by_peer.values())]


@contextmanager
def contact(purpose: str, whom: str = "the others", own_name: str | None = None) -> Generator[None]:
    """Says who was lost, and what for, if torch fails."""
    try:
        yield
    except RuntimeError as error:
        cause = str(error).splitlines()[0]
        raise CommunicationError(
            f"{own_name or f'rank {dist.get_rank()}'} lost contact with {whom} while trying to "
            f"{purpose}: it "
            f"failed, or was silent for longer than the timeout ({cause})"
        ) from error
