"""The answer of `grawa plan` in sentences, and how far to trust it."""

from collections.abc import Sequence
from typing import NamedTuple

from grawa.lab.planning.predict import Measured, Method, Variant, predict, smallest_tau
from grawa.lab.report.console import in_words
from grawa.lab.report.plan import in_percent, joined_rows

_VARIANTS = {
    "": Variant(),
    " with overlap": Variant(overlap=True),
    " with int8": Variant(comm_dtype="int8"),
    " with both": Variant(comm_dtype="int8", overlap=True),
}
"""The options of rounds for which the answer names an interval."""

_EACH = "every step"


class Fit(NamedTuple):
    """How well plans fitted, from `benchmarks/results/network.json`, in percent or points."""

    lgrawa: float
    """Predicted share of full speed at 100 Mbit/s, sync_every=32."""
    ddp: float
    """The same for DDP."""
    blocking: float
    """The largest error of blocking rounds and of DDP at all rates."""
    overlap: float
    """The largest error with overlap."""
    waiting: float
    """The same where steps leave the processors to rounds, as on an accelerator."""


FITS = {True: Fit(65.5, 5.6, 6.2, 14.9, 2.3), False: Fit(67.1, 6.2, 7.5, 15.2, 2.7)}
"""Whether plans knew what workers compute in rounds -> how well they fitted."""

FOUND = (63.9, 6.0)
"""The measured shares of full speed of LGRAWA and of DDP."""


def percent(share: float) -> str:
    """A share in percent, with two digits below 10%.

    Returns:
        The text.

    >>> percent(0.964), percent(0.0563), percent(0.06), percent(1e-9)
    ('96%', '5.6%', '6%', 'less than 0.1%')
    """
    if share < 0.001:
        return "less than 0.1%"
    return f"{100 * share:.2g}%" if share < 0.0995 else f"{100 * share:.0f}%"


def plan_answer(measured: Measured, most_lost: float) -> list[str]:
    """How often to synchronise so that little time is lost, and how fast DDP would be.

    Args:
        measured: the measurements.
        most_lost: the fraction of the time that may be lost.

    Returns:
        Sentences.
    """
    ddp = next((method for method in measured.methods if method.shares_gradients), None)
    if ddp is None:
        return _intervals(measured, most_lost)
    now = predict(measured, ddp, Variant(), 1)
    if now.lost <= most_lost:
        speed = percent(now.speed)
        return [f"Synchronise every step: use DDP, which would run at {speed} of full speed."]
    sentences = _intervals(measured, most_lost)
    sentences.insert(1, _of_ddp(measured, ddp, most_lost))
    return sentences


def _intervals(measured: Measured, most_lost: float) -> list[str]:
    """The answer for the first method, and for those of which the same is true."""

    def words(method: Method) -> Sequence[str]:
        taus = [smallest_tau(measured, method, v, most_lost) for v in _VARIANTS.values()]
        return () if None in taus else [f"every {tau:,}" if tau != 1 else _EACH for tau in taus]

    groups = joined_rows({m.name: words(m) for m in measured.methods if not m.shares_gradients})
    if not groups:
        return []
    (every, same), *others = groups.items()
    lost = f"{in_percent(most_lost)} of the time"
    if not every:
        answer = f"No sync_every is so large that rounds would lose at most {lost}."
    elif every[0] == _EACH:
        answer = f"Synchronise every step: use DDP, as even rounds would lose at most {lost} then."
    else:
        blocking, *rest = [f"{text}{how}" for text, how in zip(every, _VARIANTS, strict=True)]
        answer = f"Synchronise {blocking} steps to lose at most {lost}, or {', '.join(rest)}."
    if not others:
        return [answer]
    differing = [name for _, names in others for name in names]
    return [answer, f"This is for {in_words(same)}; see the tables for {in_words(differing)}."]


def _of_ddp(measured: Measured, ddp: Method, most_lost: float) -> str:
    """How fast DDP would be, which may send gradients while the backward pass runs."""
    slow, fast = (predict(measured, ddp, Variant(overlap=o), 1) for o in (False, True))
    sentence = f"DDP would run at {percent(slow.speed)} of full speed"
    if f"{slow.speed:.0%}" == f"{fast.speed:.0%}":
        return f"{sentence}."
    hidden = f"up to {percent(fast.speed)} if it sends gradients during the backward pass"
    last = ": try that first" if fast.lost <= most_lost else ""
    return f"{sentence}, or at {hidden}{last}."


def plan_notes(measured: Measured) -> list[str]:
    """What the answer does not know, and how well such answers fitted.

    Args:
        measured: what they were made from.

    Returns:
        Sentences.
    """
    fit, (lgrawa, ddp) = FITS[measured.with_averaging], FOUND
    notes = [
        "Full speed is that without communication. What rarer rounds cost in accuracy is not "
        "predicted; `grawa compare` measures it."
    ]
    if not measured.with_averaging:
        unknown = ", and for a probe batch without --batch-size" if measured.samples is None else ""
        notes.append(
            "Left out: the time to compute averages and to encode bf16 or int8"
            f"{unknown}; `grawa plan TASK` measures it."
        )
    return [
        *notes,
        "How well such plans fitted (four hosts, 5.2M parameters, sync_every=32, "
        f"benchmarks/network.py): at 100 Mbit/s, {fit.lgrawa}% of full speed was predicted for "
        f"lgrawa and {fit.ddp}% for DDP; {lgrawa}% and {ddp}% were measured. From 20 Mbit/s to "
        f"1 Gbit/s, blocking rounds and DDP were off by at most {fit.blocking} points, rounds with "
        f"overlap by {fit.overlap}, or {fit.waiting} where training left the processors to them.",
    ]
