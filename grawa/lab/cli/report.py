"""`grawa report`: makes a page of a run or a study from its folder."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from grawa.errors import UserError
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.files import cause_of, check_file, is_file, make_folder, write_text
from grawa.lab.report.console import say
from grawa.lab.report.page import Page, Section, write_page
from grawa.lab.report.run_page import run_page
from grawa.lab.report.study_page import study_page
from grawa.lab.report.table_files import as_csv, as_latex


def report_command(
    folders: tuple[Path, ...],
    out: Path | None = None,
    pictures: Path | None = None,
    figures: Path | None = None,
    tables: Path | None = None,
) -> None:
    """Runs `grawa report`.

    Args:
        folders: of runs or studies, finished or interrupted.
        out: one page for all of them; by default each gets report.html in its own folder.
        pictures: a folder for the pictures as PNG files.
        figures: a folder for the pictures as SVG and PDF files.
        tables: a folder for the tables as CSV and LaTeX files.

    Raises:
        UserError: if a folder is not one of a run or a study, or has no results yet.
    """
    if not folders:
        raise UserError("name at least one folder of a run or a study")
    console = Console(markup=False)
    with console.status("reading"):
        pages = [page_of(folder) for folder in folders]
    for file in [at / "report.html" for at in folders] if out is None else [out]:
        check_file(file)
    folders_of = (
        ("pictures", pictures, _save_pictures),
        ("figures", figures, _save_figures),
        ("tables", tables, _save_tables),
    )
    wanted = [(what, folder, save) for what, folder, save in folders_of if folder is not None]
    for _, folder, _ in wanted:
        make_folder(folder)
    _say_first(pages, console)
    with console.status("drawing"):
        if out is not None:
            written = [(_written(pages, out), "page")]
        else:
            own = zip(folders, pages, strict=True)
            written = [(_written([page], at / "report.html"), "page") for at, page in own]
        for what, folder, save in wanted:
            _save(pages, folder, what, save)
            written.append((folder, what))
    for path, what in written:
        say(console, f"{path}: the {what}")


def _say_first(pages: list[Page], console: Console) -> None:
    """Prints the answers of studies, and notices; with titles if there are several pages."""
    for page in pages:
        titles = [page.title] if len(pages) > 1 and page.first_lines else []
        for line in (*titles, *page.first_lines):
            say(console, line)


def page_of(folder: Path) -> Page:
    """The page of a run or a study.

    Args:
        folder: the folder of either.

    Returns:
        The page.

    Raises:
        UserError: if it is neither.
    """
    if StudyFolder.is_one(folder):
        return study_page(StudyFolder.open(folder))
    if not is_file(folder / "config.toml"):
        raise UserError(
            f"{folder} is not a run or study: it has neither config.toml nor study.toml"
        )
    return run_page(RunFolder.open(folder))


def _written(pages: list[Page], path: Path) -> Path:
    try:
        return write_page(pages, path)
    except OSError as error:
        raise UserError(f"can't write {path}: {cause_of(error)}") from None


def _save(
    pages: list[Page], folder: Path, what: str, save: Callable[[Section, Path, str], object]
) -> None:
    try:
        for number, page in enumerate(pages):
            prefix = f"{number}-" if len(pages) > 1 else ""
            for section in page.sections:
                save(section, folder, prefix)
    except OSError as error:
        raise UserError(f"can't write {what} to {folder}: {cause_of(error)}") from None


def _save_pictures(section: Section, folder: Path, prefix: str) -> None:
    for picture in section.pictures:
        picture.save_png(folder / f"{prefix}{picture.name}.png")


def _save_figures(section: Section, folder: Path, prefix: str) -> None:
    for picture in section.pictures:
        picture.save_for_column(folder / f"{prefix}{picture.name}.svg")
        picture.save_for_column(folder / f"{prefix}{picture.name}.pdf")


def _save_tables(section: Section, folder: Path, prefix: str) -> None:
    for table in section.tables:
        write_text(folder / f"{prefix}{table.name}.csv", as_csv(table))
        write_text(folder / f"{prefix}{table.name}.tex", as_latex(table))
