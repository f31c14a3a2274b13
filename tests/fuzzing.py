"""How many examples hypothesis draws."""

import os

from hypothesis import HealthCheck, settings

MORE = int(os.environ.get("GRAWA_FUZZ", "0"))
"""Examples of each kind in `make fuzz`, which draws others each time, and draws whole pages."""


def few(examples: int) -> settings:
    """So many examples, the same ones in every run; but more of them in `make fuzz`."""
    return settings(
        max_examples=MORE or examples,
        deadline=None,
        derandomize=not MORE,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
