"""Reads pickles of numbers, bytes, text, lists, dictionaries and arrays of bytes safely.

An ordinary unpickler calls any function that a file names. This one allows four names, replaces
each by a harmless function of its own, and refuses all others.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

_STORES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_REFERS = {"GET", "BINGET", "LONG_BINGET"}

_NO_TUPLES = {"REDUCE", "GLOBAL", "STACK_GLOBAL"}
"""Opcodes for functions, and for what those that are allowed return."""

_MOST_REFERENCES = 24
"""To tuples in a pickle: each can double the time to hash one that holds all of them."""

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")


class _Array:
    """A placeholder for an array until its contents are read."""

    values: np.ndarray[Any, np.dtype[np.uint8]]

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, in_columns, raw = state
        if not isinstance(kind, _Kind) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array has no plain contents")
        if math.prod(shape) != len(raw):
            raise pickle.UnpicklingError("an array's contents don't fill it")
        order: Any = "F" if in_columns else "C"
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order=order)


class _Kind:
    """A placeholder for the type of an array's elements, which must be bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"an array is not of bytes but of {name!r}")

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and the like, which don't matter for single bytes."""


def _empty(*_: Any) -> _Array:
    return _Array()


def _latin1(text: str, encoding: str) -> bytes:
    """Decodes bytes as Python 3 writes them in protocol 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    **{(module, "_reconstruct"): _empty for module in _ARRAY_MODULES},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Kind,
    ("_codecs", "encode"): _latin1,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """The replacement for a name in the file."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which data don't need")
        return _KNOWN[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses references to objects outside the file."""
        raise pickle.UnpicklingError("it refers to something outside")


def load_plain(raw: bytes) -> Any:
    """The content of a pickle; text written by Python 2 becomes bytes.

    Args:
        raw: the whole pickle.

    Returns:
        Numbers, bytes, text, lists, tuples, dictionaries, and numpy arrays of dtype uint8 in them.

    Raises:
        ValueError: if the pickle is incomplete, or contains anything else.

    >>> load_plain(pickle.dumps({b"labels": [3, 1]}, protocol=2))
    {b'labels': [3, 1]}
    """
    try:
        _check_references(raw)
        return _unwrapped(_PlainUnpickler(io.BytesIO(raw), encoding="bytes").load(), {})
    except Exception as error:  # a broken pickle may raise anything
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _check_references(raw: bytes) -> None:
    """Refuses tuples that are referred to often: hashing such as a key could take forever.

    What may be a tuple is what was stored in the pickle's memory, unless it surely is not.

    Raises:
        UnpicklingError: if there are too many.
    """
    perhaps: set[Any] = set()
    before: pickletools.OpcodeInfo | None = None
    stored, count = 0, 0
    for opcode, argument, _ in pickletools.genops(raw):
        if opcode.name in _STORES:
            place = stored if argument is None else argument
            perhaps.discard(place)
            if before is None or _may_be_tuple(before):
                perhaps.add(place)
            stored += 1
        else:
            before = opcode
            count += opcode.name == "DUP" or (opcode.name in _REFERS and argument in perhaps)
    if count > _MOST_REFERENCES:
        raise pickle.UnpicklingError("its values refer to each other more than data do")


def _may_be_tuple(opcode: pickletools.OpcodeInfo) -> bool:
    """Whether a tuple, or a set, may lie on top after an opcode."""
    kinds = [kind.name for kind in opcode.stack_after]
    return opcode.name not in _NO_TUPLES and (
        not kinds or kinds[-1] in {"any", "tuple", "frozenset"}
    )


def _unwrapped(found: Any, known: dict[int, Any]) -> Any:
    """The value with arrays for placeholders; one that is there several times is made once.

    Args:
        found: the value.
        known: of containers that were made already, by the identity of what they were made of.

    Returns:
        The value.
    """
    if isinstance(found, _Array):
        return found.values
    if not isinstance(found, dict | list | tuple):
        return found
    if id(found) not in known:
        if isinstance(found, dict):
            made: Any = {key: _unwrapped(value, known) for key, value in found.items()}
        else:
            made = type(found)(_unwrapped(value, known) for value in found)
        known[id(found)] = made
    return known[id(found)]
