"""Letters for terminals that lack some: ASCII that looks alike."""

import codecs
import sys

ERRORS = "grawa.letters"
"""The name under which `codecs` knows what replaces letters that an encoding lacks."""

BLOCKS = "▁▂▃▄▅▆▇█"

_ALIKE = {
    **dict(zip(BLOCKS, "_.-=+*%#", strict=True)),
    **dict.fromkeys("─━╸╺╴╶", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯", "+"),
    **{"±": "+/-", "…": "~"},
}

_SPINNER = range(0x2800, 0x2900)
"""Braille, in which rich draws what turns while one waits."""


def know_letters() -> None:
    """Makes `ERRORS` known to `codecs`, for streams and for `spelled`."""
    codecs.register_error(ERRORS, _replaced)


def spelled(text: str) -> str:
    """A text in letters that standard output has.

    Needed before a text is laid out, where its replacement has more letters than it.

    Returns:
        The text.
    """
    know_letters()
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, ERRORS).decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """Replaces what could not be encoded; see `codecs.register_error`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_ascii, error.object[error.start : error.end])), error.end


def _ascii(letter: str) -> str:
    if ord(letter) in _SPINNER:
        return "|/-\\"[ord(letter) % 4]
    return _ALIKE.get(letter, "?")
