"""What the studies of the evidence ask, and which page says what they found."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """The purpose of a study, as its page of tables has it."""

    METHODS = "all methods, on clean data and under faults"
    KNOB = "the effect of an option"
    STEPS = "at equal steps, as if messages took no time"
    LINK = "over a slow link, with clean data and with data that differ in kind"
    GRADED = "workers of graded quality"
    UNGUARDED = "without the guard"
    POPULATIONS = "random populations of workers"
    SPEEDS = "random populations of workers that differ in speed too"
    PULLS = "random populations of workers, with the pull tuned beside the learning rate"
    FULL_PULL = "random populations of workers, with a pull of 1"
    FAMILY = "random populations of workers, a method of each kind"


_PAGES: Mapping[Kind, str] = {
    Kind.METHODS: "claims",
    Kind.KNOB: "claims",
    Kind.STEPS: "clean-data",
    Kind.LINK: "clean-data",
    Kind.GRADED: "mixed-quality",
    Kind.UNGUARDED: "mixed-quality",
    Kind.POPULATIONS: "mixed-quality",
    Kind.SPEEDS: "mixed-quality",
    Kind.PULLS: "mixed-quality",
    Kind.FULL_PULL: "mixed-quality",
    Kind.FAMILY: "mixed-quality",
}

SMALL_TEXT = "text:model=transformer_small:context=32:test_bytes=8000"

_TASKS: Mapping[str, str] = {
    "digits": "Digits",
    "digits:label_noise=0.2": "Digits with a fifth of the labels wrong",
    "digits:model=cnn": "Digits with a CNN",
    "glyphs": "Glyphs",
    SMALL_TEXT: "Text",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A study.

    Attributes:
        kind: its purpose.
        words: arguments of the command, after `grawa`.
        controls: methods with which all are compared over populations, besides the baseline.
    """

    kind: Kind
    words: tuple[str, ...]
    controls: tuple[str, ...] = ()

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command."""
        return "grawa", *self.words

    @property
    def title(self) -> str:
        """Of its page of tables."""
        command, task, *rest = self.words
        what = f"{self.kind.value} ({rest[0]})" if command == "ablate" else self.kind.value
        at = rest.index("--workers") + 1 if "--workers" in rest else None
        workers = "" if at is None else f", {rest[at]} workers"
        return f"{_TASKS[task]}{workers}: {what}"

    @property
    def page(self) -> str:
        """The page that says what it found."""
        return _PAGES[self.kind]
