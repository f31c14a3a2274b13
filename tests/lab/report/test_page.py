"""Pages, from folders alone; and one of them in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from grawa.lab.cli.main import main
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.report.colours import INK
from grawa.lab.report.flatness import flatness_tables
from tests.lab.experiments.studies import result, study

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WEIGHTS = {
    "rounds": [1, 2, 3],
    "workers": [[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]],
    "groups": [[0.8, 0.4], [0.2, 0.6]],
}


def report(*args: str | Path) -> object:
    with pytest.raises(SystemExit) as stop:
        main(["report", *map(str, args)])
    return stop.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two methods, two conditions and three seeds, whose results are made up."""
    path = tmp_path_factory.mktemp("pages") / "study"
    asked = study(seeds=(0, 1, 2))
    folder = StudyFolder.begin(path, asked)
    for condition in asked.conditions:
        for seed in asked.seeds:
            for name, end in (("mgrawa", 0.10), ("uniform", 0.20)):
                folder.append(
                    result(
                        name,
                        [0.9, 0.5, end + 0.01 * seed * seed],
                        seed=seed,
                        condition=condition.name,
                        weights=WEIGHTS if name == "mgrawa" else None,
                        group_names=("0.weight", "0.bias") if name == "mgrawa" else (),
                    )
                )
    assert report(path) == 0
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a worker that goes wrong."""
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "train", "digits:train_size=200", "--processes", "1", "--steps", "24",
                "--sync-every", "4", "--evaluate-every", "2", "--fault", "nan:1@6",
                "--out", str(path),
            ]
        )  # fmt: skip
    assert stop.value.code == 0
    (path / "model.safetensors").unlink()  # what is reported is in the other files
    return path


class Links(HTMLParser):
    """What a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "xlink:href"} and value and not value.startswith("#"):
                self.loaded.append(value)


def test_a_page_is_one_file_without_a_network(made: Path) -> None:
    text = (made / "report.html").read_text()
    links = Links()
    links.feed(text)
    assert links.loaded
    assert all(link.startswith("data:") for link in links.loaded)
    assert not re.search(r"@import|url\((?!#)", text)


def test_a_page_says_how_to_get_its_figures(made: Path) -> None:
    text = (made / "report.html").read_text()
    about = json.loads((made / "environment.json").read_text())
    for fact in (about["time"], about["versions"]["torch"], about["platform"]):
        assert fact in text


def test_a_page_has_a_verdict_with_its_figures_for_each_claim(made: Path) -> None:
    text = re.sub(r"\s+", " ", (made / "report.html").read_text())
    assert text.count("mgrawa ends at a lower error than uniform") == 2
    assert "Difference +10.00 points, 95% CI +10.00 to +10.00, 3 seeds" in text


def test_pictures_are_whole_and_take_the_pages_ink(made: Path) -> None:
    text = (made / "report.html").read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    # All conditions; and for both: curves, training, weights, layers.
    assert len(pictures) == 1 + 2 * 4
    for picture in pictures:
        ElementTree.fromstring(picture)
        assert "currentColor" in picture
        assert INK not in picture
    ids = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 0


def test_a_study_that_is_not_done_says_so(made: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "part"
    shutil.copytree(made, path)
    trials = path / "trials.jsonl"
    lines = trials.read_text().splitlines(keepends=True)
    trials.write_text("".join(lines[:5]) + lines[5][:70])
    assert report(path) == 0
    said = capsys.readouterr().out
    assert "note: 5 of 12 trials are done; the same command continues the study." in said
    assert "note: 1 lines of trials.jsonl are incomplete and were ignored." in said
    assert "5 of 12 trials are done" in (path / "report.html").read_text()


def test_a_run_has_a_page_too(run: Path, capsys: Any) -> None:
    assert report(run) == 0
    text = (run / "report.html").read_text()
    for words in (
        "Test error of the consensus",
        "Training loss",
        "Workers, round by round",
        "Weight of each worker, tensor by tensor, over rounds",
        "0.weight",
        "parameters are not finite",
    ):
        assert words in text
    assert "note:" not in capsys.readouterr().out


def test_a_run_whose_events_were_cut_is_reported_as_far_as_it_goes(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "cut"
    shutil.copytree(run, path)
    events = (path / "events.jsonl").read_text()
    (path / "events.jsonl").write_text(events[: events.index('"round": 4') + 30])
    assert report(path) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: 1 lines of events.jsonl are incomplete and were ignored." in said
    assert "note: The run has not finished: this is its state after 3 rounds." in said


def test_a_runs_page_has_its_flatness_if_that_was_measured(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "run"
    shutil.copytree(run, path)
    estimate = {"value": 31.25, "standard_error": 2.5}
    one = {
        "train_error": 0.125, "test_error": 0.25, "loss": 0.5, "gradient_norm": 0.75,
        "sharpness": {"0.05": 0.0625, "0.5": None}, "eigenvalues": [estimate, estimate],
        "trace": estimate, "trace_over_loss": {"value": 62.5, "standard_error": None},
    }  # fmt: skip
    found: dict[str, Any] = {
        "schema": 2, "samples": 1234, "of_samples": 5678, "gap_samples": 910, "parameters": 4810,
        "metric": "test error", "models": {"consensus": one},
        "valley": None, "no_valley": "no worker was saved",
    }  # fmt: skip
    (path / "flatness.json").write_text(json.dumps(found))
    assert report(path) == 0
    text = re.sub(r"\s+", " ", (path / "report.html").read_text())
    for shown in ("12.50", "25.00", "rise at 0.05", "0.0625", "31.2 ± 2", "62.5", "1,234 of 5,678"):
        assert shown in text
    assert "No worker valley: no worker was saved." in text
    assert "note:" not in capsys.readouterr().out
    (path / "flatness.json").write_text(json.dumps(found)[:-20])
    assert report(path) == 0
    assert "run `grawa flatness` again" in " ".join(capsys.readouterr().out.split())


def test_a_way_without_a_border_is_endless() -> None:
    nothing = {"value": None, "standard_error": None}
    one = {
        "train_error": 0.0, "test_error": 0.0, "loss": 0.5, "gradient_norm": 0.75, "sharpness": {},
        "eigenvalues": None, "trace": None, "trace_over_loss": nothing,
    }  # fmt: skip
    valley = {
        "worker_distances": [1.5, 2.5], "border_distances": [3.5, None], "kappa": 2.0,
        "inverse_mean": 0.0,
    }  # fmt: skip
    _, curves = flatness_tables({
        "metric": "test error", "samples": 1, "of_samples": 1, "gap_samples": 1, "parameters": 1,
        "models": {name: one for name in ("consensus", "worker 0", "worker 1")}, "valley": valley,
    })  # fmt: skip
    walks = [[cell.text for cell in row][-2:] for row in curves.rows]
    assert walks == [["-", "-"], ["1.5", "3.5"], ["2.5", "inf"]]


def test_pictures_and_tables_are_files_too_where_that_is_asked(
    made: Path, run: Path, tmp_path: Path
) -> None:
    out, png, csv = tmp_path / "both.html", tmp_path / "png", tmp_path / "csv"
    assert report(made, run, "--out", out, "--pictures", png, "--tables", csv) == 0
    assert out.read_text().count("<h1>") == 2
    found = {path.name: path.read_bytes()[:4] for path in png.iterdir()}
    assert {"0-final.png", "0-curves-0.png", "1-loss.png", "1-workers.png"} <= found.keys()
    assert set(found.values()) == {b"\x89PNG"}
    tables = {path.name for path in csv.iterdir()}
    names = ("0-errors-0", "0-errors-1", "0-costs", "0-settings", "1-totals")
    assert {f"{name}.{form}" for name in names for form in ("csv", "tex")} <= tables


def test_figures_are_as_wide_as_a_column_and_may_be_in_the_same_folder(
    run: Path, tmp_path: Path, capsys: Any
) -> None:
    folders = [f"--{what}={tmp_path}" for what in ("pictures", "figures", "tables")]
    assert report(run, *folders) == 0
    said = capsys.readouterr().out
    assert all(f"{tmp_path}: the {what}" in said for what in ("pictures", "figures", "tables"))
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert {f"{name}.{form}" for name in pictures for form in ("png", "svg", "pdf")} <= names
    widths = {"svg": rb'<svg.*? width="([\d.]+)pt"', "pdf": rb"/MediaBox \[ 0 0 ([\d.]+)"}
    for form, width in widths.items():
        for path in tmp_path.glob(f"*.{form}"):
            assert re.findall(width, path.read_bytes()) == [b"234"]  # points, of 1/72 inch


NOTHING = '{"schema": 1, "kind": "started", "step": 0}\n'


WRONG = {
    "no folder": ({}, "is not a run or study: it has neither config.toml nor study.toml"),
    "no events": ({"config.toml": 'task = "digits"\n'}, "has no events.jsonl, the record of"),
    "no rounds": (
        {"config.toml": 'task = "digits"\n', "events.jsonl": NOTHING},
        "has no rounds in events.jsonl",
    ),
    "broken study": ({"study.toml": "schema = "}, "study.toml can't be read"),
    "study of another version": ({"study.toml": "schema = 99\n"}, "has schema 99"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_without_anything_to_report_is_one_clear_line(
    case: str, tmp_path: Path, capsys: Any
) -> None:
    files, said = WRONG[case]
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert report(tmp_path) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)


def test_a_study_without_results_and_no_folder_at_all_are_refused(
    tmp_path: Path, capsys: Any
) -> None:
    StudyFolder.begin(tmp_path / "study", study())
    assert report(tmp_path / "study") == 2
    assert "no trial of the comparison has finished" in capsys.readouterr().err
    assert report() == 2
    assert "FOLDER is missing" in capsys.readouterr().err


def test_a_page_that_can_not_be_written_is_one_clear_line(
    made: Path, tmp_path: Path, capsys: Any
) -> None:
    assert report(made, "--out", tmp_path / "missing" / "page.html") == 2
    assert "can't write" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser of all tests, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no browser: neither chromium nor google-chrome")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, made: Path) -> Iterator[Any]:
    """The study's page, in a window that keeps what its console said."""
    opened = browser.new_page(viewport={"width": 400, "height": 800})
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.goto((made / "report.html").as_uri())
    yield opened
    opened.close()


def first_column(page: Any) -> list[str]:
    return list(page.locator("table").first.locator("tbody tr td:first-child").all_inner_texts())


def test_a_browser_sorts_a_table_by_a_click_and_has_nothing_to_complain(page: Any) -> None:
    table = page.locator("table").first
    assert first_column(page) == ["mgrawa", "uniform"]
    heads = table.locator("th")
    heads.nth(1).get_by_role("button").click()
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    assert first_column(page) == ["mgrawa", "uniform"]
    heads.nth(1).get_by_role("button").click()
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    assert first_column(page) == ["uniform", "mgrawa"]
    heads.nth(3).get_by_role("button").click()  # the baseline has no difference: last either way
    assert first_column(page) == ["uniform", "mgrawa"]
    heads.nth(3).get_by_role("button").click()
    assert first_column(page) == ["uniform", "mgrawa"]
    assert heads.nth(1).get_attribute("aria-sort") is None
    assert page.said == []


def test_a_page_fits_a_phone_and_follows_the_colour_scheme(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    assert (light, page.evaluate(ground)) == ("rgb(255, 255, 255)", "rgb(21, 24, 27)")


def test_a_long_name_makes_no_page_wider_than_its_window(page: Any) -> None:
    long = "mgrawa:norms=probe:outer.lr=1:outer.momentum=0.5:power=2:pull=0.9:prox=0.01"
    for where in (".verdicts li", "td", "h2", "dd"):
        page.locator(where).first.evaluate("(element, text) => element.append(text)", long)
    assert page.evaluate("document.documentElement.scrollWidth") == 400


@pytest.mark.parametrize("width", [400, 1280])
def test_a_runs_page_fits_a_phone_and_a_screen(page: Any, run: Path, width: int) -> None:
    assert report(run) == 0
    page.set_viewport_size({"width": width, "height": 800})
    page.goto((run / "report.html").as_uri())
    assert page.locator("h1").inner_text() == "digits:train_size=200, lgrawa"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.said == []
