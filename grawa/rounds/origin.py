"""What a saved state belongs to, and how it differs from what it is loaded into."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

from grawa.comm.protocol import Transport
from grawa.rounds.clock import Clock
from grawa.rounds.plan import RoundPlan
from grawa.workers.replicas import Replicas

_MOST_TOLD = 3
"""Differences that a message names; the others are counted."""

_LONGEST = 100
"""Characters of a value in a message."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a state belongs to, in words.

    Args:
        fixed: what gives the state its meaning and form, name -> value.
        settings: numbers that may change in the middle of training, name -> value.
        parameters: name, shape and dtype of each, and the names of buffers, whose shape may change.
    """

    fixed: Mapping[str, str]
    settings: Mapping[str, str]
    parameters: Sequence[str]

    @classmethod
    def of(
        cls, plan: RoundPlan, replicas: Replicas, comm: Transport, clock: Clock, part: int
    ) -> "Origin":
        """That of a state which is saved here.

        Args:
            plan: how rounds are run.
            replicas: the hosted workers.
            comm: connects all workers.
            clock: times the workers.
            part: which of the processes of a worker this is.

        Returns:
            The same on each process but for the numbers of its workers.
        """
        groups = plan.strategy.groups(replicas.names)
        first = comm.process * comm.num_hosted
        fixed = {
            "workers": str(comm.num_workers),
            "workers of this process": _numbers(first, first + comm.num_hosted),
            "process of the worker": str(part),
            "fragments": str(plan.num_fragments),
            "fragment of each parameter": _digest(plan.fragment_of),
            "comm_dtype": str(plan.comm_dtype),
            "weight groups": f"{max(groups) + 1} ({_digest(groups)})",
            "clock": type(clock).__name__,
            "weigh_by": plan.weigh_by or "none",
        }
        settings: dict[str, str] = {}
        for name in ("strategy", "schedule"):
            for path, value, is_class in _options(name, getattr(plan, name)):
                (fixed if is_class else settings)[path] = value
        for name in ("guard", "overlap_steps", "alpha", "buffers"):
            settings.update((path, v) for path, v, _ in _options(name, getattr(plan, name)))
        if plan.optimizer_state != "local":  # states saved before there was a choice are local
            settings["optimizer_state"] = plan.optimizer_state
            settings["optimizer_state_every"] = str(plan.optimizer_state_every)
        rows = replicas.params.items()
        parameters = [f"{n} {tuple(x.shape[1:])} {x.dtype}" for n, x in rows]
        parameters += [f"buffer {name}" for name in replicas.buffers.names]
        return cls(fixed=fixed, settings=settings, parameters=parameters)

    def saved(self) -> dict[str, Any]:
        """Plain values for a state."""
        return {
            "fixed": dict(self.fixed),
            "settings": dict(self.settings),
            "parameters": list(self.parameters),
        }

    @classmethod
    def is_one(cls, saved: object) -> bool:
        """Whether this is what `saved` returned."""
        if not isinstance(saved, dict) or saved.keys() != {f.name for f in fields(cls)}:
            return False
        tables, names = (saved["fixed"], saved["settings"]), saved["parameters"]
        if not all(isinstance(table, dict) for table in tables) or not isinstance(names, list):
            return False
        words = [word for table in tables for pair in table.items() for word in pair]
        return all(isinstance(word, str) for word in (*words, *names))

    def differences(self, saved: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """How a saved origin, as `saved` returned it, differs from this one.

        Returns:
            In words, differences that make the state useless here, and those of settings.
        """
        fixed = _unequal(saved["fixed"], self.fixed)
        missing = [p for p in saved["parameters"] if p not in set(self.parameters)]
        new = [p for p in self.parameters if p not in set(saved["parameters"])]
        if missing or new:
            fixed.append(
                _told("parameters and buffers", (missing or ["none"])[0], (new or ["none"])[0])
            )
        elif list(saved["parameters"]) != list(self.parameters):
            fixed.append("the order of parameters and buffers")
        return fixed, _unequal(saved["settings"], self.settings)


def described(value: object) -> str:
    """A configuration as text, without the addresses of functions, which differ by process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def brief(value: object) -> str:
    """A configuration as text, with those options only that are not the defaults.

    Returns:
        It, such as "LGRAWA(pull=0.3)".

    >>> from grawa.rounds.schedule import Every
    >>> brief(Every(8))
    'Every(sync_every=8)'
    """
    if isinstance(value, type) or not is_dataclass(value):
        plain = value is None or isinstance(value, str | int | float | tuple)
        text = repr(value) if plain else getattr(value, "__qualname__", "")
        return text if 0 < len(text) <= _LONGEST else type(value).__qualname__
    pairs = [(field, getattr(value, field.name)) for field in fields(value)]
    told = [f"{field.name}={brief(own)}" for field, own in pairs if not _is_default(field, own)]
    return f"{type(value).__qualname__}({', '.join(told)})"


def told(plan: RoundPlan) -> str:
    """A plan's strategy and schedule, as `brief` tells them."""
    return f"{brief(plan.strategy)}, {brief(plan.schedule)}"


def _is_default(field: Field[Any], value: object) -> bool:
    usual = field.default
    if field.default_factory is not MISSING:
        usual = field.default_factory()
    return value is usual or (type(value) is type(usual) and value == usual)


def listed(differences: Sequence[str]) -> str:
    """The first differences, and how many more there are."""
    more = len(differences) - _MOST_TOLD
    rest = f" and {more} more" if more > 0 else ""
    return "; ".join(differences[:_MOST_TOLD]) + rest


def _unequal(saved: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    names = [*here, *(name for name in saved if name not in here)]
    pairs = ((name, saved.get(name, "none"), here.get(name, "none")) for name in names)
    return [_told(name, one, other) for name, one, other in pairs if one != other]


def _told(name: str, saved: str, here: str) -> str:
    return f"{name}: {saved[:_LONGEST]} saved, {here[:_LONGEST]} here"


def _options(path: str, value: object) -> Iterator[tuple[str, str, bool]]:
    """The options in a configuration: name, value, and whether it is the name of a class."""
    if is_dataclass(value):
        yield path, type(value).__qualname__, True
        for field in fields(value):
            yield from _options(f"{path}.{field.name}", getattr(value, field.name))
    elif callable(value):
        is_class = isinstance(value, type)
        yield path, getattr(value, "__qualname__", type(value).__qualname__), is_class
    elif value is None or isinstance(value, str | int | float | tuple):
        yield path, str(value), False
    else:  # its text may hold an address, which differs from run to run
        yield path, type(value).__qualname__, False


def _numbers(first: int, stop: int) -> str:
    return str(first) if stop == first + 1 else f"{first} to {stop - 1}"


def _digest(values: Sequence[int] | None) -> str:
    return "none" if values is None else hashlib.sha256(str(values).encode()).hexdigest()[:8]
