"""The studies behind `docs/evidence.md`, and its tables and pictures, made from them.

Run `make evidence`, or `python benchmarks/evidence.py`; `--help` tells the options. Each study is
a `grawa compare` or `grawa ablate` that can be run by itself; its folder is in `runs/evidence`. A
study that was interrupted goes on where it stopped, and one that is there is not run again. Then
the tables of `docs/evidence.md` and two of README.md are written anew between their marks, and the
pictures beside that page.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from evidence_claims import claims_table
from evidence_studies import MAPS, STUDIES
from evidence_tables import Read, maps_table, rounded, summary, tables_of
from grawa.errors import UserError
from grawa.experiments.environment import environment
from grawa.experiments.study_folder import STUDY_PACKAGES, StudyFolder
from grawa.files import write_text


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is run and written."""

    only: tuple[str, ...] = ()
    """Names of studies; all by default. Tables are written if all are there."""
    runs: Path = Path("runs/evidence")
    """Where the studies' folders are."""
    page: Path = Path("docs/evidence.md")
    """The page; its pictures are in a folder beside it."""
    readme: Path = Path("README.md")
    """Where the overviews of the maps go too."""
    output: Path = Path("benchmarks/results/evidence.json")
    """Where the figures go."""


def main(config: Config) -> None:
    """Runs what has not been run, and writes what came of it."""
    for name in config.only:
        if name not in STUDIES:
            raise UserError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    for name in config.only or STUDIES:
        _run(name, config.runs / name)
    missing = [name for name in STUDIES if not StudyFolder.is_one(config.runs / name)]
    if missing:
        print(f"no tables yet: {', '.join(missing)} have not been run")
        return
    write_all({name: Read.of(name, config.runs / name) for name in STUDIES}, config)


def _run(name: str, folder: Path) -> None:
    """Runs a study, or what is left of it; one that is whole is left as it is.

    Raises:
        UserError: if the folder holds another study, or the study fails.
    """
    asked = ["grawa", *STUDIES[name].words]
    if StudyFolder.is_one(folder):
        found = StudyFolder(folder)
        if found.about()["command"].partition(" --out ")[0] != shlex.join(asked):
            raise UserError(f"{folder} holds what was asked before {name} was changed: remove it")
        if len(found.found().results) == found.study().count():
            return
    words = [*asked, "--out", str(folder)]
    print(f"{name}: {' '.join(words)}", flush=True)
    began = time.perf_counter()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.txt").open("w", encoding="utf-8") as said:
        done = subprocess.run(
            [sys.executable, "-m", *words], stdout=said, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise UserError(f"{name} ended with {done.returncode}; see {said.name}")
    print(f"{name}: {(time.perf_counter() - began) / 60.0:.1f} min", flush=True)


def write_all(found: dict[str, Read], config: Config) -> None:
    """Figures, pictures, and the page's tables."""
    figures = {name: summary(read) for name, read in found.items()}
    whole = {"environment": environment(STUDY_PACKAGES), "studies": rounded(figures)}
    write_text(config.output, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    pictures = config.page.with_suffix("")
    pictures.mkdir(exist_ok=True)
    for name, read in found.items():
        for picture in read.pictures():
            picture.save_png(pictures / f"{name}-{picture.name}.png")
    text = config.page.read_text(encoding="utf-8")
    reads = list(found.values())
    text = replaced(text, "claims", claims_table(reads))
    for name, read in found.items():
        text = replaced(text, name, tables_of(read))
    readme = config.readme.read_text(encoding="utf-8")
    for name, (kind, baseline) in MAPS.items():
        table = maps_table(reads, kind, baseline)
        text, readme = replaced(text, name, table), replaced(readme, name, table)
    write_text(config.page, text)
    write_text(config.readme, readme)
    print(f"{config.page}, {config.output}: all figures; pictures are in {pictures}")


def replaced(text: str, name: str, table: str) -> str:
    """The text with what stands between `<!-- name -->` and `<!-- end name -->` replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end {name} -->"
    if begin not in text or end not in text:
        raise UserError(f"the page has no marks for {name}: {begin.strip()} and {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}{table}\n{end}{after}"


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except UserError as error:
        sys.exit(f"evidence: {error}")
