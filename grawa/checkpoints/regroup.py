"""The state of an averager for other workers on its process than those it was saved with."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.errors import UserError


class Place(NamedTuple):
    """Where a worker's values are: in the state of which process, and in which row."""

    process: int
    row: int


class _Rows(NamedTuple):
    """Values that belong to the hosted workers, one row each.

    Args:
        dim: along which dimension of a tensor; lists have one entry for each.
        fresh: what a new worker has; `None` for the mean of the saved workers' values.
    """

    dim: int
    fresh: Any


_BY_WORKER: dict[tuple[str, ...], _Rows] = {
    ("waiting",): _Rows(0, fresh=False),
    ("progress", "seen"): _Rows(0, fresh=(0.0, 0.0)),
    ("runner", "attendance", "in_a_row"): _Rows(0, fresh=0),
    ("runner", "attendance", "in_total"): _Rows(0, fresh=0),
    ("runner", "attendance", "unfit_until"): _Rows(0, fresh=-torch.inf),
    ("runner", "attendance", "dropped"): _Rows(0, fresh=False),
    ("runner", "roll_call", "steps"): _Rows(0, fresh=None),
    ("runner", "roll_call", "new_steps"): _Rows(1, fresh=0),
    ("runner", "roll_call", "new_samples"): _Rows(1, fresh=0.0),
    ("runner", "roll_call", "losses", "sum"): _Rows(1, fresh=0.0),
    ("runner", "roll_call", "losses", "past"): _Rows(1, fresh=torch.nan),
    ("runner", "roll_call", "losses", "count"): _Rows(1, fresh=0),
    ("runner", "roll_call", "losses", "past_count"): _Rows(1, fresh=0),
    ("runner", "local_steps", "noting", "noted"): _Rows(0, fresh=None),
    ("runner", "local_steps", "drift", "owed"): _Rows(0, fresh=0.0),
}
"""Entries of a state, by their path, that have a value for each worker."""

_OF_SCORES = {
    "mean": _Rows(1, fresh=0.0),
    "weight": _Rows(1, fresh=0.0),
    "last": _Rows(0, fresh=None),
}
"""The same, by the last name of the path, in the states of scores."""

_LOST = _Rows(0, fresh=0.0)
"""What parameters of 16 bits owe to pulls that were too small for them."""

_TRACKER = ("runner", "roll_call", "tracker")
_FRAGMENTS = ("runner", "fragments")


class Regrouping:
    """Puts the state of a process together from those of others.

    Args:
        states: process -> its saved state. What is the same on all processes is taken from the
            first one.
        hosted: where each worker of this process was; `None` for a new one.
        everyone: where each of all workers was, numbered through; `None` for a new one.
        saved: where all saved workers were, if there are new ones.
        of_clock: entries of the clock's state with a value for each hosted worker.
        moved: whether rounds have moved the center, and what all know of it.
    """

    def __init__(
        self,
        states: Mapping[int, Any],
        hosted: Sequence[Place | None],
        everyone: Sequence[Place | None],
        saved: Sequence[Place],
        of_clock: Sequence[str],
        *,
        moved: bool = True,
    ) -> None:
        self._states, self._hosted, self._everyone = states, hosted, everyone
        self._saved, self._of_clock, self._moved = saved, of_clock, moved

    def state(self) -> dict[str, Any]:
        """The state.

        Returns:
            As a process saves it that has these workers.

        Raises:
            UserError: if it can't be divided, or is damaged.
        """
        try:
            found: dict[str, Any] = self._merged((), dict(self._states))
        except UserError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            raise UserError("its state is damaged") from None
        return found

    def _merged(self, path: tuple[str, ...], values: Mapping[int, Any]) -> Any:
        first = next(iter(values.values()))
        rule = self._rule(path)
        if rule is not None:
            return self._rows(rule, path, values)
        if path == ("runner", "buffers"):
            return {name: any(own[name] for own in values.values()) for name in first}
        if path == (*_FRAGMENTS, "compression") and first is not None:
            # Of what rounding has lost each process has a part that depends on its workers.
            reference = first["reference"] if self._moved else {}
            lost: dict[str, Any] = {"seat": None, "lost": {}, "lost_by_owner": {}, "teams": {}}
            return {**first, **lost, "reference": reference}
        if isinstance(first, dict):
            return {
                key: self._merged((*path, key), {p: own[key] for p, own in values.items()})
                for key in first
            }
        if path == _FRAGMENTS:
            parts = ({p: own[i] for p, own in values.items()} for i in range(len(first)))
            return [self._merged(path, part) for part in parts]
        if path[:3] == _TRACKER and isinstance(first, Tensor):
            raise UserError(
                f"the state of the score has a tensor {path[-1]!r} of which it is not known which "
                "part belongs to which worker: restore it with as many workers and processes"
            )
        return first

    def _rule(self, path: tuple[str, ...]) -> _Rows | None:
        if path[:3] == _TRACKER:
            return _OF_SCORES.get(path[-1])
        if path[:3] == (*_FRAGMENTS, "lost") and len(path) == 4:
            return _LOST
        if path[:1] == ("clock",) and path[-1] in self._of_clock:
            return _Rows(0, fresh=None)
        return _BY_WORKER.get(path)

    def _rows(self, rule: _Rows, path: tuple[str, ...], values: Mapping[int, Any]) -> Any:
        begun = {process: value for process, value in values.items() if value is not None}
        form = next(iter(begun.values()), None)
        if form is None:
            return None
        if isinstance(form, list) and form and isinstance(form[0], Tensor):  # one per fragment
            parts = ({p: own[i] for p, own in begun.items()} for i in range(len(form)))
            return [self._rows(rule, path, part) for part in parts]
        places = self._everyone if path[:2] == ("runner", "attendance") else self._hosted
        if not isinstance(form, Tensor):
            return [_fresh(rule, self._known(begun)) if p is None else begun[p.process][p.row]
                    for p in places]  # fmt: skip
        rows = {p: own.unbind(rule.dim) for p, own in begun.items()}
        made = [
            rows[p.process][p.row] if p is not None and p.process in rows
            else _fresh_row(rule, self._known(rows), next(iter(rows.values()))[0])
            for p in places
        ]  # fmt: skip
        return torch.stack(made, rule.dim)

    def _known(self, values: Mapping[int, Any]) -> list[Any]:
        return [values[p.process][p.row] for p in self._saved if p.process in values]


def _fresh(rule: _Rows, known: Sequence[Any]) -> Any:
    if rule.fresh is not None:
        return rule.fresh
    mean = sum(known) / len(known)
    return round(mean) if isinstance(known[0], int) else mean


def _fresh_row(rule: _Rows, known: Sequence[Tensor], like: Tensor) -> Tensor:
    if rule.fresh is not None:
        return torch.full_like(like, rule.fresh)
    return torch.stack(list(known)).mean(dim=0)
