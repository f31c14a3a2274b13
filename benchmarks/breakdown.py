"""Where the time of a round goes: the seconds that each module of grawa takes by itself."""

from collections import defaultdict
from collections.abc import Callable
from cProfile import Profile
from pathlib import Path
from types import CodeType

import grawa

_LIBRARY = Path(grawa.__file__).parent

ELSEWHERE = "Python outside grawa"


def break_down(run: Callable[[], object]) -> dict[str, float]:
    """Runs something on this thread.

    The profiler watches every function, so none of the library's has to be named, and one that
    moves can't be missed. It sees Python alone: what a module's own lines call in C++, and how long
    they wait there, counts for the module.

    Returns:
        Seconds by module, such as `rounds.engine`; they add up to all. Python of torch and of the
        standard library is one of them.
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
