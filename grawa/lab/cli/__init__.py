"""The command `grawa`."""

from grawa.lab.cli.main import main

__all__ = ["main"]
