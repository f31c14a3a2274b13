"""The text of the benchmark of language models, and what its workers read."""

import math
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import language_model_data
from grawa.errors import UserError
from language_model_config import TOY
from language_model_data import Asked, Corpus, texts
from language_model_run import text_of
from language_model_task import task_of
from language_model_workers import KINDS, Stream, population, streams

CPU = torch.device("cpu")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for all sources on this machine."""
    for number in range(60):
        (tmp_path / f"file{number}.py").write_text(f"# {number:05}\n" * 40, encoding="utf-8")
        (tmp_path / f"file{number}.h").write_text(f"/* {number:03} */\n" * 40, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: dict.fromkeys(
        ("stdlib", "purelib", "platlib"), str(tmp_path)
    ))  # fmt: skip
    return tmp_path


def _read(**changes: int) -> Corpus:
    asked = {"train_bytes": 6_000, "test_bytes": 100, "context": 8, "bpe": 0, **changes}
    return language_model_data.corpus.__wrapped__(Asked(**asked))


def test_equal_files_and_files_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    contents = {"a": b"x = 1\n", "b": b"\xff\xfe", "c": b"x = 1\n", "d": b"", "e": b"y = 2\n"}
    files = [tmp_path / name for name in (*contents, "missing")]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert list(texts(files)) == [b"x = 1\n", b"y = 2\n"]


def test_a_file_is_read_up_to_the_end_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("é = 1\n" * 3_000, encoding="utf-8")
    (text,) = texts([tmp_path / "long.py"])
    assert 19_990 < len(text) <= 20_000
    assert text.endswith(b"= 1\n")


@pytest.mark.usefixtures("sources")
def test_no_file_is_in_two_parts_and_the_same_sources_are_the_same_text() -> None:
    text = _read()
    parts = [text.train, text.probe[0].flatten(), text.test[0].flatten()]
    numbers = [
        {bytes(part.tolist())[i : i + 8] for i in range(len(part) - 8) if part[i] == ord("#")}
        for part in parts
    ]
    assert all(numbers)
    assert not numbers[0] & numbers[2]
    assert set(bytes(text.other.tolist())) <= set(b"/* 0123456789\n")
    assert _read().about == text.about
    assert _read(train_bytes=5_000).about["digest"] != text.about["digest"]


def test_too_little_text_is_said(sources: Path) -> None:
    for path in sources.glob("*.h"):
        path.unlink()
    with pytest.raises(UserError, match="too little text for other"):
        _read()


@pytest.mark.usefixtures("sources")
def test_byte_pairs_have_the_bytes_of_their_text() -> None:
    pytest.importorskip("tokenizers")
    text = _read(bpe=300)
    assert 256 < text.symbols <= 300
    assert int(text.lengths[text.train.long()].sum()) == text.about["bytes"]["train"]
    assert text.bytes_per_symbol > 1.5


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("bpe", [0, 300])
def test_guessing_costs_the_entropy_of_a_symbol_in_bits_per_byte(bpe: int) -> None:
    if bpe:
        pytest.importorskip("tokenizers")
    text = _read(bpe=bpe)
    task = task_of(TOY.resolved(), text, CPU, bf16=False)
    model = task.model(0)
    for parameter in model.parameters():
        parameter.data.zero_()
    expected = math.log2(text.symbols) / text.bytes_per_symbol
    assert task.measure(model, task.data(0)) == pytest.approx(expected)


def test_mixed_populations_have_clean_workers_and_others() -> None:
    drawn = {population("mixed", 4, seed) for seed in range(200)}
    assert all(1 <= kinds.count("clean") < 4 for kinds in drawn)
    assert {kind for kinds in drawn for kind in kinds} == set(KINDS)
    assert population("mixed", 4, 7) == population("mixed", 4, 7)


def test_qualities_can_be_named_one_by_one() -> None:
    assert population("clean", 2, 0) == ("clean", "clean")
    assert population("clean+random", 2, 0) == ("clean", "random")
    for wrong in ("clean+random+small", "dirty+clean", ""):
        with pytest.raises(UserError, match="--quality is"):
            population(wrong, 2, 0)
    with pytest.raises(UserError, match="at least 2 workers"):
        population("mixed", 1, 0)


def _streams(kinds: Sequence[str], seed: int = 0) -> list[Stream]:
    return streams(text_of(TOY), kinds, seed=seed, steps=400, batch=4, context=8, device=CPU)


def test_workers_read_what_they_are_named_after() -> None:
    clean, random, small, repeated, other = _streams(KINDS)
    own = text_of(TOY).train.tensor_split(len(KINDS))
    assert torch.equal(clean.symbols, own[0])
    changed = (random.symbols != own[1]).double().mean()
    assert changed == pytest.approx(0.5, abs=0.05)
    assert [len(stream.batch(0)[0]) for stream in (clean, small)] == [4, 1]
    assert len(repeated.symbols) == 400 * 4 * 8 // 20
    assert not torch.equal(repeated.batch(0)[0], repeated.batch(0)[0]), "other symbols each time"
    assert torch.equal(other.symbols, text_of(TOY).other.tensor_split(len(KINDS))[4])


def test_targets_are_the_next_symbols_and_batches_depend_on_the_seed_alone() -> None:
    (first,), (again,), (other,) = (_streams(["clean"], seed) for seed in (0, 0, 1))
    inputs, targets = first.batch(3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, again.batch(3)[0])
    assert not torch.equal(inputs, other.batch(3)[0])
