"""What holds for every test."""

import pytest
import torch
from hypothesis import settings

# The same examples in every run, and no assertion on time.
settings.register_profile("grawa", derandomize=True, deadline=None, database=None)
settings.load_profile("grawa")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test's random numbers don't depend on the tests before it."""
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist=loadgroup`, one process runs all tests of the world, as there is to be but one.

    Of the others, those of a file stay together, for what they share.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            file = item.nodeid.partition("::")[0]
            group = "world" if item.get_closest_marker("world") else file
            item.add_marker(pytest.mark.xdist_group(group))
