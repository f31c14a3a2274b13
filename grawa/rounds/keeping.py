"""The state of an engine: what it belongs to, and its return on all processes or none."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grawa.errors import UserError
from grawa.rounds.agreement import Agreement
from grawa.rounds.clock import Clock
from grawa.rounds.misfit import misfit
from grawa.rounds.origin import Origin, listed
from grawa.rounds.progress import Progress
from grawa.rounds.runner import Runner
from grawa.rounds.schedule import Timetable
from grawa.version import __version__
from grawa.workers.overwritten import Overwritten

FORMAT = 1
"""Version of what states hold; raised when an entry changes its meaning."""

_MODEL_ONLY = "or load the model only, and go on from it with a new Averager"


@dataclass(frozen=True)
class Keeper:
    """Saves and restores an engine's parts.

    Args:
        origin: what states of this engine belong to.
        overwritten: what the workers had before the start.
        agreement: lets all processes refuse together.
        runner: runs rounds.
        clock: times the workers.
        timetable: when rounds are due.
        progress: counts local steps.
        waiting: which hosted workers wait for a round; changed in place.
    """

    origin: Origin
    overwritten: Overwritten
    agreement: Agreement
    runner: Runner
    clock: Clock
    timetable: Timetable
    progress: Progress
    waiting: list[bool]

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        return {
            "format": FORMAT,
            "grawa": __version__,
            "origin": self.origin.saved(),
            "waiting": list(self.waiting),
            "progress": self.progress.state_dict(),
            "clock": self.clock.state_dict(),
            "timetable": self.timetable.state_dict(),
            "runner": self.runner.state_dict(),
        }

    def refusal(self, state: object, *, strict: bool) -> UserError | None:
        """Why a state can't be loaded here; changes nothing.

        Args:
            state: anything.
            strict: whether settings must be the same, too.

        Returns:
            The error; `None` if the state can be loaded.
        """
        try:
            own = self.state_dict()
            self._check(state, own, strict=strict)
        except UserError as error:
            first = self.agreement.first_worker
            return UserError(f"the saved state can't be loaded into worker {first}: {error}")
        return None

    def load(self, state: dict[str, Any], *, strict: bool) -> None:
        """Restores what `state_dict` returned, on all processes or on none; collective.

        Args:
            state: what was saved on this process.
            strict: whether settings must be the same.

        Raises:
            UserError: on every process, if one refuses, or the states don't belong together.
        """
        failure = self.refusal(state, strict=strict) or self.overwritten.uncertainty()
        lines = self.agreement.settle(failure, "" if failure else _moment(state))
        if len(set(lines)) > 1:
            raise UserError(
                "the processes' saved states are not of the same moment: "
                f"{_moments_apart(lines)}; load on every process what was saved together"
            )
        before = self.state_dict()
        try:
            self._put(state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            failure = UserError("the saved state is damaged: a value in it can't be used")
        try:
            self.agreement.settle(failure)
        except UserError:
            self._put(before)
            raise
        if any(self.runner.roll_call.counts.steps):
            self.overwritten.put_back()
            self.runner.remember_buffers(state["runner"]["buffers"])
        self.progress.restart(self.runner.roll_call.counts.steps)

    def _check(self, state: object, own: dict[str, Any], *, strict: bool) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("format"), int):
            raise UserError(
                "it is not what state_dict() of an Averager returned, or that of another version "
                f"of grawa: it is {_shown(state)}"
            )
        if state["format"] != FORMAT:
            raise UserError(
                f"it was saved by grawa {_word(state.get('grawa'))} in format {state['format']}, "
                f"and this is grawa {__version__}, which reads format {FORMAT}: use that version, "
                + _MODEL_ONLY
            )
        if not Origin.is_one(state.get("origin")):
            raise UserError("it is damaged: it does not say what it belongs to")
        self._check_origin(state["origin"], strict=strict)
        saved, here = ({k: v for k, v in of.items() if k not in _TOLD} for of in (state, own))
        if wrong := misfit(saved, here):
            raise UserError(f"it is damaged: {wrong}")

    def _check_origin(self, saved: Mapping[str, Any], *, strict: bool) -> None:
        fixed, settings = self.origin.differences(saved)
        if fixed:
            raise UserError(
                f"it was saved from another Averager ({listed(fixed)}): load it into the strategy "
                "it was saved from, with the same options and model, on each process its own, "
                + _MODEL_ONLY
            )
        if settings and strict:
            raise UserError(
                f"it was saved with other settings ({listed(settings)}): make the Averager as it "
                "was then, or pass strict=False to go on with the settings as they are here"
            )

    def _put(self, state: Mapping[str, Any]) -> None:
        self.runner.load_state_dict(state["runner"])
        self.clock.load_state_dict(state["clock"])
        self.timetable.load_state_dict(state["timetable"])
        self.waiting[:] = state["waiting"]
        self.progress.load_state_dict(state["progress"])


_MIXED = "saved so, workers would be mixed: use grawa", "integrations.DistributedState(averager)"

NOT_FOR_DCP = {_MIXED[0]: {_MIXED[1]: True}, ".".join(_MIXED): True}
"""Entries at which torch.distributed.checkpoint fails, since it flattens both to one name, which it
then tells. It would save one worker's values in place of each other's, without a word."""

_TOLD = ("format", "grawa", "origin", *NOT_FOR_DCP)
"""Entries that say what a state is."""


def _moment(state: Mapping[str, Any]) -> str:
    """What is the same on every process when states are saved together, as JSON."""
    runner = state["runner"]
    rounds = [fragment["rounds"] for fragment in runner["fragments"]]
    numbers = [rounds, runner["size"], runner["lr"], sorted(state["timetable"].items())]
    return json.dumps([runner["round"], hashlib.sha256(repr(numbers).encode()).hexdigest()])


def _moments_apart(lines: Sequence[str]) -> str:
    rounds = [json.loads(line)[0] for line in lines]
    if len(set(rounds)) > 1:
        return "they are after " + ", ".join(map(str, rounds)) + " rounds"
    return f"all are after round {rounds[0]}, but of different runs"


def _shown(state: object) -> str:
    if not isinstance(state, dict):
        return f"a {type(state).__name__}"
    names = [_word(name) for name in state]
    return "a dict with " + (", ".join(names[:3]) + (", ..." if names[3:] else "") or "no entries")


def _word(value: object) -> str:
    """A value in a message, whatever it may be."""
    return repr(value)[:40] if isinstance(value, str | int) else type(value).__name__
