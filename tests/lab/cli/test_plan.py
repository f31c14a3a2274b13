"""`grawa plan`, in this process and under torchrun."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from grawa.lab.cli.main import main
from grawa.lab.planning.links import measure_network
from grawa.lab.planning.measure import measure
from grawa.lab.simulate.network import Link
from tests.lab.cli.processes import Ended, environment, grawa
from tests.world import launched, results

OWN = """
import torch
def make():
    model = torch.nn.Linear(100, 100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(8, 100)
    def step():
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    return model, optimizer, step, 8
def wrong():
    return 3
"""


def plan(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *args])
    said = capsys.readouterr()
    return stop.value.code, said.out, said.err


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_task_is_planned_with_tables_a_file_and_a_picture(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    code, said, _ = plan(
        capsys, "digits", "--link", "100mbit:20ms", "--strategies", "lgrawa", "lsgd",
        "data_parallel", "--out", str(out), "--picture", str(picture),
    )  # fmt: skip
    assert code == 0
    assert said.startswith("Synchronise every ")
    for words in ("Samples per second", "Share of full speed", "Smallest sync_every", "int8"):
        assert words in said
    assert "Left out" not in said
    found: dict[str, Any] = json.loads(out.read_text())
    assert [method["name"] for method in found["methods"]] == ["lgrawa", "lsgd", "data_parallel"]
    shares = [method["sent_share"] for method in found["methods"]]
    # All rows and the mean to all; the leader's row to three, who share it out; as the first.
    assert shares == pytest.approx([1.5, 0.75, 1.5])
    assert found["measured"]["model_bytes"] == 4 * (64 * 64 + 64 + 64 * 10 + 10)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000


NUMBERS = ("--parameters", "124M", "--step-time", "300ms", "--link", "1gbit:1ms")


def test_numbers_take_a_tasks_place_and_nothing_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    with patch("grawa.lab.cli.plan.measure", side_effect=AssertionError("this measured")):
        code, said, _ = plan(capsys, *NUMBERS, "--out", str(out), "--picture", str(picture))
    assert code == 0
    words = " ".join(said.split())
    assert words.startswith(
        "Synchronise every 378 steps to lose at most 5% of the time, or every 20 with overlap, "
        "every 95 with int8, every 6 with both. DDP would run at 4.8% of full speed. This is for "
        "lgrawa, mgrawa, local_sgd, easgd and diloco; see the tables for lsgd. "
        "4 workers, 124,000,000 parameters (496.0 MB), 300 ms a step"
    )
    assert "Left out" in words
    found = json.loads(out.read_text())
    assert found["answer"][1] == "DDP would run at 4.8% of full speed."
    assert found["measured"]["with_averaging"] is False
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--dtype", "bfloat16"), "every 190 steps"),  # half the bytes, as long latencies
        (("--loss", "50%"), "every 20 steps to lose at most 50%"),
        (("--workers", "2"), "every 252 steps"),
        (("--hosts", "2x4"), "inside a host of 4 workers: messages take no time"),
        (("--batch-size", "8"), "Samples per second"),
        (("--strategies", "lsgd"), "every 420 steps"),
    ],
    ids=str,
)
def test_numbers_go_with_the_other_options(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    code, said, _ = plan(capsys, *NUMBERS, *options)
    assert code == 0
    assert words in " ".join(said.split())


def test_numbers_are_planned_without_heavy_packages() -> None:
    script = f"""
import sys
from grawa.lab.cli.main import main
try:
    main(["plan", *{NUMBERS}])
except SystemExit as stop:
    found = {{"matplotlib", "scipy", "sklearn", "torchvision", "jinja2"}} & set(sys.modules)
    sys.exit(stop.code or " ".join(found) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Synchronise every 378 steps")


def test_help_is_in_groups_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = plan(capsys, "--help")
    assert code == 0
    for group in ("model", "network", "task", "output"):
        assert f"\n{group}:\n" in said
    words = " ".join(said.split())
    assert "grawa plan --parameters 124M --step-time 300ms --link 1gbit:1ms" in words
    assert "None" not in words


def test_a_function_of_ones_own_is_planned(capsys: pytest.CaptureFixture[str], own: Path) -> None:
    code, said, _ = plan(
        capsys, "mine:make", "--link", "1gbit", "--workers", "8", "--strategies", "mgrawa"
    )
    assert code == 0
    assert "8 workers, 10,100 parameters" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("digits",), "give the link between workers, such as --link 100mbit:20ms"),
        ((), "give --parameters, --step-time and --link, as in `grawa plan --parameters 124M"),
        (("--parameters", "1M"), "give --step-time and --link, as in"),
        (NUMBERS[2:], "give --parameters, as in"),
        (("digits", *NUMBERS), "leave out either digits or --parameters and --step-time"),
        (("digits", *NUMBERS[4:], "--dtype", "float16"), "leave out either digits or --dtype"),
        ((*NUMBERS, "--parameters", "1.5"), "--parameters must be a whole number"),
        ((*NUMBERS, "--step-time", "300"), "--step-time must be a time with a unit"),
        ((*NUMBERS, "--step-time", "0s"), "--step-time must be positive"),
        ((*NUMBERS, "--data", "x"), "--data is for tasks only"),
        ((*NUMBERS, "--batch-size", "0"), "batch_size must be from 1 to"),
        ((*NUMBERS, "--strategies"), "--strategies: expected at least one argument"),
        (("digits", "--link", "5"), "write a link as bandwidth:latency"),
        (("digits", "--link", "1gbit", "--workers", "1"), "at least 2 workers"),
        (("digits", "--link", "1gbit", "--hosts", "1x1"), "at least 2 workers"),
        (("digits", "--link", "1gbit", "--hosts", "2x2", "--workers", "8"), "4 workers, not 8"),
        (("digits", "--link", "1gbit", "--loss", "200%"), "loss must be below 100%"),
        (("digits", "--link", "1gbit", "--loss", "x"), "loss must be a positive number"),
        (("digits", "--link", "1gbit", "--strategies", "best"), "there is no strategy 'best'"),
        (("nothing", "--link", "1gbit"), "there is no task 'nothing'"),
        (("cifar10", "--link", "1gbit", "--data", "nowhere"), "nowhere does not exist"),
        (("mine:make", "--link", "1gbit", "--data", "x"), "mine:make is a function of your own"),
        (("mine:absent", "--link", "1gbit"), "mine has no 'absent'"),
        (("mine:wrong", "--link", "1gbit"), "must return"),
    ],
    ids=str,
)
def test_bad_input_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], own: Path, args: tuple[str, ...], message: str
) -> None:
    code, _, said = plan(capsys, *args)
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert [path.name for path in own.glob("*") if path.is_file()] == ["mine.py"]


def quickly(*args: str | Path, **of_rank_1: str) -> Ended:
    """The command in one of several processes, with short measurements.

    Args:
        args: of every rank.
        of_rank_1: options that it has besides.
    """
    more = [word for pair in of_rank_1.items() for word in pair] if _rank() == 1 else []
    with (
        patch("grawa.lab.cli.plan.measure", partial(measure, least_seconds=0.0)),
        patch("grawa.lab.cli.plan.measure_network", partial(measure_network, exchange_seconds=0.0)),
    ):
        return grawa("plan", *args, *more)


def _rank() -> int:
    return int(os.environ["RANK"])


@pytest.mark.world
def test_both_links_are_measured_under_torchrun(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    args = ("digits", "--strategies", "mgrawa", "--hosts", "2x2", "--out", out)
    first, *others = results(launched(4, quickly, *args))
    assert [first.code, *(other.code for other in others)] == [0] * 4, first.err
    assert [other.out for other in others] == [""] * 3
    between = re.search(r"^between 2 hosts: (\S+), mesh \(measured\)$", first.out, re.MULTILINE)
    inside = re.search(r"^inside a host of 2 workers: (\S+) \(measured\)$", first.out, re.MULTILINE)
    assert between is not None
    assert inside is not None
    found = json.loads(out.read_text())["measured"]
    assert (found["workers"], found["hosts"]) == (4, 2)
    for text, kind in ((between[1], ""), (inside[1], "inner_")):
        link = Link.parse(text)
        assert link.bandwidth == pytest.approx(found[f"{kind}bandwidth"], rel=0.01)
        assert link.latency == pytest.approx(found[f"{kind}latency"], rel=0.01)
    options = f"--hosts 2x2 --topology mesh --link {between[1]} --inner-link {inside[1]}"
    assert f"\nas options: {options}\n" in first.out


@pytest.mark.world
def test_links_are_measured_for_a_model_in_numbers_too(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    numbers = ("--parameters", "1M", "--step-time", "1ms", "--strategies", "lsgd")
    first, other = results(launched(2, quickly, *numbers, "--out", out))
    assert (first.code, other.code, other.out) == (0, 0, ""), first.err
    link = re.search(r"^between workers: (\S+), mesh \(measured\)$", first.out, re.MULTILINE)
    assert link is not None
    found = json.loads(out.read_text())["measured"]
    assert found["bandwidth"] == pytest.approx(Link.parse(link[1]).bandwidth, rel=0.01)
    assert (found["workers"], found["with_averaging"]) == (2, False)


@pytest.mark.world
@pytest.mark.parametrize(
    ("args", "of_rank_1", "message"),
    [
        (("digits", "--hosts", "2x2"), {}, "2x2 hosts have 4 processes, and torchrun started 2"),
        (
            ("digits", "--workers", "8"),
            {},
            "between the 2 processes that torchrun started, and 8 workers",
        ),
        (("digits", "--inner-link", "1gbit"), {}, "--inner-link needs --link"),
        (
            ("digits",),
            {"--loss": "9%"},
            "options must be the same on every rank; those of ranks [1]",
        ),
        (("--parameters", "1M"), {}, "give --step-time, as in"),
        (("digits",), {"--data": "nowhere"}, "rank 1: task digits has no option 'data'"),
    ],
    ids=str,
)
def test_what_is_wrong_under_torchrun_is_said_once(
    args: tuple[str, ...], of_rank_1: dict[str, str], message: str
) -> None:
    first, other = results(launched(2, quickly, *args, **of_rank_1))
    assert (first.code, other.code) == (2, 2)
    assert message in first.err
    assert len(first.err.strip().splitlines()) == 1
    assert (other.out, other.err) == ("", "")
