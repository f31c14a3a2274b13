"""Tables of the evidence, in Markdown."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evidence_kept import Kept
from evidence_kinds import Kind
from evidence_studies import STUDIES, Maps
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.tuning import at_edge
from grawa.lab.report.drawing import Picture
from grawa.lab.report.final_pictures import final_picture, knob_picture
from grawa.lab.report.flat_tables import correlation_table
from grawa.lab.report.flats import Flat, flats_of
from grawa.lab.report.outcomes import Outcome, outcomes_of
from grawa.lab.report.pooled import Pooled, pooled_of, pooled_picture
from grawa.lab.report.statistics import Difference, Mean
from grawa.lab.report.study_flatness import flat_picture
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import LEVEL


@dataclass(frozen=True, kw_only=True)
class Read:
    """The results of a study, ready for tables."""

    name: str
    kept: Kept
    study: Study
    outcomes: Sequence[Outcome]
    flats: Sequence[Flat]
    pooled: Sequence[Pooled]
    unit: Unit

    @classmethod
    def of(cls, name: str, kept: Kept, baseline: str | None = None) -> "Read":
        """Reads stored results, with differences to the study's baseline or another method."""
        study = kept.study if baseline is None else replace(kept.study, baseline=baseline)
        outcomes = outcomes_of(study, kept.tested)
        return cls(
            name=name,
            kept=kept,
            study=study,
            outcomes=outcomes,
            flats=flats_of(study, kept.tested),
            pooled=pooled_of(study, outcomes),
            unit=Unit(kept.tested[0].metric),
        )

    def against(self, baseline: str) -> "Read":
        """The same results, with differences to another method."""
        return self.of(self.name, self.kept, baseline)

    def pictures(self) -> list[Picture]:
        """The pictures that the page shows."""
        made = []
        if self.study.kind == "ablate":
            made.append(knob_picture(self.study, self.outcomes, self.unit))
        elif self.pooled:
            made.append(pooled_picture(self.study, self.pooled, self.unit))
        else:
            made.append(final_picture(self.study, self.outcomes, self.unit))
        return made + ([flat_picture(self.study, self.flats)] if self.flats else [])


def kind_of(read: Read) -> Kind:
    """The purpose of a study."""
    return STUDIES[read.name].kind


def page_of(read: Read) -> str:
    """A study's page: its command, tables and pictures."""
    asked = STUDIES[read.name]
    parts = [
        f"# {asked.title}",
        f"The findings are in [{asked.page.replace('-', ' ')}](../{asked.page}.md).",
        f"    {' '.join(_quoted(word) for word in asked.command)}",
        _spent(read),
    ]
    if read.pooled:
        parts += [_pooled_table(read)]
    elif read.study.kind == "ablate":
        parts += [_knob_table(read)]
    else:
        parts += [_methods_table(read), _flat_table(read), _correlations(read)]
    parts += [_chosen(read), _at_edges(read)]
    parts += [
        f"![{picture.title}](../{read.name}-{picture.name}.png)\n\n{picture.caption}"
        for picture in read.pictures()
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _quoted(word: str) -> str:
    return f'"{word}"' if " " in word else word


def _spent(read: Read) -> str:
    failed = sum(bool(result.failure) for result in read.kept.tested)
    commit = (read.kept.environment["git"] or "unknown")[:7]
    return (
        f"{read.kept.runs:,} runs, {read.kept.seconds / 60.0:.0f} minutes of a core, of commit "
        f"`{commit}`; {failed} of the compared runs failed."
    )


def _chosen(read: Read) -> str:
    """The setting of each method that was chosen by tuning."""
    texts = []
    for arm in read.study.arms:
        if len(arm.possible) == 1:
            continue
        common = set.intersection(*({*_options(setting)} for setting in arm.possible))
        tests = (result for result in read.kept.tested if result.arm == arm.name)
        picked = [arm.possible[at] for at in sorted({result.setting for result in tests})]
        own = [" ".join(o for o in _options(setting) if o not in common) for setting in picked]
        texts.append(f"{arm.name} {' or '.join(own)}")
    return f"Chosen: {'; '.join(texts)}." if texts else ""


def _options(setting: Mapping[str, Any]) -> list[str]:
    """A setting's options, those of its strategy one by one."""
    _, *own = str(setting.get("strategy", "")).split(":")
    rest = {name: value for name, value in setting.items() if name != "strategy"}
    return own + [f"{n}={v:g}" if isinstance(v, float) else f"{n}={v}" for n, v in rest.items()]


def _at_edges(read: Read) -> str:
    """Methods whose chosen learning rate is at an edge of the grid, so might be improved."""
    edges = (result for result in read.kept.tested if at_edge(read.study, result))
    found = dict.fromkeys(f"{r.arm} ({r.config['lr']:g})" for r in edges)
    return f"Learning rate at an edge of those tried: {', '.join(found) or 'none'}."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _methods_table(read: Read) -> str:
    """Errors of all methods under all conditions."""
    conditions = [condition.name for condition in read.study.conditions]
    by_place = {(o.arm, o.condition): o for o in read.outcomes}
    rows = [
        [arm.name, *(_error(by_place[arm.name, name], read.unit) for name in conditions)]
        for arm in read.study.arms
    ]
    return (
        markdown([f"{read.unit.label}, mean ± SE", *conditions], rows)
        + f"\n\nBold: differs from {read.study.baseline} (paired by seed, Holm over the table, "
        f"p < {LEVEL}); down: lower error than {read.study.baseline}, up: higher."
    )


def _error(outcome: Outcome, unit: Unit) -> str:
    if outcome.end is None:
        return "failed"
    text = unit.mean(outcome.end)
    if outcome.failed:
        text += f" ({outcome.failed} failed)"
    if outcome.difference and outcome.corrected < LEVEL:
        return f"**{text}** {'up' if outcome.difference.mean > 0.0 else 'down'}"
    return text


def _flat_table(read: Read) -> str:
    """Flatness of all methods under the condition clean."""
    flats = [flat for flat in read.flats if flat.condition == read.study.measured[0]]
    if not flats:
        return ""
    measures = ("loss", "trace", "trace / loss", "eigenvalue", "rise at 0.5", "inverse mean valley")
    rows = [
        [
            flat.arm,
            _gap(flat.values["gap"].values(), read.unit),
            *(_typical(list(flat.values.get(name, {}).values())) for name in measures),
            _ratio(flat.ratio, flat.corrected),
        ]
        for flat in flats
    ]
    head = [
        f"{flats[0].condition}: method",
        "gap",
        *measures,
        f"trace over {read.study.baseline}'s",
    ]
    return markdown(head, rows)


def _correlations(read: Read) -> str:
    """Kendall's tau of each measure with the generalisation gap, clean and over all conditions."""
    if not read.flats:
        return ""
    table = correlation_table(read.study, read.flats)
    found: dict[str, dict[str, str]] = {}
    for measure, group, tau, interval, *_ in table.rows:
        text = tau.text if tau.text == "-" else f"{tau.text} ({interval.text})"
        found.setdefault(measure.text, {})[group.text] = text
    groups = read.study.measured[:1]
    if len(read.study.measured) > 1:
        groups.append("all conditions")
    rows = [[measure, *(by[group] for group in groups)] for measure, by in found.items()]
    return markdown(["Kendall's tau with the gap (95% CI)", *groups], rows)


def _gap(gaps: Any, unit: Unit) -> str:
    values = list(gaps)
    return unit.text(sum(values) / len(values)) if values else "-"


def _typical(values: list[float]) -> str:
    """The geometric mean, if all are positive."""
    if not values:
        return "-"
    if min(values) <= 0.0:
        return f"{sum(values) / len(values):.3g} (mean)"
    return f"{math.exp(sum(map(math.log, values)) / len(values)):.3g}"


def _ratio(ratio: Difference | None, corrected: float) -> str:
    if ratio is None:
        return "-"
    text = f"{math.exp(ratio.mean):.2f} ({math.exp(ratio.low):.2f} to {math.exp(ratio.high):.2f})"
    return f"**{text}**" if corrected < LEVEL else text


def _knob_table(read: Read) -> str:
    """Errors of all methods at all values of the knob."""
    values = list(dict.fromkeys(arm.value for arm in read.study.arms))
    methods = list(dict.fromkeys(arm.method for arm in read.study.arms))
    parts = []
    for condition in read.study.conditions:
        by_arm = {o.arm: o for o in read.outcomes if o.condition == condition.name}
        by_place = {(a.method, a.value): by_arm[a.name] for a in read.study.arms}
        rows = [
            [method, *(_error(by_place[method, value], read.unit) for value in values)]
            for method in methods
        ]
        head = [f"{condition.name}: {read.unit.label}", *(f"{read.study.knob} {v}" for v in values)]
        parts.append(markdown(head, rows))
    note = (
        f"Bold: differs from the same method at {read.study.knob} {read.study.baseline} (Holm, "
        f"p < {LEVEL})."
    )
    return "\n\n".join([*parts, note])


def _pooled_table(read: Read) -> str:
    """Errors over random populations, and differences to GRAWA and to its controls."""
    baselines = [read.study.baseline, *STUDIES[read.name].controls]
    apart = {name: {one.arm: one for one in read.against(name).pooled} for name in baselines}
    rows = []
    for one in read.pooled:
        cells = [_apart(apart[name][one.arm], read.unit) for name in baselines]
        rows.append([one.arm, read.unit.mean(one.end), *cells, str(one.failed)])
    head = [
        "method", f"{read.unit.label}, mean ± SE",
        *(f"minus {name}" for name in baselines), "failed",
    ]  # fmt: skip
    return markdown(head, rows) + (
        f"\n\nMean differences over {len(read.study.populations)} populations, each of them one "
        "observation, 95% CI, and in how many the error is higher. Bold: Holm over the column, "
        f"p < {LEVEL}."
    )


def maps_table(reads: Sequence[Read], of: Maps) -> str:
    """Differences to a method in all maps of a kind, side by side.

    Args:
        reads: of all studies; those of other kinds are ignored.
        of: the maps, and the method with which all are compared.

    Returns:
        The table, with all methods that are in all of these maps.
    """
    maps = [read for read in reads if kind_of(read) is of.kind]
    return _side_by_side(
        of.baseline, [(read, _of_map(read), read.against(of.baseline).pooled) for read in maps]
    )


def link_table(reads: Sequence[Read], condition: str) -> str:
    """Differences to LocalSGD over a slow link, on all tasks with this condition, side by side."""
    columns = [
        (read, f"{read.name.removeprefix('link-')}: {_points(read)}", outcomes)
        for read, outcomes in on_a_link(reads, condition)
    ]
    return _side_by_side(columns[0][0].study.baseline, columns)


def on_a_link(reads: Sequence[Read], condition: str) -> list[tuple[Read, list[Outcome]]]:
    """The studies over a slow link that have this condition, and all methods under it."""
    found = (
        (read, [one for one in read.outcomes if one.condition == condition])
        for read in reads
        if kind_of(read) is Kind.LINK
    )
    return [(read, outcomes) for read, outcomes in found if outcomes]


def _side_by_side(
    baseline: str, columns: Sequence[tuple[Read, str, Sequence[Outcome | Pooled]]]
) -> str:
    """A table of differences, with a column for each study: its results, heading and methods."""
    cells = [
        {
            common_name(one.arm): _change(one.difference, one.corrected, read.unit)
            for one in methods
            if one.difference is not None
        }
        for read, _, methods in columns
    ]
    everywhere = [name for name in cells[0] if all(name in column for column in cells)]
    rows = [[name, *(column[name] for column in cells)] for name in everywhere]
    first = [read.unit.mean(end_of(baseline, methods)) for read, _, methods in columns]
    head = [f"[{heading}](tables/{read.name}.md)" for read, heading, _ in columns]
    return markdown([f"minus {baseline} (95% CI)", *head], [[f"{baseline}: error", *first], *rows])


def end_of(method: str, methods: Sequence[Outcome | Pooled]) -> Mean:
    """The error of one of these methods."""
    (end,) = (one.end for one in methods if one.arm == method)
    assert end is not None, f"runs of {method} have ended"
    return end


def _of_map(read: Read) -> str:
    found = re.fullmatch(r"(?:full-pull|[a-z]+)-(.+)-(\d+)", read.name)
    assert found is not None
    task, workers = found.groups()
    return f"{task}, {workers} workers: {_points(read)}"


def _points(read: Read) -> str:
    """The unit of a difference."""
    return read.unit.points.strip() or read.unit.metric


def common_name(arm: str) -> str:
    """A method's name without the round from which weights count: half of a task's rounds."""
    return re.sub(r"score.from=\d+", "score.from=middle", arm)


def _change(difference: Difference, corrected: float, unit: Unit) -> str:
    """A difference and its interval, bold if it holds after correction."""
    text = f"{unit.change(difference)} ({unit.interval(difference)})"
    return f"**{text}**" if corrected < LEVEL else text


def _apart(one: Pooled, unit: Unit) -> str:
    """A difference over populations."""
    if one.difference is None:
        return "-"
    change = _change(one.difference, one.corrected, unit)
    return f"{change}, {one.higher} of {one.difference.number}"
