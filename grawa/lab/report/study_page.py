"""The page of a study, made from its folder."""

from collections.abc import Sequence

from grawa.errors import UserError
from grawa.lab.experiments.environment import read_environment
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.study_folder import Found, StudyFolder
from grawa.lab.experiments.tuning import at_edge, count
from grawa.lab.report.answer import answer_of
from grawa.lab.report.condition_pictures import curve_pictures
from grawa.lab.report.flat_tables import correlation_table, flat_tables
from grawa.lab.report.flats import Flat, flats_of
from grawa.lab.report.outcomes import Outcome, outcomes_of
from grawa.lab.report.page import Page, Section, facts_of
from grawa.lab.report.pooled import (
    Pooled,
    in_populations,
    pooled_of,
    pooled_picture,
    pooled_table,
    pooled_verdicts,
)
from grawa.lab.report.progress import duration_text
from grawa.lab.report.study_flatness import flat_picture, flat_verdicts
from grawa.lab.report.study_pictures import study_pictures
from grawa.lab.report.study_tables import condition_table, cost_table, grid_table, settings_table
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import verdicts_of


def study_page(folder: StudyFolder) -> Page:
    """The page of a study, also of one that has not finished.

    Args:
        folder: the study's folder.

    Returns:
        The page.

    Raises:
        UserError: if no trial of the comparison has finished yet.
    """
    study, found = folder.study(), folder.found()
    tests = [result for result in found.results if result.role == "test"]
    if not tests:
        raise UserError(
            f"{folder.path}: no trial of the comparison has finished; start the same command again"
        )
    unit = Unit(tests[0].metric)
    try:
        outcomes = outcomes_of(study, found.results)
    except UserError as error:
        raise UserError(f"{folder.path}: {error}") from None
    flats, pooled = flats_of(study, tests), pooled_of(study, outcomes)
    about, unread = read_environment(folder.path)
    return Page(
        title=f"{study.base.task}: {_what(study)}",
        answer=answer_of(
            study,
            outcomes,
            pooled,
            unit,
            complete=len(found.results) >= count(study, found.results),
        ),
        subtitle=_subtitle(study),
        notices=_notices(study, found) + folder.damaged() + unread,
        verdicts={
            **pooled_verdicts(study, pooled, unit),
            **verdicts_of(study, outcomes, unit),
            **flat_verdicts(study, flats),
        },
        sections=_sections(study, outcomes, pooled, flats, found, unit),
        facts={**facts_of(about), "computing time": _computing(found), **_base(study)},
    )


def _what(study: Study) -> str:
    if study.kind == "ablate":
        return f"effect of {study.knob}"
    return f"{len(study.arms)} methods compared"


def _subtitle(study: Study) -> str:
    seeds, base = len(study.seeds), study.base
    parts = {
        "workers": f"{base.workers} workers",
        "seeds": f"{seeds} {'seed' if seeds == 1 else 'seeds'}",
        "sync_every": f"a round every {base.sync_every} local steps",
    }
    fixed = ", ".join(text for name, text in parts.items() if name != study.knob)
    return (
        f"{fixed}; compared at equal {study.axis}. Data, their order and initial weights are the "
        "same for all methods of a seed."
    )


def _notices(study: Study, found: Found) -> list[str]:
    notices = []
    total = count(study, found.results)
    if len(found.results) < total:
        notices.append(
            f"{len(found.results)} of {total} trials are done; the same command continues "
            "the study."
        )
    if found.dropped:
        notices.append(f"{found.dropped} lines of trials.jsonl are incomplete and were ignored.")
    failed = [r for r in found.results if r.failure and r.role == "test"]
    if failed:
        first = failed[0]
        notices.append(
            f"{len(failed)} runs failed; the first one, {first.key}: {first.failure}. Failed runs "
            "are not in the means, so the means of their methods look better than they are."
        )
    return notices + _at_edges(study, found)


def _at_edges(study: Study, found: Found) -> list[str]:
    """For which arms a better learning rate may lie beyond those that were tried."""
    tests = [r for r in found.results if r.role == "test" and study.tune_seeds]
    arms = dict.fromkeys(r.arm for r in tests if at_edge(study, r))
    if not arms:
        return []
    return [
        f"The best learning rate is at the edge of all that were tried for {', '.join(arms)}: one "
        "beyond it might be better. Use another --lr, or a larger --grow."
    ]


def _sections(
    study: Study,
    outcomes: Sequence[Outcome],
    pooled: Sequence[Pooled],
    flats: Sequence[Flat],
    found: Found,
    unit: Unit,
) -> list[Section]:
    alone = [o for o in outcomes if not (pooled and o.condition in study.populations)]
    pictures = study_pictures(study, alone, unit)
    sections = []
    if pooled:
        together = in_populations(study, outcomes)
        shown = [pooled_picture(study, pooled, unit), *curve_pictures(study, together, unit)]
        table = pooled_table(study, pooled, unit)
        sections.append(Section(title=together[0].condition, pictures=shown, tables=[table]))
    if pictures[""]:
        sections.append(Section(title="At a glance", pictures=pictures[""]))
    for condition in study.conditions:
        own = [o for o in outcomes if o.condition == condition.name]
        if own:
            table = condition_table(study, condition, own, unit)
            of_many = bool(pooled) and condition.is_population
            sections.append(
                Section(
                    title=condition.name,
                    pictures=pictures[condition.name],
                    tables=[table],
                    folded=of_many,
                )
            )
    if flats:
        tables = [*flat_tables(study, flats, unit), correlation_table(study, flats)]
        ends = [flat_picture(study, flats)]
        sections.append(Section(title="Flatness", pictures=ends, tables=tables))
    how = [cost_table(study, outcomes), settings_table(study, found.results)]
    sections.append(Section(title="How they were run", tables=how))
    if study.tune_seeds:
        grid = grid_table(study, found.results, unit)
        sections.append(Section(title="Tuning", tables=[grid], folded=True))
    return sections


def _computing(found: Found) -> str:
    seconds = sum(result.seconds for result in found.results)
    return f"{duration_text(seconds)} in {len(found.results)} trials"


def _base(study: Study) -> dict[str, str]:
    base = study.base
    time = f"{base.step_time} for a local step, messages over {base.link}, {base.topology}"
    own = {"strategy", "seed", "fault"}
    values = {name: value for name, value in base.as_toml().items() if name not in own}
    options = ", ".join(f"{name} {value}" for name, value in values.items())
    return {"modelled time": time, "all runs": options}
