"""Whether those who connected are the processes of a group."""

import secrets
from datetime import timedelta
from hashlib import sha256

import torch
import torch.distributed as dist
from torch import Tensor

from grawa.errors import CommunicationError

_ANSWER = timedelta(seconds=20)
"""How long a process that has just connected may take to greet."""


def greet(group: dist.ProcessGroup, timeout: timedelta) -> None:
    """Has each process prove to each other one that it knows the group's store; collective.

    gloo takes whoever connects first with the right number, which is easily guessed, for a
    process. The proof is a digest of a random word in the store, so it can't be guessed, and it
    takes the connection that all later messages take.

    Args:
        group: of gloo, just opened.
        timeout: how long to wait for the others; 20 s at most.

    Raises:
        CommunicationError: if somebody else is at the other end of a connection, or nobody.
    """
    store = group.get_group_store()
    me, peers = group.rank(), [peer for peer in range(group.size()) if peer != group.rank()]
    # Whoever comes first chooses it, also if the store has served a group of this name before.
    word: str = store.compare_set("grawa/word", "", secrets.token_hex(16)).decode()
    found = {peer: torch.empty(sha256().digest_size, dtype=torch.uint8) for peer in peers}
    arriving = {peer: group.recv([found[peer]], peer, 0) for peer in peers}
    leaving = [group.send([_proof(word, me, peer)], peer, 0) for peer in peers]
    for peer, work in arriving.items():
        try:
            work.wait(min(timeout, _ANSWER))
        except RuntimeError as error:
            raise CommunicationError(_text(peer, "does not answer")) from error
        if not found[peer].equal(_proof(word, peer, me)):
            raise CommunicationError(_text(peer, "does not know what all processes know"))
    for work in leaving:
        work.wait(min(timeout, _ANSWER))


def _proof(word: str, sender: int, receiver: int) -> Tensor:
    digest = sha256(f"{word} {sender} {receiver}".encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)


def _text(peer: int, fault: str) -> str:
    return (
        f"what connected as process {peer} of the group {fault}; somebody else may have connected "
        "to the ports of this run while it started"
    )
