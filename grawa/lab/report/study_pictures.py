"""Pictures of a study."""

from collections.abc import Sequence

from grawa.lab.experiments.study import Study
from grawa.lab.report.condition_pictures import condition_pictures
from grawa.lab.report.drawing import Picture
from grawa.lab.report.final_pictures import final_picture, knob_picture
from grawa.lab.report.outcomes import Outcome
from grawa.lab.report.tables import Unit


def study_pictures(
    study: Study, outcomes: Sequence[Outcome], unit: Unit
) -> dict[str, list[Picture]]:
    """Pictures of each condition; under "" those that show several conditions.

    Args:
        study: the study.
        outcomes: its outcomes, without populations that are shown together.
        unit: formats errors.

    Returns:
        Condition -> pictures.
    """
    found: dict[str, list[Picture]] = {"": []}
    if outcomes and study.kind == "ablate":
        found[""].append(knob_picture(study, outcomes, unit))
    if outcomes:
        found[""].append(final_picture(study, outcomes, unit))
    for number, condition in enumerate(study.conditions):
        own = [o for o in outcomes if o.condition == condition.name]
        found[condition.name] = list(condition_pictures(study, own, unit, number)) if own else []
    return found
