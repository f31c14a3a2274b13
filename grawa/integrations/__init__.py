"""Connections to trackers, trainers and torch's own checkpoints; each needs its package alone."""

from grawa.integrations.distributed_state import DistributedState
from grawa.integrations.log_rounds import LogRounds
from grawa.integrations.progress import Progress

__all__ = ["DistributedState", "LogRounds", "Progress"]
