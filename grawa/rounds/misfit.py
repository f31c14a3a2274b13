"""Whether saved values can take the place of others."""

from typing import Any

from torch import Tensor


def misfit(saved: object, own: object, path: str = "") -> str | None:
    """Where a saved value can't take the place of one of the same origin.

    Tensors must have the same shape and kind of numbers. Where something has not begun on one side,
    there is `None` in place of a tensor or tuple, or an empty dict in place of one of tensors.

    Args:
        saved: plain values and tensors.
        own: those that it would replace.
        path: of both, for the answer.

    Returns:
        The path of the first value that doesn't fit, and why; `None` if all fit.
    """
    if own is None or (saved is None and isinstance(own, Tensor | tuple)):
        return None
    if isinstance(own, Tensor):
        return _tensor_misfit(saved, own, path)
    if isinstance(own, dict):
        return _dict_misfit(saved, own, path)
    if isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(own):
            return f"{path} is not {len(own)} values"
        pairs = enumerate(zip(saved, own, strict=True))
        return next(filter(None, (misfit(s, o, f"{path}[{i}]") for i, (s, o) in pairs)), None)
    kinds = (int, float) if isinstance(own, float) else type(own)
    if isinstance(saved, kinds) and isinstance(saved, bool) == isinstance(own, bool):
        return None
    return f"{path} is not a {type(own).__name__}"


def _tensor_misfit(saved: object, own: Tensor, path: str) -> str | None:
    if not isinstance(saved, Tensor):
        return f"{path} is not a tensor"
    kinds = [(tuple(x.shape), x.is_floating_point(), x.is_complex()) for x in (saved, own)]
    if kinds[0] != kinds[1]:
        return f"{path} is {_form(saved)}, not {_form(own)}"
    return None


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _dict_misfit(saved: object, own: dict[Any, Any], path: str) -> str | None:
    if not isinstance(saved, dict):
        return f"{path} is not a dict"
    if not own or all(isinstance(key, int) for key in (*own, *saved)):
        return None  # numbered entries appear when they are first used
    if not saved and all(isinstance(value, Tensor) for value in own.values()):
        return None
    if saved.keys() != own.keys():
        return f"{path or 'it'} has other entries than {', '.join(map(str, own))}"
    prefix = f"{path}." if path else ""
    found = (misfit(saved[key], value, f"{prefix}{key}") for key, value in own.items())
    return next(filter(None, found), None)
