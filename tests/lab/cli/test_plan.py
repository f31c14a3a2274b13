"""`grawa plan`, in this process and under torchrun."""

import json
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.cli import main
from tests.lab.cli.processes import grawa
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
    for words in ("Samples per second", "Time lost in rounds", "Smallest sync_every", "int8"):
        assert words in said
    found: dict[str, Any] = json.loads(out.read_text())
    assert [method["name"] for method in found["methods"]] == ["lgrawa", "lsgd", "data_parallel"]
    shares = [method["sent_share"] for method in found["methods"]]
    # All rows and the mean to all; the leader's row to three, who share it out; as the first.
    assert shares == pytest.approx([1.5, 0.75, 1.5])
    assert found["measured"]["model_bytes"] == 4 * (64 * 64 + 64 + 64 * 10 + 10)
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert picture.stat().st_size > 20_000


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
        (("digits", "--link", "5"), "write a link as bandwidth:latency"),
        (("digits", "--link", "1gbit", "--workers", "1"), "at least 2 workers"),
        (("digits", "--link", "1gbit", "--loss", "200%"), "loss must be below 100%"),
        (("digits", "--link", "1gbit", "--loss", "x"), "loss must be a positive number"),
        (("digits", "--link", "1gbit", "--strategies", "best"), "there is no strategy 'best'"),
        (("nothing", "--link", "1gbit"), "there is no task 'nothing'"),
        (("cifar10", "--link", "1gbit", "--data", "nowhere"), "nowhere does not exist"),
        (("mine:make", "--link", "1gbit", "--data", "x"), "mine:make is a function of your own"),
        (("mine:absent", "--link", "1gbit"), "there is no 'mine:absent'"),
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


@pytest.mark.world
def test_the_link_is_measured_under_torchrun(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    args = ("plan", "digits", "--strategies", "mgrawa", "--out", out)
    first, other = results(launched(2, grawa, *args))
    assert (first.code, other.code) == (0, 0), first.err
    assert first.out.count("(measured), mesh") == 1
    assert other.out == ""
    found = json.loads(out.read_text())["measured"]
    assert found["workers"] == 2
    assert found["bandwidth"] > 1e6
    assert 0.0 < found["latency"] < 1.0
