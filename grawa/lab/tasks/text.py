"""Text: a byte-level language model of the Python standard library's own sources."""

import hashlib
import math
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.models.registry import build, check_model
from grawa.lab.tasks.task import Chance, Data, Task, written
from grawa.seeding import seeded

_FROM_A_FILE = 20_000
"""Bytes that are read of each file, so that no file dominates."""

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "__pycache__"})
"""Folders that are not the library, or differ between installations."""

_MEASURED_AT_ONCE = 32  # windows
_MOST_CONTEXT = 4096
"""Of a window: attention takes memory with its square."""


@dataclass(frozen=True, kw_only=True)
class Text(Task):
    """Predict the next byte of the Python standard library's sources with a small transformer.

    Files are ordered by a hash of their names; the first are used for testing, the next for
    training. They are cut into windows. The data depend on the version of Python only, not on the
    seed.

    Args:
        train_bytes: most bytes of training text.
        test_bytes: most bytes of test text, from other files.
        context: bytes of a window.
        architecture: "transformer" (1.3 million parameters) or "transformer_small" (46 thousand);
            `model=` on the command line.
    """

    metric: ClassVar[str] = "bits per byte"
    num_classes: ClassVar[int] = 256
    architectures: ClassVar[tuple[str, ...]] = ("transformer", "transformer_small")

    train_bytes: int = 2_000_000
    test_bytes: int = 64_000
    context: int = 128
    architecture: str = field(default="transformer", metadata=written("model"))

    def __post_init__(self) -> None:
        check_model(self.architecture, self.architectures)
        if self.context > _MOST_CONTEXT:
            raise UserError(f"context must be at most {_MOST_CONTEXT} bytes, got {self.context}")
        for name in ("train_bytes", "test_bytes"):
            if getattr(self, name) <= self.context or self.context < 1:
                raise UserError(
                    f"context must be at least 1 and {name} larger than it, got {self.context} "
                    f"and {getattr(self, name)}"
                )

    def data(self, seed: int) -> Data:
        """Windows, (n, context), and for each of their bytes the next one, (n, context)."""
        sources = _sources(Path(sysconfig.get_paths()["stdlib"]))
        test = _windows(sources, self.test_bytes, self.context)
        train = _windows(sources, self.train_bytes, self.context)
        return Data(*train, *test)

    def model(self, seed: int) -> nn.Module:
        """The model named by `architecture`."""
        with seeded(seed, "model"):
            return build(self.architecture, (self.context,), self.num_classes)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy of each next byte, in nats."""
        logits = model(inputs).flatten(0, 1)
        return nn.functional.cross_entropy(logits, targets.flatten().long())

    def measure(self, model: nn.Module, data: Data) -> float:
        """Mean cross entropy of the test files in bits per byte."""
        windows = zip(
            data.test_inputs.split(_MEASURED_AT_ONCE),
            data.test_targets.split(_MEASURED_AT_ONCE),
            strict=True,
        )
        with torch.no_grad():
            nats = [self.loss(model, *part).double() * len(part[0]) for part in windows]
        return float(torch.stack(nats).sum()) / len(data.test_inputs) / math.log(2.0)

    def chance(self, data: Data) -> Chance:
        """The bits per byte of a model that knows only how frequent each byte is."""
        counts = [
            targets.flatten().long().bincount(minlength=self.num_classes).double()
            for targets in (data.train_targets, data.test_targets)
        ]
        seen = counts[0] + 1.0  # a byte that training lacks is rare, not impossible
        bits = -(counts[1] * (seen / seen.sum()).log2()).sum() / counts[1].sum()
        return Chance(float(bits), float(bits), "guessing by the frequency of bytes")


def _sources(folder: Path) -> Iterator[bytes]:
    """The beginning of each source file, ordered by a hash of their names.

    Yields:
        At most 20,000 bytes of each.
    """
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*.py")]
    kept = [name for name in found if not _LEFT_OUT & set(name.split("/"))]
    for name in sorted(kept, key=lambda name: hashlib.sha256(name.encode()).digest()):
        with (folder / name).open("rb") as file:
            yield file.read(_FROM_A_FILE)


def _windows(sources: Iterable[bytes], limit: int, context: int) -> tuple[Tensor, Tensor]:
    """The next files, up to `limit` bytes, in windows that don't overlap.

    Returns:
        Inputs and targets, (n, context) each, of bytes.

    Raises:
        UserError: if there are no sources.
    """
    text = bytearray()
    for source in sources:
        text += source
        if len(text) >= limit:
            break
    count = (min(len(text), limit) - 1) // context
    if count < 1:
        raise UserError(
            "the task text needs the sources of Python's standard library, and there "
            "are not enough of them in this installation"
        )
    numbers = torch.frombuffer(text, dtype=torch.uint8)
    inputs = numbers[: count * context].view(count, context)
    return inputs.clone(), numbers[1 : count * context + 1].view(count, context).clone()
