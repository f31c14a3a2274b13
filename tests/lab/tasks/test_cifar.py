"""CIFAR-10 and CIFAR-100 are read from every form in which they are published."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from grawa.errors import UserError
from grawa.lab.tasks import Cifar10, Cifar100
from tests.lab.tasks.archives import (
    binary_files,
    labels,
    pickle_of_python_2,
    pixels,
    python_files,
    write_archive,
    write_folder,
)

Write = Callable[[Path], Path]


def python_folder(classes: int) -> Write:
    name = "cifar-10-batches-py" if classes == 10 else "cifar-100-python"
    return lambda path: write_folder(path / name, python_files(classes))


def binary_folder(classes: int) -> Write:
    name = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    return lambda path: write_folder(path / name, binary_files(classes))


def python_archive(classes: int) -> Write:
    folder = "cifar-10-batches-py" if classes == 10 else "cifar-100-python"
    name = f"cifar-{classes}-python.tar.gz"
    return lambda path: write_archive(path / name, folder, python_files(classes))


def binary_archive(classes: int) -> Write:
    folder = "cifar-10-batches-bin" if classes == 10 else "cifar-100-binary"
    name = f"cifar-{classes}-binary.tar.gz"
    return lambda path: write_archive(path / name, folder, binary_files(classes))


FORMS = {
    "python, unpacked": python_folder,
    "binary, unpacked": binary_folder,
    "python, packed": python_archive,
    "binary, packed": binary_archive,
}

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def task(classes: int, folder: Path) -> Cifar10:
    return Cifar10(folder=folder) if classes == 10 else Cifar100(folder=folder)


@every_form
@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("named", ["itself", "what holds it"])
def test_all_images_and_labels_are_read_in_their_order(
    form: Callable[[int], Write], classes: int, named: str, tmp_path: Path
) -> None:
    place = form(classes)(tmp_path)
    data = task(classes, place if named == "itself" else tmp_path).data(0)
    parts = 5 if classes == 10 else 1
    assert [len(part) for part in data] == [8 * parts, 8 * parts, 8, 8]
    expected = [*np.concatenate([pixels(8, seed) for seed in range(parts)]), *pixels(8, parts)]
    found = [*data.train_inputs.flatten(1), *data.test_inputs.flatten(1)]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(expected, found, strict=True))
    train = [label for seed in range(parts) for label in labels(8, classes, seed)]
    assert data.train_targets.tolist() == train
    assert data.test_targets.tolist() == labels(8, classes, parts)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_inputs.shape[1:] == (3, 32, 32)


def test_colours_come_first_and_rows_from_the_top(tmp_path: Path) -> None:
    files = binary_files(10)
    image = np.zeros((3, 32, 32), dtype=np.uint8)
    image[1, 2, 5] = 200  # green, in the third row
    files["test_batch.bin"] = bytes([4]) + image.tobytes()
    data = Cifar10(folder=write_folder(tmp_path / "data", files)).data(0)
    assert data.test_inputs[0].nonzero().tolist() == [[1, 2, 5]]
    assert data.test_targets.tolist() == [4]


def test_what_python_2_pickled_is_read(tmp_path: Path) -> None:
    files = python_files(10)
    files["data_batch_3"] = pickle_of_python_2({
        b"batch_label": [1],
        b"data": pixels(8, 2),
        b"labels": labels(8, 10, 2),
    })
    old = Cifar10(folder=write_folder(tmp_path / "old", files)).data(0)
    new = Cifar10(folder=write_folder(tmp_path / "new", python_files(10))).data(0)
    assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


# What can be wrong


def changed(**files: bytes | None) -> Write:
    """A folder for Python with some files changed or left out."""

    def write(path: Path) -> Path:
        kept = {**python_files(10), **files}
        return write_folder(path / "it", {k: v for k, v in kept.items() if v is not None})

    return write


def cut(write: Write, keep: float) -> Write:
    """An archive of which only the first part has come."""

    def cutting(path: Path) -> Path:
        archive = write(path)
        content = archive.read_bytes()
        archive.write_bytes(content[: int(keep * len(content))])
        return archive

    return cutting


def one_file(content: bytes) -> Write:
    def write(path: Path) -> Path:
        (path / "it").write_bytes(content)
        return path / "it"

    return write


def missing(path: Path) -> Path:
    return path / "nowhere"


def foreign(path: Path) -> Path:
    return write_folder(path / "it", {"notes.txt": b"mine"})


def other_labels(raw: bytes) -> bytes:
    assert raw[0] == 0
    return b"\x0b" + raw[1:]


BINARY = binary_files(10)

WRONG: dict[str, tuple[Write, str]] = {
    "nothing there": (missing, "nowhere does not exist: give the folder or the archive"),
    "a foreign folder": (foreign, "does not contain CIFAR-10, which is cifar-10-batches-py or"),
    "an empty folder": (lambda path: path, "does not contain CIFAR-10"),
    "the other data set": (python_folder(100), "does not contain CIFAR-10"),
    "the other archive": (python_archive(100), "does not contain CIFAR-10"),
    "a foreign archive": (
        lambda path: write_archive(path / "it.tar.gz", "a", {"b": b"c"}),
        "does not contain CIFAR-10",
    ),
    "no archive": (one_file(b"<!DOCTYPE html>"), "it can't be read to its end"),
    "an empty file": (one_file(b""), "it can't be read to its end"),
    "an archive cut short": (cut(python_archive(10), 0.5), "can't be read to its end"),
    "a binary archive cut short": (cut(binary_archive(10), 0.9), "can't be read to its end"),
    "an archive without its end": (cut(binary_archive(10), 0.999), "can't be read to its end"),
    "a file left out": (changed(data_batch_4=None), "lacks data_batch_4"),
    "no test": (changed(test_batch=None), "lacks test_batch"),
    "a pickle cut short": (
        changed(data_batch_2=python_files(10)["data_batch_2"][:5000]),
        "data_batch_2 is incomplete or invalid",
    ),
    "a pickle of something else": (
        changed(data_batch_2=python_files(10)["batches.meta"]),
        "it has no dictionary with 'data' and 'labels'",
    ),
    "fine labels": (
        changed(data_batch_1=python_files(100)["train"]),
        "it has no dictionary with 'data' and 'labels'",
    ),
    "fewer labels than images": (
        changed(test_batch=pickle_of_python_2({b"data": pixels(3, 0), b"labels": [1, 2]})),
        "it has 3 images and 2 labels",
    ),
    "a label too large": (
        changed(test_batch=pickle_of_python_2({b"data": pixels(2, 0), b"labels": [1, 10]})),
        "its labels reach from 1 to 10",
    ),
    "other images": (
        changed(test_batch=pickle_of_python_2({b"data": pixels(2, 0)[:, :99], b"labels": [1, 2]})),
        "its data are not rows of 3072 bytes",
    ),
    "labels that are none": (
        changed(test_batch=pickle_of_python_2({b"data": pixels(2, 0), b"labels": pixels(2, 0)})),
        "its labels are not a list of whole numbers",
    ),
    "records cut short": (
        lambda path: write_folder(path / "it", {**BINARY, "test_batch.bin": b"\x01" * 3072}),
        "its 3,072 bytes are not a whole number of records of 3073",
    ),
    "fewer whole records than in other files": (
        lambda path: write_folder(
            path / "it", {**BINARY, "data_batch_3.bin": BINARY["data_batch_3.bin"][: 3073 * 7]}
        ),
        "data_batch_3.bin is incomplete: it has 7 images, and others have 8",
    ),
    "an empty binary file": (
        lambda path: write_folder(path / "it", {**BINARY, "test_batch.bin": b""}),
        "its 0 bytes are not a whole number of records",
    ),
    "another record": (
        lambda path: write_folder(
            path / "it", {**BINARY, "data_batch_1.bin": other_labels(BINARY["data_batch_1.bin"])}
        ),
        "data_batch_1.bin is incomplete or invalid: its labels reach from",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_the_data_is_said_in_one_line(case: str, tmp_path: Path) -> None:
    write, said = WRONG[case]
    with pytest.raises(UserError, match=said) as error:
        Cifar10(folder=write(tmp_path)).data(0)
    assert "\n" not in str(error.value)


def test_without_a_folder_it_is_asked_for() -> None:
    with pytest.raises(UserError, match="give the folder of CIFAR-100: --data DIR, or the task's"):
        Cifar100().data(0)


# Training


def batch(count: int = 16) -> Tensor:
    return torch.from_numpy(pixels(count, 0).reshape(-1, 3, 32, 32))


def test_training_images_are_cut_from_black_padding() -> None:
    images = torch.full((400, 3, 32, 32), 255, dtype=torch.uint8)
    found = Cifar10().augment(images, torch.Generator().manual_seed(0))
    assert found.shape == images.shape
    rows = (found[:, 0] > 0).any(dim=2).sum(dim=1)  # of 32, how many are not padding
    assert set(rows.tolist()) == {28, 29, 30, 31, 32}


def test_augmentation_can_be_left_out() -> None:
    found = Cifar10(augment_images=False).augment(batch(), torch.Generator().manual_seed(0))
    assert torch.equal(found, batch())


def test_the_loss_itself_changes_nothing_at_random() -> None:
    task = Cifar10(architecture="cnn")
    model, targets = task.model(0), torch.arange(16) % 10
    losses = [task.loss(model, batch(), targets) for _ in range(2)]
    assert torch.equal(*losses)
    by_hand = (batch() / 255 - torch.tensor(task.colours.mean).view(3, 1, 1)) / torch.tensor(
        task.colours.std
    ).view(3, 1, 1)
    torch.testing.assert_close(losses[0], nn.functional.cross_entropy(model(by_hand), targets))


def test_what_is_prepared_is_left_as_it_is() -> None:
    task = Cifar10(architecture="cnn")
    model, targets = task.model(0).double(), torch.arange(16) % 10
    prepared = task.prepare(batch(), model)
    assert prepared.dtype == torch.float64
    assert task.prepare(prepared, model) is prepared
    losses = [task.loss(model, inputs, targets) for inputs in (batch(), prepared)]
    assert torch.equal(*losses)


def test_the_error_of_many_images_is_that_of_its_parts(tmp_path: Path) -> None:
    files = {**binary_files(10), "test_batch.bin": binary_files(10, 700)["test_batch.bin"]}
    task = Cifar10(folder=write_folder(tmp_path / "it", files), architecture="cnn")
    data, model = task.data(0), task.model(0).eval()
    with torch.no_grad():
        logits = model(task.prepare(data.test_inputs, model))
    expected = float((logits.argmax(dim=1) != data.test_targets).double().mean())
    assert task.measure(model, data) == pytest.approx(expected, abs=1.5 / 700)
