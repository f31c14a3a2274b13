"""Converts options of runs and studies that were saved by earlier versions.

Four options set the score then, and `stack_workers` was a flag. Later the score had its option, but
mgrawa and lgrawa without one had training norms, not probe norms as now; and an outer momentum was
0.9 where none was named. What is saved today names both, so what names none is of such a version.
"""

import re
from collections.abc import Mapping
from typing import Any

from grawa.lab.experiments.usual_momentum import has_usual_momentum, with_momentum
from grawa.lab.experiments.usual_score import is_by_probe, with_options_of

_USUAL = {"norms": "training", "losses": "training", "weights_from": 1, "probe_size": 64}
"""The options that `score` has replaced, and their defaults."""

_GONE = {"hook_every"}
"""Options that nothing has replaced, since it is chosen by itself what they chose."""

_WITHIN = {"norms.decay": "score.decay", "loss.window": "score.window"}
"""The strategies' options that have a new name."""

_USUAL_STRATEGY = "lgrawa"
"""Of a run that names none."""

_FORMER_MOMENTUM = "0.9"
"""Of outer optimizers that named none."""

_ALWAYS_SAVED = {"strategy", "clock", "device", "fault", "keep_workers"}
"""Options that are always in the file of a saved run."""


def current_options(
    saved: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Converts saved options to the current ones.

    Args:
        saved: all options of a run, or changes to a run's options.
        base: for changes, the saved options to which they apply.

    Returns:
        The current options.

    >>> current_options({"strategy": "lsgd", "losses": "probe", "norms": "training"})
    {'strategy': 'lsgd', 'score': 'probe-loss'}
    >>> current_options({"lr": 0.1, "norms": "rms"}, {"strategy": "mgrawa"})
    {'lr': 0.1, 'score': 'rms'}
    >>> current_options({"lr": 0.1, "hook_every": 4})
    {'lr': 0.1}
    >>> current_options({"stack_workers": True})
    {'stack_workers': 'on'}
    """
    found = {name: value for name, value in saved.items() if name not in {*_USUAL, *_GONE}}
    if isinstance(found.get("strategy"), str):
        found["strategy"] = current_method(found["strategy"])
    if _USUAL.keys() & saved.keys():
        whole = {**(base or {}), **saved}
        score = _score(whole, str(whole.get("strategy", "")))
        if score is not None:
            found["score"] = score
    if isinstance(found.get("stack_workers"), bool):
        found["stack_workers"] = "on" if found["stack_workers"] else "off"
    return found


def current_method(text: str) -> str:
    """Converts a saved method, or strategy, to the current options.

    Returns:
        The text, unchanged if it has no old option.

    >>> current_method("mgrawa:norms=probe:weights_from=6:pull=1")
    'mgrawa:score=probe:score.from=6:pull=1'
    >>> current_method("lsgd:loss.window=8")
    'lsgd:score.window=8'
    """
    name, *parts = text.split(":")
    pairs = [part.partition("=") for part in parts]
    old = {key: value for key, equals, value in pairs if equals and key in _USUAL}
    score = _score(old, name) if old else None
    whole = [] if score is None else score.split(":")
    written = [f"score={whole[0]}", *(f"score.{option}" for option in whole[1:])] if whole else []
    kept: list[str] = [name]
    for key, equals, value in pairs:
        if key in old:
            kept += written
            written = []
        else:
            kept.append(f"{_WITHIN.get(key, key)}{equals}{value}")
    return ":".join(kept)


def current_text(text: str) -> str:
    """Converts the methods within a text, such as a command or the name of a table's row."""
    return re.sub(r"\w+(?::[\w.]+=[\w.-]+)+", lambda found: current_method(found[0]), text)


def with_saved_defaults(
    saved: Mapping[str, Any], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Converts the options of a saved run to the current ones, with the defaults that it had.

    Args:
        saved: as `current_options` has them; options that are the defaults may be missing.
        base: as `current_options` has them.

    Returns:
        The current options, with score and outer momentum by name.

    >>> with_saved_defaults({"strategy": "mgrawa:pull=1"})
    {'strategy': 'mgrawa:pull=1', 'score': 'training'}
    >>> with_saved_defaults({"strategy": "diloco"})
    {'strategy': 'diloco:outer.momentum=0.9'}
    """
    current = current_options(saved, base)
    whole = {**current_options(base or {}), **current}
    strategy = whole.get("strategy", _USUAL_STRATEGY)
    if _had_training_norms(whole):
        current["score"] = with_options_of(strategy, "training")
    if isinstance(strategy, str) and has_usual_momentum(strategy):
        current["strategy"] = with_momentum(strategy, _FORMER_MOMENTUM)
    return current


def is_saved(options: Mapping[str, Any]) -> bool:
    """Whether options are those of a saved run, and not a few that somebody has written."""
    return options.keys() >= _ALWAYS_SAVED or bool(_USUAL.keys() & options.keys())


def saved_text(text: str, options: Mapping[str, Any]) -> str:
    """Converts a saved text to the current options, where its method names what was the default.

    Args:
        text: begins with a method, or has one after a slash.
        options: of a run with this method.

    Returns:
        The text.

    >>> saved_text("test/lgrawa:pull=1/clean/0/0", {"strategy": "lgrawa:pull=1"})
    'test/lgrawa:score=training:pull=1/clean/0/0'
    >>> saved_text("diloco sync_every=4", {"strategy": "diloco", "sync_every": 4})
    'diloco:outer.momentum=0.9 sync_every=4'
    """
    current, saved = current_text(text), current_options(options)
    by_norms = _had_training_norms(saved)
    strategy = saved.get("strategy", _USUAL_STRATEGY)
    outer = isinstance(strategy, str) and has_usual_momentum(strategy)

    def named(found: re.Match[str]) -> str:
        method = found[0]
        if outer:
            method = with_momentum(method, _FORMER_MOMENTUM)
        name, colon, rest = method.partition(":")
        norms = ":score=training" if by_norms and is_by_probe(name) else ""
        return f"{name}{norms}{colon}{rest}"

    return re.sub(r"(?<![^/])[\w-]+(?::[^/ ]*)?(?=[ /]|$)", named, current)


def _had_training_norms(options: Mapping[str, Any]) -> bool:
    """Whether a run with these current options had training norms without naming them."""
    strategy = options.get("strategy", _USUAL_STRATEGY)
    return "score" not in options and isinstance(strategy, str) and is_by_probe(strategy)


def _score(old: Mapping[str, Any], strategy: str) -> str | None:
    """The score that the four options set; `None` if all are defaults."""
    norms, losses, start, size = (str(old.get(key, usual)) for key, usual in _USUAL.items())
    by_loss = strategy.startswith(("inverse_loss", "lsgd"))
    usual = "loss" if by_loss else "training"
    name = usual if norms == "training" else norms
    if losses == "probe":
        name = "probe-loss" if by_loss else name.replace("-times-loss", "-times-probe-loss")
    probes = "probe" in name
    written = [name]
    if probes and size != "64":
        written.append(f"size={size}")
    if start != "1":
        written.append(f"from={start}")
    if written == [usual]:
        return None
    if name == usual:  # the strategy's own options of its score still apply
        written[0] = with_options_of(strategy, name)
    return ":".join(written)
