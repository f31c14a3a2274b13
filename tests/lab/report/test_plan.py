"""The answer of a plan in sentences, its tables and its picture."""

from dataclasses import replace
from typing import Any

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from grawa.lab.planning.predict import Measured, Method, Variant, predict, smallest_tau
from grawa.lab.report.colours import method_colour
from grawa.lab.report.plan import intervals, plan_lines, plan_tables
from grawa.lab.report.plan_answer import plan_answer, plan_notes
from grawa.lab.report.plan_json import plan_json
from grawa.lab.report.plan_picture import plan_picture
from grawa.lab.simulate.network import NO_TIME, HostNetwork, Link, Network

MGRAWA = Method(
    name="mgrawa", round_work=0.0, sent_share=1.5, busiest_share=1.5, shares_gradients=False,
    row_length=0, codec_seconds={},
)  # fmt: skip
EASGD, LSGD = (replace(MGRAWA, name=name) for name in ("easgd", "lsgd"))
LSGD = replace(LSGD, sent_share=1.0, busiest_share=2.0)
DDP = replace(MGRAWA, name="data_parallel", shares_gradients=True)


def plan(seconds: float, *methods: Method) -> Measured:
    """A plan in which messages of a mean take so many steps of one second."""
    return Measured(
        step_seconds=1.0,
        samples=None,
        model_bytes=4e6,
        copy_seconds=0.0,
        network=Network(Link(6e6 / seconds, 0.0), "ring", 4),
        methods=methods,
        with_averaging=False,
    )


USE_DDP = "Synchronise every step: use DDP, "
ANSWERS: dict[str, tuple[Measured, float, str]] = {
    "slow link": (
        plan(20.0, MGRAWA, EASGD, DDP), 0.05,
        "Synchronise every 380 steps to lose at most 5% of the time, or every 20 with overlap, "
        "every 95 with int8, every 6 with both. DDP would run at 4.8% of full speed.",
    ),
    "thousands": (
        plan(999.0, MGRAWA), 0.05,
        "Synchronise every 18,981 steps to lose at most 5% of the time, or every 950 with overlap, "
        "every 4,746 with int8, every 239 with both.",
    ),
    "methods differ": (
        plan(20.0, MGRAWA, LSGD, EASGD, DDP), 0.5,
        "Synchronise every 20 steps to lose at most 50% of the time, or every 11 with overlap, "
        "every 5 with int8, every 3 with both. DDP would run at 4.8% of full speed. "
        "This is for mgrawa and easgd; see the tables for lsgd.",
    ),
    "every step with fewer bits": (
        plan(0.125, MGRAWA, DDP), 0.05,
        "Synchronise every 3 steps to lose at most 5% of the time, or every 2 with overlap, "
        "every step with int8, every step with both. DDP would run at 89% of full speed, or at up "
        "to 100% if it sends gradients during the backward pass: try that first.",
    ),
    "DDP hides a part": (
        plan(1.0, MGRAWA, DDP), 0.125,
        "Synchronise every 7 steps to lose at most 12.5% of the time, or every 2 with overlap, "
        "every 2 with int8, every 2 with both. DDP would run at 50% of full speed, or at up to "
        "75% if it sends gradients during the backward pass.",
    ),
    "fast link": (plan(0.04, MGRAWA, DDP), 0.05, f"{USE_DDP}which would run at 96% of full speed."),
    "fast link without DDP": (
        plan(0.04, MGRAWA), 0.05, f"{USE_DDP}as even rounds would lose at most 5% of the time then."
    ),
    "no method with rounds": (
        plan(2e6, DDP), 0.05, "DDP would run at less than 0.1% of full speed.",
    ),
    "a round that never ends": (
        plan(1e308, MGRAWA), 0.05,
        "No sync_every is so large that rounds would lose at most 5% of the time.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ANSWERS)
def test_the_answer_is_a_sentence(case: str) -> None:
    measured, most_lost, said = ANSWERS[case]
    assert " ".join(plan_answer(measured, most_lost)) == said
    assert plan_json(measured, most_lost)["answer"] == plan_answer(measured, most_lost)


def test_what_is_left_out_is_said() -> None:
    measured = plan(20.0, MGRAWA)
    assert any(note.startswith("Left out: ") for note in plan_notes(measured))
    whole = plan_notes(replace(measured, with_averaging=True))
    assert not any(note.startswith("Left out: ") for note in whole)


def printed(measured: Measured, most_lost: float = 0.05) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        for table in plan_tables(measured, most_lost):
            console.print(table)
    return capture.get()


def test_methods_with_equal_rows_share_one() -> None:
    said = [line.split() for line in printed(plan(20.0, MGRAWA, LSGD, EASGD, DDP)).splitlines()]
    assert ["mgrawa,", "easgd", "380", "20", "190", "95", "6", "18"] in said
    assert ["lsgd", "507", "27", "254", "127", "8", "24"] in said
    assert ["data_parallel", "5%"] in said


def test_tables_know_samples_only_if_they_are_given() -> None:
    measured = plan(20.0, MGRAWA)
    assert "Samples per second" not in printed(measured)
    assert plan_json(measured, 0.05)["measured"]["samples_per_step"] is None
    known = replace(measured, samples=32)
    assert "Samples per second" in printed(known)
    blocking = plan_json(known, 0.05)["methods"][0]["variants"]["blocking"]
    # Four workers make 32 samples in each of 4 steps, which take 24 s with the round.
    assert blocking["by_sync_every"]["4"]["samples_per_second"] == pytest.approx(4 * 32 * 4 / 24)
    assert blocking["smallest"] == 380


@pytest.mark.parametrize("seconds", [1e-9, 20.0, 28.0, 999.0, 1e9])
def test_tables_reach_what_is_asked_for_and_fit_into_80_characters(seconds: float) -> None:
    measured = plan(seconds, MGRAWA, replace(EASGD, name="easgd:pull=0.43:elasticity=0.9"), LSGD)
    taus = intervals(measured, 0.05)
    assert (taus[0], len(taus) <= 10, taus[-1] >= 512) == (1, True, True)
    found = [smallest_tau(measured, method, Variant(), 0.05) for method in measured.methods]
    assert taus[-1] >= max(tau or 0 for tau in found)
    said = printed(measured)
    assert max(map(len, said.splitlines())) <= 80
    assert "…" not in said


def test_hosts_without_an_inner_link_are_described() -> None:
    network = HostNetwork(Link(1e6, 0.0), "ring", 8, hosts=2, inner=NO_TIME)
    lines = plan_lines(replace(plan(1.0, MGRAWA), network=network), real=False)
    assert lines == [
        "8 workers, 1,000,000 parameters (4.0 MB), 1,000 ms a step",
        "between 2 hosts: 8mbit, ring",
        "inside a host of 4 workers: messages take no time",
    ]


def test_the_picture_shows_shares_of_full_speed_fastest_first() -> None:
    measured = plan(20.0, LSGD, MGRAWA, EASGD, DDP)
    figure = Figure()
    plan_picture(measured, 0.05).draw(figure)
    methods: Any
    variants: Any
    methods, variants = figure.axes
    labels = [text.get_text() for text in methods.get_legend().get_texts()]
    assert labels == [
        "mgrawa, easgd: 380", "lsgd: 507", "data_parallel",
        "100%: no communication", "95%: at most 5% lost",
    ]  # fmt: skip
    assert [text.get_text().partition(":")[0] for text in variants.get_legend().get_texts()] == [
        "topk", "int8 + overlap", "int8", "overlap", "bf16", "blocking", "100%", "95%",
    ]  # fmt: skip
    fastest, leader, *_ = methods.get_lines()
    taus, shares = fastest.get_data()
    expected = [predict(measured, MGRAWA, Variant(), tau).speed for tau in taus]
    assert list(shares) == pytest.approx(expected)
    # The colour is the method's, also where it has overlap or fewer bits.
    assert fastest.get_color() == method_colour("mgrawa")
    assert leader.get_color() == method_colour("lsgd")
    assert {line.get_color() for line in variants.get_lines()[:-2]} == {method_colour("lsgd")}
    assert methods.get_ylim() == (0.0, 1.05)


def test_lines_that_can_not_be_told_apart_are_one_in_the_picture() -> None:
    slower = replace(EASGD, round_work=0.2)
    figure = Figure()
    plan_picture(plan(20.0, MGRAWA, LSGD, slower, DDP), 0.05).draw(figure)
    methods: Any = figure.axes[0]
    labels = [text.get_text() for text in methods.get_legend().get_texts()]
    assert labels[:3] == ["mgrawa, easgd: 380 to 384", "lsgd: 507", "data_parallel"]
    assert methods.get_legend().get_title().get_text() == "smallest sync_every that reaches 95%"


def test_the_picture_of_ddp_alone_has_one_panel() -> None:
    figure = Figure()
    plan_picture(plan(20.0, DDP), 0.05).draw(figure)
    assert len(figure.axes) == 1
