"""The text that `language_model.py` learns: sources that are installed on this machine."""

import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grawa.errors import UserError

PYTHON = (".py",)
OTHER = (".h", ".hpp", ".cuh", ".c", ".cpp")
"""The other language: C and C++, of which torch installs some ten megabytes of headers."""

PROBE_BYTES = 200_000
"""Most bytes of the text from which shared batches are drawn, and no training batch."""

_SPREAD = 16
"""Of so many windows of the files for validation one is used, so that there are many files."""

_FROM_A_FILE = 20_000
"""Bytes that are read of each file, so that no file dominates."""

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "__pycache__"})

SMALLEST_BPE, LARGEST_BPE = 257, 2**15 - 1
"""Numbers of symbols of a byte-pair encoding: more than bytes, and 16 bits for each."""

_MOST_FOR_BPE = 20_000_000
"""Bytes of training text from which a byte-pair encoding is made."""

Windows = tuple[Tensor, Tensor]
"""Inputs, and for each of their symbols the next one, (n, context) each."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What text is asked for."""

    train_bytes: int
    test_bytes: int
    context: int
    bpe: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Corpus:
    """The text, as numbers of symbols.

    Attributes:
        train: Python, for the workers, (n,).
        other: C and C++, for workers that read another language, (m,).
        probe: windows of Python that no worker trains on.
        test: windows of Python for validation.
        lengths: bytes of each of the different symbols.
        about: digest, files and bytes.
    """

    train: Tensor
    other: Tensor
    probe: Windows
    test: Windows
    lengths: Tensor
    about: dict[str, Any]

    @property
    def symbols(self) -> int:
        """Number of different symbols."""
        return len(self.lengths)

    @property
    def bytes_per_symbol(self) -> float:
        """Mean over the targets for validation."""
        return float(self.lengths[self.test[1].long()].double().mean())


@cache
def corpus(asked: Asked) -> Corpus:
    """Reads the text: files in an order that only their names determine, none twice.

    The first files are for validation, the next for shared batches, and the next for training, so
    that no file is in two parts.

    Returns:
        The text.

    Raises:
        UserError: if there is not enough of it on this machine.
    """
    files = _files()
    python = texts(path for path in files if path.suffix in PYTHON)
    other = texts(path for path in files if path.suffix in OTHER)
    of_probe = min(PROBE_BYTES, asked.train_bytes)
    test, probe, train = (
        _up_to(python, limit) for limit in (_SPREAD * asked.test_bytes, of_probe, asked.train_bytes)
    )
    parts = {"train": train, "probe": probe, "test": test}
    parts["other"] = _up_to(other, asked.train_bytes // 4)
    encode, lengths = _bytes() if not asked.bpe else _byte_pairs(train, asked.bpe)
    symbols = {name: encode(found) for name, found in parts.items()}
    for name, found in symbols.items():
        if len(found) <= 2 * asked.context:
            raise UserError(f"there is too little text for {name} among this machine's sources")
    windows = {name: _windows(symbols[name], asked.context) for name in ("probe", "test")}
    windows["test"] = windows["test"][0][::_SPREAD], windows["test"][1][::_SPREAD]
    return Corpus(
        train=symbols["train"],
        other=symbols["other"],
        probe=windows["probe"],
        test=windows["test"],
        lengths=lengths,
        about={
            "digest": _digest(symbols.values()),
            "files": {name: len(found) for name, found in parts.items()},
            "bytes": {name: sum(map(len, found)) for name, found in parts.items()},
            "symbols": {name: len(found) for name, found in symbols.items()},
        },
    )


def _files() -> list[Path]:
    """Files of the standard library and of installed packages, in the order of hashed names."""
    paths = sysconfig.get_paths()
    found: dict[bytes, Path] = {}
    for top in dict.fromkeys(paths[name] for name in ("stdlib", "purelib", "platlib")):
        for folder, inner, names in os.walk(top):
            inner[:] = set(inner) - _LEFT_OUT
            for path in (Path(folder, name) for name in names if name.endswith(PYTHON + OTHER)):
                own = path.relative_to(top).as_posix()
                found[hashlib.sha256(os.fsencode(own)).digest()] = path
    return [found[key] for key in sorted(found)]


def texts(files: Iterable[Path]) -> Iterator[bytes]:
    """The beginnings of files that are UTF-8 and can be read; of equal ones only the first.

    Yields:
        At most 20,000 bytes of each, which end with a line.
    """
    seen: set[bytes] = set()
    for path in files:
        try:
            with path.open("rb") as file:
                text = file.read(_FROM_A_FILE)
            if len(text) == _FROM_A_FILE:
                text = text[: text.rfind(b"\n") + 1]
            text.decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        digest = hashlib.sha256(text).digest()
        if text and digest not in seen:
            seen.add(digest)
            yield text


def _up_to(found: Iterator[bytes], limit: int) -> list[bytes]:
    """The next texts, until they have so many bytes together; the last one is cut off there."""
    taken: list[bytes] = []
    left = limit
    while left > 0 and (text := next(found, None)) is not None:
        cut = text[:left].decode("utf-8", "ignore").encode("utf-8")
        left -= len(text)
        taken.append(cut)
    return taken


Encode = Callable[[Sequence[bytes]], Tensor]


def _bytes() -> tuple[Encode, Tensor]:
    """Bytes as symbols, and the length of each."""

    def encode(found: Sequence[bytes]) -> Tensor:
        text = bytearray(b"".join(found))
        empty = torch.zeros(0, dtype=torch.uint8)
        return torch.frombuffer(text, dtype=torch.uint8) if text else empty

    return encode, torch.ones(256)


def _byte_pairs(train: Sequence[bytes], symbols: int) -> tuple[Encode, Tensor]:
    """A byte-pair encoding that is made from the beginning of the training text."""
    try:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer
    except ImportError:
        raise UserError(
            "a byte-pair encoding needs the package tokenizers: pip install 'grawa[transformers]'"
        ) from None
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=symbols, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(
        (text.decode("utf-8") for text in _up_to(iter(train), _MOST_FOR_BPE)), trainer
    )

    def encode(found: Sequence[bytes]) -> Tensor:
        encoded = made.encode_batch_fast([text.decode("utf-8") for text in found])
        numbers = [torch.tensor(each.ids, dtype=torch.int16) for each in encoded]
        return torch.cat([*numbers, torch.zeros(0, dtype=torch.int16)])

    # Its symbols are written with one character for each byte.
    names = [made.id_to_token(i) or "" for i in range(made.get_vocab_size())]
    return encode, torch.tensor([float(len(name)) for name in names])


def _windows(symbols: Tensor, context: int) -> Windows:
    """Windows that don't overlap."""
    count = (len(symbols) - 1) // context
    inputs = symbols[: count * context].view(count, context)
    return inputs, symbols[1 : count * context + 1].view(count, context)


def _digest(parts: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.numpy().tobytes())
    return digest.hexdigest()[:16]
