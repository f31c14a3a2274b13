"""Text: the library's sources, split by file, and what a model's prediction costs in bits."""

import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from grawa.errors import UserError
from grawa.lab.tasks import Text
from grawa.lab.tasks.text import _sources

SMALL = Text(train_bytes=60_000, test_bytes=30_000, context=50, architecture="transformer_small")
LIBRARY = Path(sysconfig.get_paths()["stdlib"])


def text_of(windows: torch.Tensor) -> bytes:
    return bytes(windows.flatten().tolist())


def test_windows_are_the_sources_one_after_another() -> None:
    data = SMALL.data(0)
    test = text_of(data.test_inputs)
    assert len(test) == 29_950  # 599 windows of 50; the last byte is only a target
    sources = b"".join(_sources(LIBRARY))
    assert sources.startswith(test)
    assert text_of(data.train_inputs) in sources
    assert len(data.train_inputs) == (60_000 - 1) // 50


def test_targets_are_the_next_bytes() -> None:
    data = SMALL.data(0)
    for inputs, targets in ((data.train_inputs, data.train_targets), data[2:]):
        assert text_of(targets)[:-1] == text_of(inputs)[1:]


def test_no_file_is_both_trained_and_tested_on() -> None:
    data = SMALL.data(0)
    test, train = text_of(data.test_inputs), text_of(data.train_inputs)
    sources = list(_sources(LIBRARY))
    position = files = 0
    while position < len(test):
        position += len(sources[files])
        files += 1
    assert train.startswith(b"".join(sources[files:])[: len(train)])
    assert files > 1


def test_data_are_the_same_for_every_seed_and_the_model_is_not() -> None:
    assert all(torch.equal(a, b) for a, b in zip(SMALL.data(0), SMALL.data(1), strict=True))
    first, second = (parameters_to_vector(SMALL.model(seed).parameters()) for seed in (0, 1))
    assert not torch.equal(first, second)


def test_packages_and_tests_are_not_the_library(tmp_path: Path) -> None:
    kept = ["a.py", "json/b.py"]
    for name in (*kept, "site-packages/c.py", "test/d.py", "json/tests/e.py", "f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "long.py").write_bytes(b"x" * 30_000)
    assert sorted(_sources(tmp_path)) == sorted([*(k.encode() for k in kept), b"x" * 20_000])


class Even(nn.Module):
    """Finds every byte equally likely."""

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*text.shape, 256)


class Sure(nn.Module):
    """Knows the next byte in even places, and nothing in odd ones."""

    def __init__(self, answers: torch.Tensor) -> None:
        super().__init__()
        self._answers = iter(answers.split(32))

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        known = nn.functional.one_hot(next(self._answers).long(), 256) * 1000.0
        known[:, 1::2] = 0.0
        return known


def test_bits_per_byte_by_hand() -> None:
    data = SMALL.data(0)
    assert SMALL.measure(Even(), data) == pytest.approx(8.0)
    assert SMALL.measure(Sure(data.test_targets), data) == pytest.approx(4.0)


def test_a_new_model_finds_all_bytes_about_equally_likely() -> None:
    assert SMALL.measure(SMALL.model(0).eval(), SMALL.data(0)) == pytest.approx(8.0, abs=0.2)


def test_an_installation_without_sources_is_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="needs the sources of Python's standard library"):
        SMALL.data(0)
