"""ImageNet: a folder of JPEG files, read while training."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.files import is_folder
from grawa.lab.tasks.classification import Classification
from grawa.lab.tasks.images import Colours, center_crop, crop_and_flip, normalised
from grawa.lab.tasks.jpegs import as_names, as_rows, check_begins, list_images, read_images
from grawa.lab.tasks.models.registry import build, check_model
from grawa.lab.tasks.task import Data, written
from grawa.seeding import seeded

_COLOURS = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_READ_OVER_SEEN = 256 / 224
_MOST_PIXELS = 4096


@dataclass(frozen=True, kw_only=True)
class ImageNet(Classification):
    """Classify photographs of up to 1,000 kinds of objects with ResNet-50.

    The data are file names; photographs are read when a batch needs them, so memory does not grow
    with their number.

    Args:
        folder: contains the folders `train` and `val`, each with a folder of JPEG files for each
            class; `data=` on the command line. Nothing is downloaded.
        architecture: "resnet50"; `model=` on the command line.
        size: width of the model's square input in pixels; photographs are read at 8/7 of it.
        augment_images: whether training squares are cut at random positions, and mirrored at
            random; `augment=` on the command line.

    Deviation: squares are cut from the middle 256 x 256 pixels at one scale, as in Krizhevsky et
    al. (2012), not at random scales and aspect ratios, so that a whole batch is cut at once.

    Source: Russakovsky et al. (2015), "ImageNet Large Scale Visual Recognition Challenge".
    """

    num_classes: ClassVar[int] = 1000
    architectures: ClassVar[tuple[str, ...]] = ("resnet50",)

    folder: Path | None = field(default=None, metadata=written("data"))
    architecture: str = field(default="resnet50", metadata=written("model"))
    size: int = 224
    augment_images: bool = field(default=True, metadata=written("augment"))

    def __post_init__(self) -> None:
        check_model(self.architecture, self.architectures)
        if self.size < 32:
            raise UserError(f"size must be at least 32 pixels, got {self.size}")
        if self.size > _MOST_PIXELS:
            raise UserError(f"size must be at most {_MOST_PIXELS} pixels, got {self.size}")

    def data(self, seed: int) -> Data:
        """File names as rows of bytes, the same for every seed; labels number the class folders."""
        if self.folder is None:
            raise UserError(
                "give the folder of ImageNet: --data DIR, or the task's option data=DIR"
            )
        for part in ("train", "val"):
            if not is_folder(self.folder / part):
                raise UserError(f"{self.folder} is not ImageNet: it has no folder {part}")
        classes, names = list_images(self.folder / "train")
        test_classes, test_names = list_images(self.folder / "val")
        unknown = sorted(set(test_classes) - set(classes))
        if unknown or len(classes) > self.num_classes:
            what = (
                f"val has a class {unknown[0]!r} that train does not have"
                if unknown
                else (f"train has {len(classes)} classes, more than {self.num_classes}")
            )
            raise UserError(f"{self.folder} is not ImageNet: {what}")
        check_begins(self.folder / "val", test_names)  # which are only read after all steps
        number = {name: label for label, name in enumerate(classes)}
        parts = [
            part
            for folder, files in (("train", names), ("val", test_names))
            for part in (
                as_rows([f"{folder}/{file}" for file in files]),
                torch.tensor([number[file.partition("/")[0]] for file in files]),
            )
        ]
        return Data(*parts)

    def model(self, seed: int) -> nn.Module:
        """ResNet-50 with 1,000 outputs."""
        with seeded(seed, "model"):
            return build(self.architecture, (3, self.size, self.size), self.num_classes)

    def augment(self, inputs: Tensor, random: torch.Generator) -> Tensor:
        """Reads the files and cuts random squares out of the images; see `augment_images`."""
        if not self.augment_images:
            return inputs
        return crop_and_flip(self._read(inputs), self.size, 0, random)

    def prepare(self, inputs: Tensor, model: nn.Module) -> Tensor:
        """Pixels scaled to about mean 0 and variance 1; reads files, and crops to the center."""
        if inputs.is_floating_point():
            return inputs
        images = self._read(inputs) if inputs.dim() == 2 else inputs
        return normalised(center_crop(images, self.size), _COLOURS, model)

    def _read(self, names: Tensor) -> Tensor:
        assert self.folder is not None, "names come from data()"
        return read_images(self.folder, as_names(names), round(self.size * _READ_OVER_SEEN))
