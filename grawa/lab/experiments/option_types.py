"""Whether values that a file or a command line gives for options have the options' types."""

from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from grawa.lab.shapes import is_number, is_text, shown


def wrong_options(options: Mapping[str, Any], of: type) -> str | None:
    """What is wrong with the first option that is wrong, if one is.

    Args:
        options: name -> value.
        of: the dataclass whose fields they are.

    Returns:
        A sentence without its full stop.

    >>> from grawa.lab.experiments.config import TrainConfig
    >>> wrong_options({"workers": True}, TrainConfig)
    'workers = True is invalid: it must be of type int'
    """
    hints = get_type_hints(of)
    for name, value in options.items():
        if name not in hints:
            return f"there is no option {shown(name)}"
        if not has_type(value, hints[name]):
            return f"{name} = {shown(value)} is invalid: it must be {_described(hints[name])}"
    return None


def has_type(value: object, hint: Any) -> bool:
    """Whether a value has a type; true and false are no numbers, nor is what is not finite."""
    if isinstance(value, bool) and bool not in (hint, *get_args(hint)):
        return False
    if not all(map(_can_be_used, value if isinstance(value, tuple) else (value,))):
        return False
    try:
        check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        return False
    return True


def _can_be_used(value: object) -> bool:
    """Whether a number can be computed with, and a text be written."""
    if isinstance(value, str):
        return is_text(value)
    return is_number(value) or (not isinstance(value, float) and type(value) is not int)


def _described(hint: Any) -> str:
    if hint is float:
        return "a finite number"
    if get_origin(hint) is tuple:
        return f"a list of {get_args(hint)[0].__name__}"
    if isinstance(hint, type):
        return f"of type {hint.__name__}"
    return f"one of {', '.join(str(getattr(k, '__name__', k)) for k in get_args(hint))}"
