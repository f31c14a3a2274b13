"""Shows the doctests of docstrings as code: gives them the heading that Google's style asks for."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\n).+)*)", re.MULTILINE)


def with_headings(docstring: str) -> str:
    """The docstring with its doctests indented under `Examples:`."""
    return _DOCTEST.sub(
        lambda found: "Examples:\n    " + found[1].replace("\n", "\n    "), docstring
    )


class Doctests(griffe.Extension):
    """Changes docstrings when they are loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = with_headings(obj.docstring.value)
