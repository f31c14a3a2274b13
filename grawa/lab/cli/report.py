"""`grawa report`: makes a page of a run or a study from its folder."""

from pathlib import Path

from rich.console import Console

from grawa.errors import UserError
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.files import cause_of, check_file, is_file, make_folder
from grawa.lab.report.page import Page, write_page
from grawa.lab.report.run_page import run_page
from grawa.lab.report.study_page import study_page


def report_command(
    folders: tuple[Path, ...],
    out: Path | None = None,
    pictures: Path | None = None,
) -> None:
    """Make a page of runs and studies: tables, pictures and tested claims in one file.

    Args:
        folders: Folders of runs or studies, finished or interrupted.
        out: One page for all of them; by default each gets report.html in its own folder.
        pictures: A folder in which to write the pictures as PNG files too.

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
    if pictures is not None:
        make_folder(pictures)
    for page in pages:
        for notice in page.notices:
            console.print(f"note: {notice}", highlight=False, soft_wrap=True)
    with console.status("drawing"):
        if out is not None:
            written = {_written(pages, out): "the page"}
        else:
            own = zip(folders, pages, strict=True)
            written = {_written([page], at / "report.html"): "the page" for at, page in own}
        if pictures is not None:
            _save_pictures(pages, pictures)
            written[pictures] = "the pictures"
    for path, what in written.items():
        console.print(f"{path}: {what}", highlight=False, soft_wrap=True)


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


def _save_pictures(pages: list[Page], folder: Path) -> None:
    try:
        for number, page in enumerate(pages):
            prefix = f"{number}-" if len(pages) > 1 else ""
            for section in page.sections:
                for picture in section.pictures:
                    picture.save_png(folder / f"{prefix}{picture.name}.png")
    except OSError as error:
        raise UserError(f"can't write pictures to {folder}: {cause_of(error)}") from None
