"""The strategies of `grawa plan` with their scores, and what a probe batch costs them."""

from dataclasses import replace

from grawa.errors import UserError
from grawa.lab.cli import names
from grawa.lab.cli.methods import method
from grawa.lab.experiments.score import ScoreChoice, probe_samples
from grawa.lab.planning.predict import Measured
from grawa.strategies.protocol import Strategy


def planned(text: str) -> Strategy:
    """The strategy written as in `grawa train`, or with its score: lgrawa:score=training."""
    strategy, score = _divided(text)
    made = names.strategy(strategy)
    if score is not None:
        ScoreChoice.parse(score).check(made, strategy)
    return made


def with_probes(measured: Measured) -> Measured:
    """The measurements with the time of probe batches, if it is known how long a sample takes."""
    if measured.samples is None:
        return measured
    per_sample = measured.step_seconds / measured.samples
    return replace(
        measured,
        methods=[
            replace(each, probe_seconds=per_sample * probe_samples(*_divided(each.name)))
            for each in measured.methods
        ],
    )


def _divided(text: str) -> tuple[str, str | None]:
    """A strategy, and the score that is written with it."""
    if ":score=" not in text:
        return text, None
    chosen = method(text)
    others = [*(chosen.options.keys() - {"score"}), *(["optimizer"] if chosen.optimizer else [])]
    if others:
        raise UserError(f"a plan does not know the option {min(others)!r} of {text}: leave it out")
    return chosen.strategy, str(chosen.options["score"])
