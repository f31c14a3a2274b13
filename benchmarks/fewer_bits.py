"""Measures encoding and decoding differences in fewer bits, as ratios to int8, in one process.

As in a mean between N workers: a worker encodes its differences and what was lost of earlier ones,
the owners of sections decode those of all, take the mean, and encode it, and all decode the mean.
Two workers, whose differences have heavy tails; all ways run in each repetition, in random order.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

import grawa
from command import Benchmark, Results
from common import Spread, columns, ratios, show
from grawa.comm import Compression, InProcessCommunicator
from grawa.math.codec import Precision, codec_of
from grawa.math.leaves import Leaves
from grawa.math.weights import uniform
from processes import one_thread
from samples import Sample, Samples

BASELINE = "int8"

WAYS: Mapping[str, Precision] = {
    BASELINE: "int8",
    "bf16": "bf16",
    "topk 1/32, 2 bits": grawa.TopK(fraction=1 / 32),
    "topk 1/8, 2 bits": grawa.TopK(fraction=1 / 8),
    "topk 1/4, 2 bits": grawa.TopK(fraction=1 / 4),
    "topk 1/4, 1 bit": grawa.TopK(fraction=1 / 4, bits=1),
    "all, 2 bits": grawa.TopK(fraction=1.0, bits=2),
    "all, 4 bits": grawa.TopK(fraction=1.0, bits=4),
}
"""Name -> how differences are sent."""

_WORKERS = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    parameters: tuple[int, ...] = (5_000_000, 50_000_000)
    """Numbers of parameters, float32."""
    tensors: int = 50
    """L, of equal size."""
    repetitions: int = 5
    """Of each way, after one that is not counted."""


TOY = Config(parameters=(5000,), tensors=3, repetitions=2)


def measure(config: Config, samples: Samples) -> None:
    """Measures all sizes."""
    order = random.Random(0)
    with one_thread():
        for parameters in config.parameters:
            rows = _rows(parameters // config.tensors, config.tensors)
            for turn in range(config.repetitions + 1):
                drawn = order.sample(list(WAYS), len(WAYS))
                seconds = {way: _seconds(rows, WAYS[way]) for way in drawn}
                if turn:
                    samples.add(parameters=parameters, seconds={way: seconds[way] for way in WAYS})


def _rows(size: int, tensors: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    normal = (torch.randn(_WORKERS, size, generator=random) for _ in range(tensors))
    return {str(i): own * own.abs() for i, own in enumerate(normal)}


def _seconds(rows: dict[str, torch.Tensor], precision: Precision) -> float:
    """Of the second mean of a new compression, which has lost something in the first."""
    comm, zeros = InProcessCommunicator(_WORKERS), {name: 0.0 * x for name, x in rows.items()}
    compression = Compression(precision, Leaves.copy_of(zeros))
    del zeros
    for _ in range(2):
        start = time.perf_counter()
        comm.weighted_mean(rows, uniform(_WORKERS), None, compression)
        seconds = time.perf_counter() - start
    return seconds


def merge(_: Config, samples: Sequence[Sample]) -> Results:
    """Parameters -> way -> seconds of each repetition."""
    sizes = dict.fromkeys(sample["parameters"] for sample in samples)
    return {
        "seconds": {
            str(size): columns([s["seconds"] for s in samples if s["parameters"] == size])
            for size in sizes
        }
    }


def table(config: Config, results: Results) -> None:
    """Prints bytes, and times as ratios to int8."""
    for size, seconds in results["seconds"].items():
        rows = []
        for way, own in seconds.items():
            ratio, spread = ratios(own, seconds[BASELINE]), Spread.of(own)
            rows.append([
                way,
                f"{codec_of(WAYS[way]).num_bytes([2**16]) / 2**16:.3f}",
                f"{1e3 * spread.median:.0f}",
                f"{ratio.median:.2f}",
                f"{ratio.low:.2f}-{ratio.high:.2f}",
            ])
        what = f"A mean of {_WORKERS} workers with {int(size):,} parameters"
        show(what, ["way", "bytes of a number", "ms", "ratio", "quartiles"], rows)


BENCHMARK = Benchmark(
    name="fewer_bits",
    text=__doc__,
    takes="8 minutes",
    config=Config(),
    toy=TOY,
    measure=measure,
    merge=merge,
    show=table,
)
main = BENCHMARK.run

if __name__ == "__main__":
    main()
