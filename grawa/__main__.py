"""The command `grawa`, also as `python -m grawa`; it needs the packages of `grawa[lab]`."""

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from grawa.lab.cli.early import end_at_interrupts

_NEEDED = (
    "docstring_parser", "jinja2", "matplotlib", "numpy", "PIL", "rich", "safetensors", "scipy",
    "sklearn", "tomli_w", "typeguard",
)  # fmt: skip
"""Packages that `pip install 'grawa[lab]'` installs."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits; with exit code 2 if the laboratory's packages are missing.

    Args:
        args: the command line; by default the process's own.
    """
    end_at_interrupts()
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"grawa: the command needs packages that are not installed ({', '.join(missing)}); "
            "type: pip install 'grawa[lab]'",
            file=sys.stderr,
        )
        sys.exit(2)
    from grawa.lab.cli.main import main as run  # after the check, since it imports these packages

    run(args)


if __name__ == "__main__":
    main()
