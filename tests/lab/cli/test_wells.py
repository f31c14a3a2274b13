"""`grawa wells`, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from grawa.lab.cli.main import main

SHORT = ("wells", "--strategies", "mgrawa:pull=0.4,dp_sam", "--steps", "16", "--sync-every", "4")


def test_it_leaves_pictures_and_counts_and_repeats_them(command: Any, tmp_path: Path) -> None:
    done = command(*SHORT, "--seeds", "2", "--seed", "3", "--out", "out")
    assert (done.code, done.err) == (0, "")
    for words in (
        "seed 3",
        "over 2 seeds, from 3 on",
        "mgrawa:pull=0.4",
        "dp_sam",
        "out/paths.gif",
    ):
        assert words in done.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "paths.png",
        "paths.gif",
        "ends.json",
    }
    with Image.open(tmp_path / "out" / "paths.gif") as moving:
        assert len(list(ImageSequence.Iterator(moving))) > 10
    ends = json.loads((tmp_path / "out" / "ends.json").read_text())["runs"]
    assert [(run["method"], [end["seed"] for end in run["ends"]]) for run in ends] == [
        ("mgrawa:pull=0.4", [3, 4]),
        ("dp_sam", [3, 4]),
    ]
    assert ends[0]["config"]["strategy"] == "mgrawa:pull=0.4"
    assert ends[1]["config"]["optimizer"] == "sam"
    assert [run["config"]["stack_workers"] for run in ends] == ["on", "off"]
    again = command(*SHORT, "--seeds", "1", "--seed", "4", "--no-animate", "--out", "again")
    assert again.code == 0
    assert "over" not in again.out
    assert not (tmp_path / "again" / "paths.gif").exists()
    same = json.loads((tmp_path / "again" / "ends.json").read_text())["runs"]
    assert [run["ends"][0] for run in same] == [run["ends"][1] for run in ends]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--strategies", "mgrawa,grawa"), "there is no method 'grawa'"),
        (("--strategies", "mgrawa,"), "strategies must be names"),
        (("--strategies", "lsgd,lsgd"), "'lsgd' is given twice in strategies"),
        (("--seeds", "0"), "seeds must be at least 1"),
        (("--seed", "-1"), "seed must be at least 0"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--workers", "0"), "workers must be at least 1"),
        (("--sync-every", "0"), "sync_every must be a whole number, at least 1"),
        (("--lr", "0"), "lr must be positive"),
        (("--noise", "-1"), "noise must not be negative"),
        (("--noise", "nan"), "noise must be finite"),
        (("--options", "lr=1"), "lr can't be given in --options"),
        (("--options", "task=digits"), "task can't be given in --options"),
        (("--options", "guard"), "write options as name=value"),
        (("--out", "file/in"), "can't make the folder"),
    ],
)
def test_bad_input_is_one_line(
    command: Any, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").write_text("")
    done = command("wells", *args)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert message in done.err


def test_help_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Watch methods on a two-dimensional loss with flat and sharp" in capsys.readouterr().out
