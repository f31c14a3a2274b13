"""The tables of the evidence are what the kept results say."""

import json
import re
from pathlib import Path

import pytest

import evidence
from evidence_kinds import Kind
from evidence_studies import MAPS, ON_A_LINK, STUDIES
from grawa.errors import UserError

PAGE, FOLDER = Path("docs/evidence.md"), Path("docs/evidence")
LINK = "local_sgd", Kind.LINK
PAGES = (PAGE, *sorted(FOLDER.glob("*.md")))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tables of a few small studies were made anew; the pages themselves stay."""
    before = [page.read_bytes() for page in PAGES]
    out = tmp_path_factory.mktemp("evidence")
    evidence.main(["--toy", "--out", str(out)])
    assert [page.read_bytes() for page in PAGES] == before
    return out


def _between_marks(folder: Path, name: str) -> str:
    """The table of this name, from the page of the evidence that has it."""
    texts = [page.read_text(encoding="utf-8") for page in (folder / "evidence").glob("*.md")]
    found = [re.search(rf"<!-- {name} -->\n(.*?)<!-- end {name} -->", text, re.S) for text in texts]
    (table,) = filter(None, found)
    return table[1]


@pytest.mark.parametrize("name", evidence.SMALL)
def test_kept_results_make_the_pages_of_tables_again(name: str, copies: Path) -> None:
    page = (copies / "evidence" / "tables" / f"{name}.md").read_text(encoding="utf-8")
    assert page == (FOLDER / "tables" / f"{name}.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\(\.\./(.*?\.png)\)", page)
    assert pictures
    assert all((copies / "evidence" / picture).stat().st_size > 0 for picture in pictures)


def test_the_first_page_has_a_picture_of_its_answers(copies: Path) -> None:
    assert "](evidence/answers.png)" in PAGE.read_text(encoding="utf-8")
    assert (copies / "evidence" / "answers.png").stat().st_size > 0


def test_every_study_has_a_page_and_every_page_a_study() -> None:
    tables = {path.stem for path in (FOLDER / "tables").glob("*.md")}
    assert tables == set(STUDIES)
    linked = {
        name
        for page in PAGES
        for name in re.findall(r"\(tables/([\w-]+)\.md\)", page.read_text(encoding="utf-8"))
    }
    assert linked == tables


def test_claims_are_judged_one_by_one(copies: Path) -> None:
    table = _between_marks(copies, "claims")
    verdicts = re.findall(r"^\| (\d)\. .*? \| \*\*([a-z ]+)\*\*", table, re.M)
    assert [number for number, _ in verdicts] == ["1", "2", "3", "4", "5", "6"]
    assert {verdict for _, verdict in verdicts} <= {
        *("supported", "partly", "not supported", "contradicted"),
    }
    assert table != _between_marks(Path("docs"), "claims"), "it is made from these few studies"


@pytest.mark.parametrize("name", [*MAPS, *ON_A_LINK])
def test_tables_over_tasks_compare_all_to_the_baseline(name: str, copies: Path) -> None:
    baseline, kind = (MAPS[name].baseline, MAPS[name].kind) if name in MAPS else LINK
    first, _, own, *rows = _between_marks(copies, name).splitlines()
    assert first.startswith(f"| minus {baseline} ")
    assert own.startswith(f"| {baseline}: error | ")
    (asked,) = (STUDIES[study] for study in evidence.SMALL if STUDIES[study].kind is kind)
    methods = asked.words[asked.words.index("--strategies") + 1].split(",")
    assert len(rows) == len(methods) - 1


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
