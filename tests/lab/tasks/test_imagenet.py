"""ImageNet is read from a folder of JPEG files, a batch at a time."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from grawa.errors import UserError
from grawa.lab.tasks import ImageNet
from grawa.lab.tasks.jpegs import as_names, as_rows, read_images
from tests.lab.tasks.archives import write_jpegs

COLOURS = {"n01": [(250, 0, 0), (200, 0, 0), (150, 0, 0)], "n02": [(0, 250, 0)] * 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, red and green; three photographs of each to train on, and one for the test."""
    write_jpegs(tmp_path / "train", COLOURS)
    write_jpegs(tmp_path / "val", {"n02": [(0, 200, 0)], "n01": [(250, 0, 0)]})
    (tmp_path / "train" / "n01" / "notes.txt").write_text("no picture")
    return tmp_path


def colours(images: torch.Tensor) -> torch.Tensor:
    """The mean of each image, (B, 3)."""
    return images.double().mean(dim=(2, 3))


def test_data_are_names_of_files_and_the_number_of_their_class(folder: Path) -> None:
    data = ImageNet(folder=folder).data(0)
    names = as_names(data.train_inputs)
    assert names == [f"train/n0{c}/n0{c}_{i}.JPEG" for c in (1, 2) for i in range(3)]
    assert data.train_targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert as_names(data.test_inputs) == ["val/n01/n01_0.JPEG", "val/n02/n02_0.JPEG"]
    assert data.test_targets.tolist() == [0, 1]
    assert data.train_inputs.dtype == torch.uint8


def test_names_of_all_lengths_come_back() -> None:
    names = ["a/b.jpg", "a/a much longer name.jpeg", "é/ü.JPG"]
    assert as_names(as_rows(names)) == names


def test_a_batch_is_read_when_it_is_needed(folder: Path) -> None:
    task = ImageNet(folder=folder, size=32)
    data = task.data(0)
    images = task.augment(data.train_inputs[[0, 5]], torch.Generator().manual_seed(0))
    assert (images.shape, images.dtype) == ((2, 3, 32, 32), torch.uint8)
    expected = torch.tensor([[250.0, 0.0, 0.0], [0.0, 250.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(colours(images), expected, rtol=0.0, atol=4.0)


def test_the_square_in_the_middle_is_read_at_any_size(tmp_path: Path) -> None:
    for name, size in (("wide", (300, 100)), ("tall", (100, 300)), ("small", (20, 20))):
        image = Image.new("RGB", size, (255, 255, 255))
        side = min(size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image.paste((0, 0, 255), (left, top, left + side, top + side))
        image.save(tmp_path / f"{name}.jpg", quality=95)
    images = read_images(tmp_path, ["wide.jpg", "tall.jpg", "small.jpg"], 40)
    inner = images[:, :, 2:-2, 2:-2]  # at the rim, JPEG mixes
    blue = torch.tensor([0.0, 0.0, 255.0], dtype=torch.float64).expand(3, 3)
    torch.testing.assert_close(colours(inner), blue, rtol=0.0, atol=3.0)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_photographs_without_three_colours_are_read(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (50, 50)).save(tmp_path / "it.jpg")
    assert read_images(tmp_path, ["it.jpg"], 32).shape == (1, 3, 32, 32)


def test_the_loss_is_the_same_of_names_and_of_the_squares_in_the_middle(folder: Path) -> None:
    task = ImageNet(folder=folder, size=32, augment_images=False)
    data, model = task.data(0), task.model(0).eval()
    names = task.augment(data.train_inputs, torch.Generator())
    assert torch.equal(names, data.train_inputs)
    images = read_images(folder, as_names(names), 37)[:, :, 2:34, 2:34]
    with torch.no_grad():
        first, second = (task.loss(model, x, data.train_targets) for x in (names, images))
    assert torch.equal(first, second)
    prepared = task.prepare(names, model)
    assert prepared.shape == (6, 3, 32, 32)
    assert task.prepare(prepared, model) is prepared
    assert task.measure(model, data) in {0.0, 0.5, 1.0}


def missing_train(path: Path) -> None:
    (path / "val").mkdir()


def no_classes(path: Path) -> None:
    (path / "train").mkdir()
    (path / "val").mkdir()


def another_class(path: Path) -> None:
    write_jpegs(path / "train", {"n01": [(0, 0, 0)]})
    write_jpegs(path / "val", {"n02": [(0, 0, 0)]})


def too_many_classes(path: Path) -> None:
    (path / "train").mkdir()
    for number in range(1001):
        (path / "train" / f"n{number:04d}").mkdir()
    write_jpegs(path / "val", {"n0000": [(0, 0, 0)]})
    Image.new("RGB", (8, 8)).save(path / "train" / "n0000" / "it.jpg")


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "nothing there": (lambda path: None, "is not ImageNet: it has no folder train"),
    "no train": (missing_train, "is not ImageNet: it has no folder train"),
    "no classes": (no_classes, "train must have a folder of JPEG files for each class"),
    "another class in val": (another_class, "val has a class 'n02' that train does not have"),
    "too many classes": (too_many_classes, "train has 1001 classes, more than 1000"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_the_folder_is_said(case: str, tmp_path: Path) -> None:
    write, said = WRONG[case]
    write(tmp_path)
    with pytest.raises(UserError, match=said):
        ImageNet(folder=tmp_path).data(0)


def test_without_a_folder_it_is_asked_for() -> None:
    with pytest.raises(UserError, match="give the folder of ImageNet: --data DIR"):
        ImageNet().data(0)


def test_a_size_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="size must be at least 32 pixels, got 31"):
        ImageNet(size=31)


@pytest.mark.parametrize("keep", [0, 10, 400])
def test_a_broken_photograph_is_named(folder: Path, keep: int) -> None:
    path = folder / "train" / "n01" / "n01_1.JPEG"
    path.write_bytes(path.read_bytes()[:keep])
    task = ImageNet(folder=folder, size=32)
    data = task.data(0)
    with pytest.raises(UserError, match=r"n01_1\.JPEG is not a complete picture: "):
        task.augment(data.train_inputs, torch.Generator())


def test_a_photograph_that_is_gone_is_named(folder: Path) -> None:
    task = ImageNet(folder=folder, size=32)
    data = task.data(0)
    (folder / "train" / "n02" / "n02_2.JPEG").unlink()
    with pytest.raises(UserError, match=r"n02_2\.JPEG is not a complete picture: .*No such file"):
        task.augment(data.train_inputs, torch.Generator())
