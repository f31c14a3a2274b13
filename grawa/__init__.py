"""Train deep networks on several workers that rarely communicate; see README.md.

The names are those of `grawa.public`, which is imported when the first of them is used: so
`grawa --help`, and a mistake on the command line, need not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from grawa.version import __version__ as __version__

if TYPE_CHECKING:
    from grawa.public import *  # ruff: ignore[undefined-local-with-import-star]
else:  # a type checker that saw this would take any name for one of the module

    def __getattr__(name: str) -> object:
        if name == "__all__" or not name.startswith("__"):
            _load()
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        _load()
        return list(globals())

    def _load() -> None:
        """Makes all public names this module's own."""
        public = import_module("grawa.public")
        globals().update({name: getattr(public, name) for name in ("__all__", *public.__all__)})
