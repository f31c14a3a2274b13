"""The options of `language_model.py`, and the sizes of its models."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch


@dataclass(frozen=True, kw_only=True)
class Size:
    """A transformer, and how it is trained unless options say otherwise."""

    width: int
    depth: int
    heads: int
    context: int
    """Symbols of a window."""
    bpe: int = 0
    """Number of symbols of a byte-pair encoding; 0 for bytes."""
    lr: float
    batch: int
    """Windows in a worker's batch."""
    steps: int
    """Local steps of a worker."""
    train_bytes: int
    test_bytes: int


SIZES: Mapping[str, Size] = {
    "toy": Size(
        width=8,
        depth=1,
        heads=1,
        context=8,
        lr=1e-2,
        batch=4,
        steps=8,
        train_bytes=40_000,
        test_bytes=1_000,
    ),
    "1.3M": Size(
        width=128,
        depth=6,
        heads=4,
        context=128,
        lr=1e-3,
        batch=8,
        steps=320,
        train_bytes=20_000_000,
        test_bytes=32_000,
    ),
    "10.9M": Size(
        width=384,
        depth=6,
        heads=6,
        context=256,
        lr=1e-3,
        batch=16,
        steps=320,
        train_bytes=100_000_000,
        test_bytes=500_000,
    ),
    "124M": Size(
        width=768,
        depth=16,
        heads=12,
        context=256,
        bpe=6_656,
        lr=6e-4,
        batch=16,
        steps=640,
        train_bytes=150_000_000,
        test_bytes=1_000_000,
    ),
}
"""Number of parameters -> the transformer; "toy" has five thousand."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    size: str = "1.3M"
    """Parameters of the model: 1.3M or 10.9M (bytes), 124M (byte-pair encoding), or toy."""
    methods: tuple[str, ...] = (
        *("local_sgd", "diloco", "training=mgrawa:pull=1"),
        "probe=mgrawa:score=probe:score.size=16:pull=1",
        "layers=lgrawa:score=probe:score.size=16:pull=1",
        "losses=inverse_loss:score=probe-loss:score.size=16:pull=1",
    )
    """Methods with options, as for `grawa compare`; a name for tables may come first, as in
    best=mgrawa:pull=1. By default LocalSGD, DiLoCo, and four kinds of weights: by norms of training
    gradients, by norms on a shared batch, the same for each tensor, and by losses on it."""
    baseline: str = "local_sgd"
    """The method that others are compared with, by its name in tables."""
    quality: tuple[str, ...] = ("clean", "mixed")
    """clean; mixed, in which the seed draws what each worker reads; or the kinds of all workers,
    such as clean+clean+random+clean."""
    workers: int = 4
    """Workers, all on one device."""
    sync_every: tuple[int, ...] = (16,)
    """Local steps between rounds."""
    seeds: int = 5
    """Number of seeds of runs that count, from 0."""
    tune: int = 1
    """Number of other seeds on which each method's learning rate is chosen from --rates; with 0
    every rate is run with all seeds that count."""
    rates: tuple[float, ...] = ()
    """Learning rates; by default the size's own with its half and its double, or with --tune 0 the
    size's own alone."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Each worker's optimizer: adamw, or muon for the matrices inside and AdamW for the rest."""
    steps: int | None = None
    """Local steps of each worker; by default the size's own."""
    batch: int | None = None
    """Windows in a worker's batch; by default the size's own."""
    bpe: int | None = None
    """Number of symbols of a byte-pair encoding, 0 for bytes; by default the size's own."""
    train_bytes: int | None = None
    """Most bytes of training text; by default the size's own."""
    test_bytes: int | None = None
    """Bytes of validation text; by default the size's own."""
    points: int = 4
    """Measurements of the consensus during a run, at equal distances; the last is at the end."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where: cpu, cuda, or auto for a GPU if there is one."""
    bf16: Literal["auto", "on", "off"] = "auto"
    """Whether training computes in bf16 under autocast; auto does so on a GPU, and on pays on a CPU
    with instructions for it (AMX). Parameters and measurements are float32."""
    stack: Literal["auto", "on", "off"] = "auto"
    """Whether the workers' gradients are computed in one batched pass; auto does so on a GPU for
    models of at most 20 million parameters."""
    jobs: int | None = None
    """Runs at a time; by default one for each core, or one on a GPU."""
    minutes: float | None = None
    """No run is begun that would not end within so many minutes; `--resume` makes the rest."""

    def resolved(self) -> Size:
        """The size with what these options change."""
        size = SIZES[self.size]
        own = {name: getattr(self, name, None) for name in (field.name for field in fields(Size))}
        return replace(size, **{name: value for name, value in own.items() if value is not None})

    def all_rates(self) -> tuple[float, ...]:
        """Learning rates in the order of `rates`; the size's own comes first by default."""
        lr = SIZES[self.size].lr
        return self.rates or ((lr, lr / 2.0, 2.0 * lr) if self.tune else (lr,))

    def found_device(self) -> torch.device:
        """Where runs are made."""
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    def device_name(self) -> str:
        """The device's name: a GPU's own, or cpu."""
        kind = self.found_device().type
        return torch.cuda.get_device_name() if kind == "cuda" else kind

    def in_bf16(self) -> bool:
        """Whether training computes in bf16."""
        return self.bf16 == "on" or (self.bf16 == "auto" and self.found_device().type == "cuda")

    def at_a_time(self) -> int:
        """Number of runs at a time."""
        usual = 1 if self.found_device().type == "cuda" else os.cpu_count() or 1
        return usual if self.jobs is None else self.jobs


TOY = Config(
    size="toy",
    methods=("local_sgd", "probe=mgrawa:score=probe:score.size=8"),
    quality=("mixed",),
    sync_every=(4,),
    seeds=2,
    rates=(1e-2, 2e-2),
    points=2,
    device="cpu",
    jobs=1,
)
