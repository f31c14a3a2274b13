"""A module whose import is noted: see `tests.lab.train.programs`."""

import os

PROCESS = os.getpid()
"""The process that has imported it."""
