"""Predictions from a few measured times: what a round costs, and what can be hidden of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grawa.lab.simulate.network import Network

TAUS = tuple(2**i for i in range(10))
"""Local steps between rounds for which predictions are made: 1, 2, 4, ... 512."""

COPIES = 3
"""Passes over the parameters that a round in the background takes in the foreground: a copy
before, and after it a difference and a sum."""

WIDTHS: Mapping[str, float] = {"same": 1.0, "bf16": 0.5, "int8": 0.25}
"""Bytes on the way, as a share of float32's."""

_ROW_BYTES = 8  # of each number that workers say of themselves


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is known of a strategy.

    Attributes:
        name: as on the command line.
        round_work: seconds of a round without its messages: norms, guard, mean, pull; in
            float32.
        sent_share: bytes that a worker sends in a round, over those of the parameters.
        busiest_share: the same of the worker that sends most, which the others wait for.
        shares_gradients: whether it talks at every step.
        row_length: numbers that each worker says of itself before a round.
    """

    name: str
    round_work: float
    sent_share: float
    busiest_share: float
    shares_gradients: bool
    row_length: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What predictions are made from; times are this machine's.

    Attributes:
        step_seconds: of a local step.
        samples: in a step of one worker.
        model_bytes: of the parameters, as float32.
        copy_seconds: of one pass over the parameters.
        codec_seconds: of writing and reading fewer bits in a round, by `comm_dtype`.
        network: between the workers.
        methods: to predict for.
    """

    step_seconds: float
    samples: int
    model_bytes: float
    copy_seconds: float
    codec_seconds: Mapping[str, float]
    network: Network
    methods: Sequence[Method]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How rounds are made.

    Attributes:
        overlap: whether they go on in the background, for all steps but one until the next.
        comm_dtype: in what parameters travel.
    """

    overlap: bool = False
    comm_dtype: str = "same"

    @property
    def name(self) -> str:
        """In words."""
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
    """A method at one `sync_every`.

    Attributes:
        samples_per_second: of all workers together.
        lost: share of the time in which local steps are held up.
        bytes_per_hour: that a worker sends.
        round_seconds: of a round, hidden or not.
    """

    samples_per_second: float
    lost: float
    bytes_per_hour: float
    round_seconds: float


def predict(measured: Measured, method: Method, variant: Variant, tau: int) -> Prediction:
    """What to expect of a method with a round every `tau` local steps.

    Args:
        measured: the times that it depends on.
        method: one of them.
        variant: how its rounds are made; a method that shares gradients has but one.
        tau: local steps between rounds.

    Returns:
        The prediction.
    """
    network = measured.network
    num_bytes = measured.model_bytes * WIDTHS[variant.comm_dtype]
    sent, most = method.sent_share * num_bytes, method.busiest_share * num_bytes
    talk = network.exchange_seconds(most) + network.gather_seconds(method.row_length * _ROW_BYTES)
    whole = method.round_work + measured.codec_seconds.get(variant.comm_dtype, 0.0) + talk
    steps = 1 if method.shares_gradients else tau
    held_up = whole
    if variant.overlap and not method.shares_gradients:
        hidden = (tau - 1) * measured.step_seconds
        held_up = min(whole, max(0.0, whole - hidden) + COPIES * measured.copy_seconds)
    cycle = steps * measured.step_seconds + held_up
    return Prediction(
        samples_per_second=network.num_workers * measured.samples * steps / cycle,
        lost=held_up / cycle,
        bytes_per_hour=sent / cycle * 3600.0,
        round_seconds=whole,
    )


def smallest_tau(
    measured: Measured, method: Method, variant: Variant, most_lost: float
) -> int | None:
    """The smallest `sync_every` of `TAUS` that loses at most so much of the time, if one does."""
    if method.shares_gradients:
        return None
    fits = (tau for tau in TAUS if predict(measured, method, variant, tau).lost <= most_lost)
    return next(fits, None)


def scaled(measured: Measured, workers: int) -> Measured:
    """The same with another number of workers.

    A worker's share of a full exchange goes with (N-1)/N.

    Returns:
        What predictions for them are made from.
    """
    before, after = measured.network.num_workers, workers
    factor = (after - 1) / after * (before / (before - 1) if before > 1 else 2.0)
    methods = [
        replace(m, sent_share=m.sent_share * factor, busiest_share=m.busiest_share * factor)
        for m in measured.methods
    ]
    network = replace(measured.network, num_workers=workers)
    return replace(measured, network=network, methods=methods)
