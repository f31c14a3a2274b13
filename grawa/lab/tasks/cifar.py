"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32 x 32 pixels, read from the published files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks.cifar_files import Layout, binary, pickled, read
from grawa.lab.tasks.classification import Classification
from grawa.lab.tasks.images import Colours, crop_and_flip, normalised
from grawa.lab.tasks.models.registry import CIFAR_MODELS, build, check_model
from grawa.lab.tasks.task import Data, written
from grawa.seeding import seeded

_SIZE, _PADDING = 32, 4


def _ten(ending: str) -> tuple[str, ...]:
    return tuple(f"data_batch_{i}{ending}" for i in range(1, 6))


@dataclass(frozen=True, kw_only=True)
class Cifar10(Classification):
    """Classify photographs of 10 kinds of objects with a convolutional network.

    Args:
        folder: the published folder or archive (Python or binary version), or a folder that
            contains one; `data=` on the command line. Nothing is downloaded.
        architecture: one of `grawa.lab.tasks.models.CIFAR_MODELS`; `model=` on the command line.
        augment_images: whether training images are cropped at random, after 4 pixels of padding,
            and mirrored; `augment=` on the command line.

    Source: Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images".
    """

    num_classes: ClassVar[int] = 10
    what: ClassVar[str] = "CIFAR-10"
    colours: ClassVar[Colours] = Colours((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            folder="cifar-10-batches-py",
            archive="cifar-10-python.tar.gz",
            train=_ten(""),
            test=("test_batch",),
            decode=pickled(b"labels", 10),
        ),
        Layout(
            folder="cifar-10-batches-bin",
            archive="cifar-10-binary.tar.gz",
            train=_ten(".bin"),
            test=("test_batch.bin",),
            decode=binary(1, 10),
        ),
    )

    folder: Path | None = field(default=None, metadata=written("data"))
    architecture: str = field(default="resnet20", metadata=written("model"))
    augment_images: bool = field(default=True, metadata=written("augment"))

    def __post_init__(self) -> None:
        check_model(self.architecture, CIFAR_MODELS)

    def data(self, seed: int) -> Data:
        """Images as bytes, (n, 3, 32, 32), the same for every seed."""
        if self.folder is None:
            raise UserError(
                f"give the folder of {self.what}: --data DIR, or the task's option data=DIR"
            )
        train, test = read(self.folder, self.layouts, self.what)
        return Data(*train, *test)

    def model(self, seed: int) -> nn.Module:
        """The model named by `architecture`."""
        with seeded(seed, "model"):
            return build(self.architecture, (3, _SIZE, _SIZE), self.num_classes)

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """See `augment_images`; bytes remain bytes."""
        if not self.augment_images:
            return inputs
        return crop_and_flip(inputs, _SIZE, _PADDING, random)

    def prepare(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """Pixels scaled to about mean 0 and variance 1; floating-point inputs are unchanged."""
        if inputs.is_floating_point():
            return inputs
        return normalised(inputs, self.colours, model)


@dataclass(frozen=True, kw_only=True)
class Cifar100(Cifar10):
    """Classify photographs of 100 kinds of objects (CIFAR-100's fine labels).

    Source: Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images".
    """

    num_classes: ClassVar[int] = 100
    what: ClassVar[str] = "CIFAR-100"
    colours: ClassVar[Colours] = Colours((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    layouts: ClassVar[tuple[Layout, ...]] = (
        Layout(
            folder="cifar-100-python",
            archive="cifar-100-python.tar.gz",
            train=("train",),
            test=("test",),
            decode=pickled(b"fine_labels", 100),
        ),
        Layout(
            folder="cifar-100-binary",
            archive="cifar-100-binary.tar.gz",
            train=("train.bin",),
            test=("test.bin",),
            decode=binary(2, 100),
        ),
    )
