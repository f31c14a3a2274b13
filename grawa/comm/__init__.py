"""Communicators: how N workers talk, whichever processes they live in."""

from grawa.comm.compression import Compression
from grawa.comm.distributed import DistributedCommunicator
from grawa.comm.in_process import InProcessCommunicator
from grawa.comm.participants import Participants

__all__ = ["Compression", "DistributedCommunicator", "InProcessCommunicator", "Participants"]
