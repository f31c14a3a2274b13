"""The command `grawa`."""

from grawa.cli.main import main

__all__ = ["main"]
