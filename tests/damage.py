"""Damaged versions of files: what a crash, a bad disk, an editor or a stranger leaves behind."""

import copy
import json
import os
import random
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

_DEEP = 100_000  # levels, far beyond what a parser that calls itself survives

_MARKUP = "</script><script>alert(1)</script>[/red]$\\frac{$\x1b[2J\n\ud800"
"""Text that is markup in HTML, to rich and to matplotlib, moves a cursor, and can't be encoded."""

WRONG_VALUES: tuple[Any, ...] = (
    None, True, "", "x", _MARKUP, 0, -1, 1, 10**6, 10**30, 10**400, 0.5, -1e308, 1e308,
    float("nan"), float("inf"), [], {}, [1], [[1]], ["x"], [None], [[]], {"x": 1}, [[[[]]]],
    "x" * 10_000,
)  # fmt: skip
"""What may stand in a file in place of any value."""


class Damage(NamedTuple):
    """One damaged version of a file.

    Attributes:
        what: in words.
        apply: makes a file so, given its path; the file exists and is whole.
    """

    what: str
    apply: Callable[[Path], object]


def damages(path: Path, seed: int = 0) -> Iterator[Damage]:
    """All damaged versions of a file that are tried.

    Args:
        path: the whole file.
        seed: of flipped bits and random bytes.

    Yields:
        Each version.
    """
    raw = path.read_bytes()
    yield from _as_bytes(raw, random.Random(seed))
    yield from _as_places()
    if path.suffix in (".json", ".toml", ".jsonl"):
        yield from _as_values(path, raw)


def _as_bytes(raw: bytes, draw: random.Random) -> Iterator[Damage]:
    """Cut, flipped, empty, foreign."""
    for end in range(0, len(raw), max(1, len(raw) // 10)):
        yield Damage(f"cut at byte {end} of {len(raw)}", _write(raw[:end]))
    for _ in range(20):
        place, bit = draw.randrange(max(1, len(raw))), draw.randrange(8)
        flipped = bytearray(raw or b"\0")
        flipped[place] ^= 1 << bit
        yield Damage(f"bit {bit} of byte {place} flipped", _write(bytes(flipped)))
    yield Damage("random bytes", _write(draw.randbytes(1000)))
    yield Damage("a null byte", _write(b"\0"))
    yield Damage("other line ends", _write(raw.replace(b"\n", b"\r\n")))
    yield Damage("a byte order mark", _write(b"\xef\xbb\xbf" + raw))
    yield Damage("deep lists", _write(b"[" * _DEEP + b"]" * _DEEP))
    yield Damage("deep tables", _write(b'{"a":' * _DEEP + b"1" + b"}" * _DEEP))
    yield Damage("deep lists in TOML", _write(b"a = " + b"[" * _DEEP + b"]" * _DEEP))
    yield Damage("a number of many digits", _write(b"9" * 10_000))
    yield Damage("twice", _write(raw + raw))


def _as_places() -> Iterator[Damage]:
    """Something else than a file at its place."""
    yield Damage("missing", lambda path: path.unlink())
    yield Damage("a folder", _replace(lambda path: path.mkdir()))
    yield Damage("a dangling link", _replace(lambda path: path.symlink_to("nowhere")))
    yield Damage("a link to itself", _replace(lambda path: path.symlink_to(path.name)))
    yield Damage("a pipe", _replace(lambda path: os.mkfifo(path)))
    yield Damage("an endless device", _replace(lambda path: path.symlink_to("/dev/zero")))


def _as_values(path: Path, raw: bytes) -> Iterator[Damage]:
    """Each value replaced, each entry left out, and an entry too many."""
    text = raw.decode()
    if path.suffix == ".jsonl":
        for number, line in _kinds(text):
            lines = text.splitlines()
            for what, changed in changes(json.loads(line)):
                lines[number] = json.dumps(changed)
                whole = "\n".join([*lines, ""])
                yield Damage(
                    f"line {number + 1}: {what}", _write(whole.encode("utf-8", "surrogatepass"))
                )
            yield Damage(
                f"line {number + 1} left out",
                _write("\n".join([*lines[:number], *lines[number + 1 :], ""]).encode()),
            )
        return
    if path.suffix == ".toml":
        for what, changed in changes(tomllib.loads(text)):
            try:
                written = tomli_w.dumps(changed).encode()
            except (AttributeError, TypeError, ValueError):
                continue  # not a value of TOML
            yield Damage(what, _write(written))
        return
    for what, changed in changes(json.loads(text)):
        yield Damage(what, _write(json.dumps(changed).encode()))


def _kinds(text: str) -> Iterator[tuple[int, str]]:
    """The first and the last line of each kind, with their numbers."""
    found: dict[Any, list[tuple[int, str]]] = {}
    for number, line in enumerate(text.splitlines()):
        entry = json.loads(line)
        found.setdefault(entry.get("kind", entry.get("role")), []).append((number, line))
    for lines in found.values():
        yield from dict([lines[0], lines[-1]]).items()


def changes(whole: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a value, in each of which one part has a wrong value, is missing or too many."""
    for place in _places(whole, ()):
        name = ".".join(map(str, place)) or "all"
        for value in WRONG_VALUES:
            yield f"{name} = {value!r:.40}", _with(whole, place, value)
        if place:
            yield f"{name} left out", _without(whole, place)
        yield f"{name} has an entry too many", _with_more(whole, place)


def _places(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The paths of all parts; of long lists only of the first and the last entry."""
    yield at
    if isinstance(value, dict):
        for key in value:
            yield from _places(value[key], (*at, key))
    elif isinstance(value, list) and value:
        for index in {0, len(value) - 1}:
            yield from _places(value[index], (*at, index))


def _with(whole: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = copy.deepcopy(whole)
    _at(changed, place[:-1])[place[-1]] = value
    return changed


def _without(whole: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(whole)
    del _at(changed, place[:-1])[place[-1]]
    return changed


def _with_more(whole: Any, place: tuple[Any, ...]) -> Any:
    changed = copy.deepcopy(whole)
    found = _at(changed, place)
    if isinstance(found, dict):
        found["one too many"] = 1
    elif isinstance(found, list):
        found.append(found[-1] if found else 1)
    return changed


def _at(whole: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        whole = whole[step]
    return whole


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def apply(path: Path) -> None:
        path.unlink()
        make(path)

    return apply


def restore(copy_of: Path, whole: Path) -> None:
    """Puts a whole file back in place of what damage has made of its copy."""
    if copy_of.is_dir() and not copy_of.is_symlink():
        shutil.rmtree(copy_of)
    copy_of.unlink(missing_ok=True)
    shutil.copyfile(whole, copy_of)
