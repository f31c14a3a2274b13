"""Predicts from a few measured times what a round costs, and how much of it overlap can hide."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

from grawa.lab.simulate.network import Network
from grawa.math.codec import NAMED, codec_of

_INTERVALS = range(1, 2**62)
"""Local steps between rounds, among which the smallest that loses little is found."""

COPIES = 3
"""Passes over the parameters for which a round in the background blocks local steps: a copy before
it, and a difference and a sum after it."""

BACKWARD = 2 / 3
"""Of a local step, the backward pass, during which data parallel can send gradients: it computes
about twice what the forward pass does."""

_MANY = 2**60  # numbers of one tensor, whose scale counts for nothing

_CODED_BYTES: Mapping[str, float] = {
    name: codec_of(precision).num_bytes([_MANY]) / _MANY for name, precision in NAMED.items()
}
"""Of a number that is sent in another dtype than its own."""

ROW_BYTES = 8
"""Of each number that workers report before a round."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """The costs of a strategy.

    Attributes:
        name: as on the command line.
        round_work: seconds of a round beside its messages (norms, guard, mean, pull), in float32.
        sent_share: bytes that a worker sends in a round, over those of the parameters.
        busiest_share: the same for the links that all wait for, one after another: of the worker,
            or of the host, that sends most.
        shares_gradients: whether it communicates at every step.
        row_length: numbers that each worker reports before a round.
        codec_seconds: `comm_dtype` -> seconds of encoding and decoding all parameters in a round.
        probe_seconds: of the pass over a probe batch before a round, which blocks local steps even
            if the round then runs in the background.
    """

    name: str
    round_work: float
    sent_share: float
    busiest_share: float
    shares_gradients: bool
    row_length: int
    codec_seconds: Mapping[str, float]
    probe_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What predictions are made from: measured on this machine, or given.

    Attributes:
        step_seconds: of a local step.
        samples: in a step of one worker; `None` if it is not known.
        model_bytes: of the parameters.
        parameter_bytes: of one parameter.
        copy_seconds: of one pass over the parameters.
        network: between the workers.
        methods: to predict for.
        with_averaging: whether what workers compute in rounds was measured; else it is left out.
    """

    step_seconds: float
    samples: int | None
    model_bytes: float
    parameter_bytes: float = 4.0
    copy_seconds: float
    network: Network
    methods: Sequence[Method]
    with_averaging: bool = True

    @property
    def parameters(self) -> float:
        """Number of parameters."""
        return self.model_bytes / self.parameter_bytes

    @property
    def full_speed(self) -> float | None:
        """Samples per second of all workers without communication, if samples are known."""
        if self.samples is None:
            return None
        return self.network.num_workers * self.samples / self.step_seconds


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Options of rounds.

    Attributes:
        overlap: whether rounds run in the background, during all local steps but one; or, for a
            method that shares gradients, messages during the backward pass.
        comm_dtype: how parameters are sent: "same", or one of `grawa.math.codec.NAMED`.
    """

    overlap: bool = False
    comm_dtype: str = "same"

    @property
    def name(self) -> str:
        """A name for tables."""
        words = [] if self.comm_dtype == "same" else [self.comm_dtype]
        return ", ".join([*words, *(["overlap"] if self.overlap else [])]) or "blocking"


VARIANTS = (
    Variant(),
    Variant(overlap=True),
    Variant(comm_dtype="bf16"),
    Variant(comm_dtype="int8"),
    Variant(comm_dtype="int8", overlap=True),
    Variant(comm_dtype="topk"),
)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A method with one `sync_every`.

    Attributes:
        lost: fraction of the time in which local steps are blocked.
        bytes_per_hour: sent by a worker.
        round_seconds: of a round, including the part that overlaps with local steps.
    """

    lost: float
    bytes_per_hour: float
    round_seconds: float

    @property
    def speed(self) -> float:
        """Samples per second, as a share of those without communication."""
        return 1.0 - self.lost


def predict(measured: Measured, method: Method, variant: Variant, tau: int) -> Prediction:
    """Predicts the speed of a method with a round every `tau` local steps.

    Args:
        measured: the measurements.
        method: one of its methods.
        variant: options of rounds.
        tau: local steps between rounds.

    Returns:
        The prediction.
    """
    network, num_bytes = measured.network, measured.model_bytes
    on_link = width(variant.comm_dtype, measured.parameter_bytes)
    message_seconds = network.busiest_seconds(
        method.busiest_share * num_bytes, on_link
    ) + network.gather_seconds(method.row_length * ROW_BYTES)
    codec_seconds = method.codec_seconds.get(variant.comm_dtype, 0.0) * network.coded_share
    whole = method.round_work + codec_seconds + message_seconds
    steps = 1 if method.shares_gradients else tau
    blocked = whole
    if variant.overlap:
        behind, copies = (BACKWARD, 0) if method.shares_gradients else (tau - 1, COPIES)
        left = max(0.0, whole - behind * measured.step_seconds)
        blocked = min(whole, left + copies * measured.copy_seconds)
    blocked += method.probe_seconds
    cycle = steps * measured.step_seconds + blocked
    return Prediction(
        lost=blocked / cycle if cycle < inf else 1.0,
        bytes_per_hour=method.sent_share * num_bytes * on_link / cycle * 3600.0,
        round_seconds=whole + method.probe_seconds,
    )


def width(comm_dtype: str, parameter_bytes: float = 4.0) -> float:
    """Bytes of a number on the link, as a fraction of a parameter's.

    Args:
        comm_dtype: see `Variant`.
        parameter_bytes: of a parameter; by default float32's.

    Returns:
        The fraction.

    >>> width("int8"), width("bf16", 2.0), width("same"), round(width("topk"), 3)
    (0.25, 1.0, 1.0, 0.047)
    """
    return _CODED_BYTES.get(comm_dtype, parameter_bytes) / parameter_bytes


def smallest_tau(
    measured: Measured, method: Method, variant: Variant, most_lost: float
) -> int | None:
    """The smallest `sync_every` that loses at most a fraction of the time.

    Rarer rounds never lose more, so it is found by bisection, however large it is.

    Args:
        measured: the measurements.
        method: one of its methods.
        variant: options of rounds.
        most_lost: the fraction.

    Returns:
        Local steps; `None` if there are none, as for a method that shares gradients.
    """
    if method.shares_gradients:
        return None
    place = bisect_left(
        _INTERVALS,
        True,
        key=lambda tau: predict(measured, method, variant, tau).lost <= most_lost,
    )
    return _INTERVALS[place] if place < len(_INTERVALS) else None


def scaled(measured: Measured, workers: int) -> Measured:
    """The measurements, converted to another number of workers.

    What a worker sends in a full exchange is proportional to (N-1)/N.

    Returns:
        Measurements from which predictions for that number can be made.
    """
    before, after = measured.network.num_workers, workers
    factor = (after - 1) / after * (before / (before - 1) if before > 1 else 2.0)
    methods = [
        replace(m, sent_share=m.sent_share * factor, busiest_share=m.busiest_share * factor)
        for m in measured.methods
    ]
    network = replace(measured.network, num_workers=workers)
    return replace(measured, network=network, methods=methods)
