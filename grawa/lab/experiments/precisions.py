"""How parameters are sent, as it is written on the command line."""

from collections.abc import Callable, Mapping
from functools import partial

from grawa.lab import written
from grawa.math.codec import NAMED, Precision


def _itself(precision: Precision) -> Precision:
    return precision


_KNOWN: Mapping[str, Callable[[], Precision | None]] = {
    "same": lambda: None,
    **{name: partial(_itself, precision) for name, precision in NAMED.items()},
}


def precision_of(text: str) -> Precision | None:
    """How parameters are sent.

    Args:
        text: as in `TrainConfig.comm_dtype`.

    Returns:
        As for `Averager`; a `UserError` if there is no such way.

    >>> precision_of("topk:bits=4")
    TopK(fraction=0.25, bits=4)
    """
    return written.read("comm_dtype", _KNOWN, text)
