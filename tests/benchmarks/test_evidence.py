"""The tables of the evidence are what the kept results say."""

import json
import re
from pathlib import Path

import pytest

import evidence
from evidence_studies import MAPS, STUDIES
from grawa.errors import UserError

PAGE, OVERVIEW = Path("docs/evidence.md"), Path("docs/results.md")


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tables of a few small studies were made anew; the pages themselves stay."""
    before = PAGE.read_bytes(), OVERVIEW.read_bytes()
    out = tmp_path_factory.mktemp("evidence")
    evidence.main(["--toy", "--out", str(out)])
    assert (PAGE.read_bytes(), OVERVIEW.read_bytes()) == before
    return out


def _between_marks(page: Path, name: str) -> str:
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->", text, re.S)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", evidence.SMALL)
def test_kept_results_make_the_pages_tables_again(name: str, copies: Path) -> None:
    table = _between_marks(copies / PAGE.name, name)
    assert table == _between_marks(PAGE, name)
    pictures = re.findall(r"\]\((evidence/.*?\.png)\)", table)
    assert pictures
    assert all((copies / picture).stat().st_size > 0 for picture in pictures)


def test_claims_are_judged_one_by_one(copies: Path) -> None:
    table = _between_marks(copies / PAGE.name, "claims")
    verdicts = re.findall(r"^\| (\d)\. .*? \| \*\*([a-z ]+)\*\*", table, re.M)
    assert [number for number, _ in verdicts] == ["1", "2", "3", "4", "5", "6"]
    assert {verdict for _, verdict in verdicts} <= {
        *("supported", "partly", "not supported", "contradicted"),
    }
    assert table != _between_marks(PAGE, "claims"), "it is made from these few studies"


@pytest.mark.parametrize("name", MAPS)
def test_maps_compare_all_to_the_baseline(name: str, copies: Path) -> None:
    table = _between_marks(copies / PAGE.name, name)
    first, _, baseline, *rows = table.splitlines()
    assert first.startswith(f"| minus {MAPS[name].baseline} ")
    assert baseline.startswith(f"| {MAPS[name].baseline}: error | ")
    assert len(rows) >= len(MAPS[name].overview)
    if MAPS[name].overview:
        shown = _between_marks(copies / OVERVIEW.name, name).splitlines()
        assert set(shown[3:]) <= set(rows)


def test_figures_are_of_the_studies_that_were_read(copies: Path) -> None:
    found = json.loads((copies / "evidence.json").read_text(encoding="utf-8"))
    assert tuple(found["studies"]) == tuple(n for n in STUDIES if n in evidence.SMALL)
    for study in found["studies"].values():
        assert study["runs"] > 0
        assert study["outcomes"] or study["populations"]


def test_a_study_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        evidence.main(["--only", "unknown"])
    assert ended.value.code == 2
    assert "unknown" in capsys.readouterr().err


def test_marks_that_are_missing_are_told() -> None:
    assert evidence.replaced("a\n<!-- x -->\nold\n<!-- end x -->\nb", "x", "new") == (
        "a\n<!-- x -->\nnew\n<!-- end x -->\nb"
    )
    with pytest.raises(UserError, match="no marks for y"):
        evidence.replaced("a", "y", "new")
