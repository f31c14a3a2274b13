"""Runs the studies behind the pages of the evidence, and makes their tables and pictures from them.

Run `make evidence`, or `python benchmarks/evidence.py`. Each study is a `grawa compare` or
`grawa ablate` command that can also be run by itself; its folder is in `runs/evidence`, and each
run is saved when it ends. An interrupted study continues where it stopped, and a complete one is
not run again. The results are stored in `benchmarks/results/evidence`. From these files come a
page for each study, in `docs/evidence/tables`, the pictures in `docs/evidence`, the tables between
marks in `docs/evidence.md` and the pages beside it, and all figures in
`benchmarks/results/evidence.json`.

Takes eleven hours on two cores if there are no results yet, and a minute with --tables-only.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from command import TOYS
from evidence_claims import claims_table
from evidence_figures import summary
from evidence_kept import Kept, rounded
from evidence_kinds import Asked, Kind
from evidence_picture import answers_picture
from evidence_studies import MAPS, ON_A_LINK, STUDIES
from evidence_tables import Read, link_table, maps_table, page_of
from grawa.errors import UserError
from grawa.lab.experiments.environment import environment
from grawa.lab.experiments.study_folder import STUDY_PACKAGES, StudyFolder
from grawa.lab.experiments.tuning import count
from grawa.lab.files import write_text


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options."""

    only: tuple[str, ...] = ()
    """Names of the studies to run; all by default."""
    tables_only: bool = False
    """Run nothing: write the tables anew from the stored results."""
    runs: Path = Path("runs/evidence")
    """Folder of the studies' folders."""
    page: Path = Path("docs/evidence.md")
    """The first page; the others are in a folder of that name beside it."""
    kept: Path = Path("benchmarks/results/evidence")
    """Folder of the stored results of each study."""
    out: Path = Path("benchmarks/results")
    """Folder for the figures."""
    toy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run nothing: write the tables of a few small studies, and copies of the pages with them. All
    are in --out, by default runs/toy-benchmarks."""


SMALL = (
    *("text", "workers", "sync-every", "steps-text"),
    *(f"{kind}-digits-cnn-8" for kind in ("populations", "speeds", "pulls", "full-pull", "family")),
    "link-digits",
)
"""A study for every kind of table, quickly made."""


def main(words: Sequence[str] | None = None) -> None:
    """Runs studies that are not complete yet, and writes all results.

    Raises:
        SystemExit: 2 after a `UserError`, 130 after Ctrl-C.
    """
    try:
        _run_and_write(parse(words))
    except UserError as error:
        print(f"evidence: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("evidence: interrupted; the same command continues from here", file=sys.stderr)
        sys.exit(130)


def parse(words: Sequence[str] | None = None) -> Config:
    """The options on a command line, by default this program's."""
    program = "python benchmarks/evidence.py"
    return tyro.cli(Config, prog=program, description=__doc__, args=words)


def _run_and_write(config: Config) -> None:
    for name in config.only:
        if name not in STUDIES:
            raise UserError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    if config.toy:
        studies: Mapping[str, Asked] = {name: STUDIES[name] for name in SMALL}
        config = _with_copies(config)
    else:
        studies = STUDIES
    for name in () if config.tables_only else config.only or STUDIES:
        run(name, config.runs / name).save(_place(config, name))
    write_all(read_all(studies, config), studies, config)


def _with_copies(config: Config) -> Config:
    """A configuration that runs nothing, and writes to copies of the pages only."""
    out = TOYS if config.out == Config.out else config.out
    folder = out / config.page.stem
    folder.mkdir(parents=True, exist_ok=True)
    page = Path(shutil.copy(config.page, out))
    for file in config.page.with_suffix("").glob("*.md"):
        shutil.copy(file, folder)
    return replace(config, tables_only=True, page=page, out=out)


def run(name: str, folder: Path) -> Kept:
    """Runs a study, or the rest of it; a complete one is not run again.

    Returns:
        Its results.

    Raises:
        UserError: if the folder has another study, or the study fails.
    """
    words = STUDIES[name].command
    if StudyFolder.is_one(folder):
        found = Kept.of(StudyFolder(folder))
        if not found.asked(words):
            raise UserError(f"{folder} has an older definition of the study {name}: remove it")
        if found.runs == count(found.study, StudyFolder(folder).found().results):
            return found
    words = (*words, "--out", str(folder))
    print(f"{name}: {shlex.join(words)}", flush=True)
    began = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.txt").open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [sys.executable, "-m", *words], stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise UserError(f"{name} ended with exit code {done.returncode}; see {output.name}")
    print(f"{name}: {(time.perf_counter() - began) / 60.0:.1f} min", flush=True)
    return Kept.of(StudyFolder.open(folder))


def read_all(studies: Mapping[str, Asked], config: Config) -> dict[str, Read]:
    """The stored results of the studies, except those with an older definition."""
    found = {}
    for name, asked in studies.items():
        path = _place(config, name)
        kept = Kept.load(path) if path.exists() else None
        if kept is None or not kept.asked(asked.command):
            print(f"no results of {name} in its current definition: its tables are not changed")
        else:
            found[name] = Read.of(name, kept)
    return found


def _place(config: Config, name: str) -> Path:
    return config.kept / f"{name}.json.xz"


def write_all(found: dict[str, Read], studies: Mapping[str, Asked], config: Config) -> None:
    """Writes figures, pictures and tables; tables over several studies only if all have results."""
    figures = {name: summary(read) for name, read in found.items()}
    whole = {"environment": environment(STUDY_PACKAGES), "studies": rounded(figures, 6)}
    output = config.out / "evidence.json"
    write_text(output, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    folder = config.page.with_suffix("")
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, read in found.items():
        write_text(folder / "tables" / f"{name}.md", page_of(read))
        for picture in read.pictures():
            picture.save_png(folder / f"{name}-{picture.name}.png")
    reads = list(found.values())
    tables = {}
    if _are_there(found, studies, Kind.METHODS, Kind.KNOB):
        tables["claims"] = claims_table(reads)
    if _are_there(found, studies, Kind.LINK):
        tables |= {name: link_table(reads, where) for name, where in ON_A_LINK.items()}
        if _are_there(found, studies, Kind.FAMILY):
            answers_picture(reads).save_png(folder / "answers.png")
    for name, maps in MAPS.items():
        if _are_there(found, studies, maps.kind):
            tables[name] = maps_table(reads, maps)
    _write_into([config.page, *sorted(folder.glob("*.md"))], tables)
    print(f"{config.page}, {output}: all figures; tables and pictures are in {folder}")


def _are_there(found: Container[str], studies: Mapping[str, Asked], *kinds: Kind) -> bool:
    return all(name in found for name, asked in studies.items() if asked.kind in kinds)


def _write_into(pages: Sequence[Path], tables: Mapping[str, str]) -> None:
    """Writes each table between its marks, on the one page that has them."""
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    for name, table in tables.items():
        page = next((page for page in pages if f"<!-- {name} -->\n" in texts[page]), pages[0])
        texts[page] = replaced(texts[page], name, table)
    for page, text in texts.items():
        write_text(page, text)


def replaced(text: str, name: str, table: str) -> str:
    """The text with the part between `<!-- name -->` and `<!-- end name -->` replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    if begin not in text or end not in text:
        raise UserError(f"the page has no marks for {name}: {begin.strip()} and {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{table}\n{end}{after}"


if __name__ == "__main__":
    main()
