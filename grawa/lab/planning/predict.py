"""Predicts from a few measured times what a round costs, and how much of it overlap can hide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grawa.lab.simulate.network import Network

TAUS = tuple(2**i for i in range(10))
"""Local steps between rounds for which predictions are made: 1, 2, 4, ... 512."""

COPIES = 3
"""Passes over the parameters for which a round in the background blocks local steps: a copy before
it, and a difference and a sum after it."""

WIDTHS: Mapping[str, float] = {"same": 1.0, "bf16": 0.5, "int8": 0.25}
"""Bytes that are sent, as a fraction of float32's."""

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
    """

    name: str
    round_work: float
    sent_share: float
    busiest_share: float
    shares_gradients: bool
    row_length: int
    codec_seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements from which predictions are made; times are this machine's.

    Attributes:
        step_seconds: of a local step.
        samples: in a step of one worker.
        model_bytes: of the parameters in float32.
        copy_seconds: of one pass over the parameters.
        network: between the workers.
        methods: to predict for.
    """

    step_seconds: float
    samples: int
    model_bytes: float
    copy_seconds: float
    network: Network
    methods: Sequence[Method]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Options of rounds.

    Attributes:
        overlap: whether rounds run in the background, during all local steps but one.
        comm_dtype: the dtype in which parameters are sent.
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
)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A method with one `sync_every`.

    Attributes:
        samples_per_second: of all workers together.
        lost: fraction of the time in which local steps are blocked.
        bytes_per_hour: sent by a worker.
        round_seconds: of a round, including the part that overlaps with local steps.
    """

    samples_per_second: float
    lost: float
    bytes_per_hour: float
    round_seconds: float


def predict(measured: Measured, method: Method, variant: Variant, tau: int) -> Prediction:
    """Predicts the speed of a method with a round every `tau` local steps.

    Args:
        measured: the measurements.
        method: one of its methods.
        variant: options of rounds; overlap has no effect for a method that shares gradients.
        tau: local steps between rounds.

    Returns:
        The prediction.
    """
    network, num_bytes = measured.network, measured.model_bytes
    width = WIDTHS[variant.comm_dtype]
    sent = method.sent_share * num_bytes * width
    message_seconds = network.busiest_seconds(
        method.busiest_share * num_bytes, width
    ) + network.gather_seconds(method.row_length * ROW_BYTES)
    codec_seconds = method.codec_seconds.get(variant.comm_dtype, 0.0) * network.coded_share
    whole = method.round_work + codec_seconds + message_seconds
    steps = 1 if method.shares_gradients else tau
    blocked = whole
    if variant.overlap and not method.shares_gradients:
        hidden = (tau - 1) * measured.step_seconds
        blocked = min(whole, max(0.0, whole - hidden) + COPIES * measured.copy_seconds)
    cycle = steps * measured.step_seconds + blocked
    return Prediction(
        samples_per_second=network.num_workers * measured.samples * steps / cycle,
        lost=blocked / cycle,
        bytes_per_hour=sent / cycle * 3600.0,
        round_seconds=whole,
    )


def smallest_tau(
    measured: Measured, method: Method, variant: Variant, most_lost: float
) -> int | None:
    """The smallest `sync_every` in `TAUS` that loses at most this fraction of the time, if any."""
    if method.shares_gradients:
        return None
    fits = (tau for tau in TAUS if predict(measured, method, variant, tau).lost <= most_lost)
    return next(fits, None)


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
