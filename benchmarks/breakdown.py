"""Breaks down the time of a round: the seconds spent in each module of grawa."""

from collections import defaultdict
from collections.abc import Callable
from cProfile import Profile
from pathlib import Path
from types import CodeType

import grawa

_LIBRARY = Path(grawa.__file__).parent

ELSEWHERE = "Python outside grawa"


def break_down(run: Callable[[], object]) -> dict[str, float]:
    """Runs a function on this thread under a profiler.

    The profiler sees all Python functions, so no function of the library is named here. It does not
    see C++: time in C++ functions, including waiting, counts for the module that calls them.

    Returns:
        Module, such as `rounds.engine` -> seconds; their sum is the whole time. Python code of
        torch and of the standard library together is one entry.
    """
    profile = Profile(builtins=False)
    profile.enable()
    try:
        run()
    finally:
        profile.disable()
    seconds: defaultdict[str, float] = defaultdict(float)
    for entry in profile.getstats():
        seconds[_module(entry.code)] += entry.inlinetime
    return dict(seconds)


def _module(code: CodeType | str) -> str:
    file = Path(code if isinstance(code, str) else code.co_filename)
    if not file.is_relative_to(_LIBRARY):
        return ELSEWHERE
    return ".".join(file.relative_to(_LIBRARY).with_suffix("").parts)
