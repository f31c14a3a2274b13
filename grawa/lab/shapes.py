"""The shapes of what files hold: each is stated once, and a value of another shape is told apart.

A shape is a function: given a value and its name, it says what is wrong with the value, or `None`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[object, str], str | None]

MOST = 1e150
"""Numbers up to here can be squared and added up; no training gets near."""

WHOLE = "it"
"""The name of a whole record, whose entries are named without it."""

MOST_WHOLE = 2**53
"""Whole numbers up to here are exact as floats."""

_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

_SHOWN = 60  # letters of a wrong value in a message


def _wrong(name: str, expected: str, value: object) -> str:
    return f"{name} must be {expected}, got {shown(value)}"


def shown(value: object) -> str:
    """A value of any kind and size in one short line."""
    if isinstance(value, dict | list):
        return f"a {'table' if isinstance(value, dict) else 'list'} of {len(value)}"
    try:
        text = repr(value)
    except ValueError:  # a whole number with thousands of digits
        text = "a number of very many digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def is_number(value: object) -> bool:
    """Whether a value is a finite number of a size that can be computed with."""
    if type(value) is int:
        return abs(value) <= MOST_WHOLE
    return isinstance(value, float) and abs(value) <= MOST


def number(least: float = -MOST, most: float = MOST) -> Shape:
    """A finite number within limits."""
    limits = "" if (least, most) == (-MOST, MOST) else f" from {least:g} to {most:g}"

    def check(value: object, name: str) -> str | None:
        if is_number(value) and least <= value <= most:  # type: ignore[operator]
            return None
        return _wrong(name, f"a number{limits}", value)

    return check


def whole(least: int = 0, most: int = MOST_WHOLE) -> Shape:
    """A whole number within limits; one written with a point, such as 8.0, is none."""

    def check(value: object, name: str) -> str | None:
        if type(value) is int and least <= value <= most:
            return None
        return _wrong(name, f"a whole number from {least} to {most}", value)

    return check


def flag(value: object, name: str) -> str | None:
    """True or false."""
    return None if isinstance(value, bool) else _wrong(name, "true or false", value)


def text(value: object, name: str) -> str | None:
    """Text that can be written: see `is_text`."""
    return None if is_text(value) else _wrong(name, "text", value)


def is_text(value: object) -> bool:
    """Whether a value is text without control characters and halves of surrogate pairs."""
    return isinstance(value, str) and not _UNWRITABLE.search(value)


def anything(value: object, name: str) -> str | None:
    """Any value."""
    return None


def one_of(*allowed: str) -> Shape:
    """One of these texts."""

    def check(value: object, name: str) -> str | None:
        if isinstance(value, str) and value in allowed:
            return None
        return _wrong(name, f"one of {', '.join(allowed)}", value)

    return check


def optional(shape: Shape) -> Shape:
    """A value of this shape, or null."""
    return lambda value, name: None if value is None else shape(value, name)


def listed(shape: Shape, least: int = 0) -> Shape:
    """A list of at least so many values of this shape."""

    def check(value: object, name: str) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return _wrong(name, f"a list of {least} or more" if least else "a list", value)
        complaints = (shape(item, f"{name}[{i}]") for i, item in enumerate(value))
        return next((complaint for complaint in complaints if complaint), None)

    return check


def grid(shape: Shape) -> Shape:
    """A list of equally long lists of values of this shape, at least one."""
    rows = listed(listed(shape, least=1), least=1)

    def check(value: object, name: str) -> str | None:
        complaint = rows(value, name)
        if complaint is None and len({len(row) for row in value}) > 1:  # type: ignore[attr-defined]
            return f"the lists in {name} must be equally long"
        return complaint

    return check


def mapping(shape: Shape, key: Shape = text, least: int = 0) -> Shape:
    """A table with any keys, whose values have this shape."""

    def check(value: object, name: str) -> str | None:
        if not isinstance(value, dict) or len(value) < least:
            return _wrong(name, f"a table of {least} or more" if least else "a table", value)
        for each, item in value.items():
            complaint = key(each, f"a key of {name}") or shape(item, f"{name}.{shown(each)}")
            if complaint:
                return complaint
        return None

    return check


def table(
    needed: Mapping[str, Shape],
    usual: Mapping[str, Shape] | None = None,
    then: Callable[[Mapping[str, Any]], str | None] = lambda _: None,
) -> Shape:
    """A table with these entries; others are not looked at, since newer versions may add some.

    Args:
        needed: entry -> its shape.
        usual: entries that may be missing.
        then: says what is wrong between entries that are right by themselves.

    Returns:
        The shape.
    """

    def check(value: object, name: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(name, "a table", value)
        within = "" if name == WHOLE else f"{name}."
        for key, shape in {**needed, **(usual or {})}.items():
            if key not in value:
                if key in needed:
                    return f"{within}{key} is missing"
            elif complaint := shape(value[key], f"{within}{key}"):
                return complaint
        return then(value)

    return check


def is_worker(value: object, name: str) -> str | None:
    """The number of a worker, as the key of a table."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return None
    return _wrong(name, "the number of a worker", value)


def same_lengths(value: Mapping[str, Any], *names: str) -> str | None:
    """What is wrong if lists of a table are not equally long."""
    lengths = {name: len(value[name]) for name in names}
    if len(set(lengths.values())) <= 1:
        return None
    return "these lists must be equally long: " + ", ".join(
        f"{name} has {length}" for name, length in lengths.items()
    )
