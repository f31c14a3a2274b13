"""Connections to trackers and trainers; each needs its package, and nothing else does."""

from grawa.integrations.log_rounds import LogRounds

__all__ = ["LogRounds"]
