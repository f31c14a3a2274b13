"""The colours of pictures: of each method the same one everywhere, and of what has no method."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from grawa.lab import own
from grawa.lab.experiments.study import Study

INK = "#1d1f21"
"""Colour of text, axes and black lines; in a page it becomes the page's text colour."""

GREY = "#7f7f7f"
"""Colour of lines of reference."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", INK)
"""Okabe and Ito's palette, which colour-blind people can distinguish, without its yellow: of
workers, and of all else that is no method."""

_METHODS: Mapping[str, str] = {
    "mgrawa": "#0072B2",
    "lgrawa": "#56B4E9",
    "lgrawa_nesterov": "#4477AA",
    "uniform": "#E69F00",
    "local_sgd": "#D55E00",
    "easgd": "#CC79A7",
    "lsgd": "#AA4499",
    "diloco": "#009E73",
    "slowmo": "#44AA99",
    "edit": "#B05A8C",
    "rda": "#3E9B5A",
    "outer_steps": "#6A9A3A",
    "dppf": "#999933",
    "random": "#B09A7A",
    "inverse_loss": "#8C6BD9",
    "data_parallel": INK,
    "dp_sgd": INK,
    "dp_sam": "#8C564B",
}
"""The colours of the methods of this package."""

_OTHERS = ("#CC6677", "#6A8A22", "#3FA7A0", "#B8860B", "#9467BD", "#E377C2")
"""Those from which a method of the user's own gets one, by its name."""

_SHADES = (0.25, 0.45, -0.3)
"""How much lighter, or darker, a method with options is drawn, by its options."""

_LIGHTEST = 0.5
"""Of an ablation's values, whose colours become lighter from the first to the last."""

_DASHES: tuple[Any, ...] = (
    "-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)),
)  # fmt: skip
_MARKS = "osv^DPX<>"


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an arm, or a worker, is drawn.

    Attributes:
        colour: its colour.
        dashes: number of the dash pattern of its line.
        mark: number of the mark at its points.
    """

    colour: str
    dashes: int
    mark: int

    @property
    def line(self) -> dict[str, Any]:
        """Matplotlib's options of a line."""
        return {"color": self.colour, "linestyle": _DASHES[self.dashes % len(_DASHES)]}

    @property
    def points(self) -> dict[str, Any]:
        """Matplotlib's options of points."""
        return {"color": self.colour, "marker": _MARKS[self.mark % len(_MARKS)]}


def styles_of(study: Study) -> dict[str, Style]:
    """How each arm of a study is drawn: those of one method in its colour, with other dashes.

    Returns:
        Arm -> style.
    """
    families = list(_METHODS)
    values = list(dict.fromkeys(arm.value for arm in study.arms))
    seen: Counter[str] = Counter()
    found = {}
    for arm in study.arms:
        family, _ = _split(arm.written)
        lighter = _LIGHTEST * values.index(arm.value) / max(1, len(values) - 1)
        colour = _shaded(method_colour(arm.written), lighter)
        first = families.index(family) if family in families else _number(family)
        nth = seen[family]
        found[arm.name] = Style(colour=colour, dashes=nth, mark=first + nth)
        seen[family] += 1
    return found


def method_colour(method: str) -> str:
    """The colour of a method: of its family, lighter or darker if it has options.

    It depends on nothing but the method, so that it is the same in all pictures and pages.

    Args:
        method: as on the command line, without an alias.

    Returns:
        The colour, as #rrggbb.

    >>> method_colour("LocalSGD:pull=1") == method_colour("local_sgd:pull=1")
    True
    """
    family, options = _split(method)
    colour = _METHODS.get(family) or _OTHERS[_number(family) % len(_OTHERS)]
    return _shaded(colour, _SHADES[_number(options) % len(_SHADES)]) if options else colour


def _split(method: str) -> tuple[str, str]:
    """A method's name without its options, and these, in alphabetical order.

    Returns:
        The name, as it is listed if it is one of this package's; and the options.

    >>> _split("MGRAWA:score=probe:pull=1"), _split("my.py:Median:power=2")
    (('mgrawa', 'pull=1:score=probe'), ('my.py:Median', 'power=2'))
    """
    name, *options = method.split(":")
    if options and "=" not in options[0]:
        name = f"{name}:{options.pop(0)}"
    return own.resolved(name, _METHODS), ":".join(sorted(options))


def numbered(index: int) -> Style:
    """The style of worker, or line, number `index`."""
    repeated, place = divmod(index, len(PALETTE))
    return Style(colour=PALETTE[place], dashes=repeated, mark=index)


def _number(text: str) -> int:
    return hashlib.sha256(text.encode()).digest()[0]


def _shaded(colour: str, lighter: float) -> str:
    """A colour mixed with this share of white; of black, if it is negative and not black itself."""
    if not lighter:
        return colour
    other = 1.0 if lighter > 0.0 or colour == INK else 0.0
    share = abs(lighter)
    red, green, blue = ((1.0 - share) * part + share * other for part in to_rgb(colour))
    return to_hex((red, green, blue))
