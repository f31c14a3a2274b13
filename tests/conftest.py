"""What holds for every test."""

import signal

import pytest
import torch
from hypothesis import settings

# The same examples in every run, and no assertion on time.
settings.register_profile("grawa", derandomize=True, deadline=None, database=None)
settings.load_profile("grawa")

# A shell's background job ignores these, and so would all that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test's random numbers don't depend on the tests before it."""
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that all of pytest's processes end together."""
    long = {item.path for item in items if item.get_closest_marker("world")}
    items.sort(key=lambda item: item.path not in long)
