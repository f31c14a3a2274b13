"""What users name of their own: `module:name`, `file.py:name`, entry points of packages."""

import re
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from grawa.errors import UserError

_ALIASES = {"ddp": "dataparallel"}
"""Without underscores."""


def is_own(text: str, known: Mapping[str, object]) -> bool:
    """Whether a text names something of the user's own, and not one of these.

    Args:
        text: begins with "module:name" or "file.py:name", or with a known name.
        known: by name.

    Returns:
        Whether it does.

    >>> is_own("my.py:Median:power=2", {}), is_own("lgrawa:pull=0.5", {"lgrawa": 0})
    (True, False)
    """
    module, colon, rest = text.partition(":")
    name = rest.partition(":")[0]
    return bool(colon) and module not in known and name.isidentifier()


def split(text: str) -> tuple[str, str]:
    """What comes before the options, and these.

    Args:
        text: "module:name" or "module:name:options".

    Returns:
        "module:name", and the options.

    >>> split("my.py:Median:power=2:pull=1")
    ('my.py:Median', 'power=2:pull=1')
    """
    module, _, rest = text.partition(":")
    name, _, options = rest.partition(":")
    return f"{module}:{name}", options


@cache
def load(text: str) -> Any:
    """Imports what a user has written; from the current folder, too.

    Args:
        text: "module:name" or "file.py:name".

    Returns:
        What has this name there.

    Raises:
        UserError: if there is none.
    """
    place, _, name = text.partition(":")
    if not (place and name.isidentifier()):
        raise UserError(f"{text!r} names nothing: write module:name, or file.py:name")
    module = _file(Path(place)) if place.endswith(".py") else _module(place)
    if not hasattr(module, name):
        others = [other for other in vars(module) if not other.startswith("_")]
        raise UserError(f"{place} has no {name!r}{meant(name, others)}")
    return getattr(module, name)


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return import_module(name)
    except (ImportError, ValueError, TypeError) as error:
        raise UserError(
            f"there is no module {name!r} that can be imported from here: {error}; write "
            "file.py:name for a file"
        ) from None
    finally:
        sys.path.remove(here)


def _file(path: Path) -> ModuleType:
    """The module in a file; it has a name by which other processes and pickles find it."""
    if not path.is_file():
        raise UserError(f"there is no file {path} (seen from {Path.cwd()})")
    name = f"grawa_own_{sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "it ends with .py"
    module = sys.modules[name] = module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(f"{path} can't be imported: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


@cache
def installed(group: str) -> Mapping[str, Any]:
    """What installed packages add.

    Args:
        group: of entry points, such as "grawa.strategies".

    Returns:
        Name -> what has it.
    """
    return {point.name: point.load() for point in entry_points(group=group)}


def resolved(name: str, known: Iterable[str]) -> str:
    """A known name that is written in another way, or by what else it is called.

    Args:
        name: as it was written.
        known: names.

    Returns:
        The known name; the one that was written if there is none.

    >>> resolved("LocalSGD", ["local_sgd"]), resolved("ddp", ["data_parallel"])
    ('local_sgd', 'data_parallel')
    """
    plain = {each.replace("_", ""): each for each in known}
    written = re.sub(r"[-_ ]", "", name).lower()
    return plain.get(_ALIASES.get(written, written), name) if name not in plain.values() else name


def meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    """A question for a name that is nearly a known one.

    Args:
        name: as it was written.
        known: names.
        prefix: with which all of them are written, such as "--", which is no likeness.

    Returns:
        " (did you mean ...?)", or nothing.

    >>> meant("lgrwa", ["mgrawa", "lgrawa"])
    ' (did you mean lgrawa?)'
    """
    close = get_close_matches(name.removeprefix(prefix).lower(), list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""
