"""README and pages: short enough, and every command in them runs, at a small size."""

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from torch.distributed.run import get_args_parser

from grawa.lab.cli.commands import named
from grawa.lab.cli.config_file import config_from
from grawa.lab.cli.parsing import parsed
from tests.lab.cli.processes import Ended, grawa
from tests.lab.cli.test_commands import unfinished
from tests.world import forks

pytestmark = pytest.mark.world

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")))


class Shown(NamedTuple):
    """A command that a page shows."""

    page: Path
    words: tuple[str, ...]


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """The titles and texts of a page's code blocks."""
    pattern = rf'^```{language}(?: title="(.*?)")?\n(.*?)^```$'
    yield from re.findall(pattern, page.read_text(encoding="utf-8"), re.M | re.S)


def shown() -> Iterator[Shown]:
    """All commands, without the variables that are set before them."""
    for page in PAGES:
        for _, text in blocks(page, "bash"):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" > ")[0], comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words:
                    yield Shown(page, tuple(words))


COMMANDS = sorted({found.words: found for found in shown()}.values())

_STUDY = (
    "--steps", "16", "--sync-every", "4", "--batch-size", "32", "--seeds", "2", "--tune", "1",
    "--grid", "1", "--jobs", "1",
)  # fmt: skip
SMALLER: dict[str, tuple[str, ...]] = {
    "train": ("--steps", "8", "--batch-size", "4"),
    "compare": _STUDY,
    "ablate": _STUDY,
    "plan": ("--strategies", "lgrawa"),
}
"""What is added to a command of `grawa`, so that it takes a second or two."""

ELSEWHERE = {
    "grawa chaos": "tests/lab/cli/test_chaos.py",
    "grawa compare cifar10": "tests/lab/cli/test_compare.py",  # this one needs a GPU
    "grawa train cifar10": "tests/lab/tasks/test_cifar.py",
    "grawa train --config recipes": "tests/lab/cli/test_config_file.py",
    "grawa train digits --elastic": "tests/lab/cli/test_elastic_runs.py",
    "grawa train digits --workers 64 --batch-size 8 --processes 1": (
        "tests/lab/cli/test_stack_workers.py"
    ),
    "grawa wells": "tests/lab/cli/test_wells.py",
    "torchrun": "tests/test_examples.py",
    "pip install": "tests/test_install.py",
}
"""Commands that take minutes, or install something, and the tests that run their like."""

NOT_RUN = {"python3", ".", "tensorboard", "srun", "make"}
"""What belongs to other programs."""

MADE = {"RUN", "RUN_OR_STUDY", "STUDY", "runs/X/config.toml", "runs/a", "runs/b"}
"""What commands name that must be there before."""


def small(words: tuple[str, ...]) -> list[str]:
    """The command of `grawa` at a small size."""
    _, command, *rest = words
    # Workers run in processes that have another current folder.
    rest = [
        re.sub(r"[\w/]+\.py(?=:)", lambda found: str(Path(found[0]).resolve()), w) for w in rest
    ]
    own = [*SMALLER.get(command, ())]
    if command == "ablate":
        own = own[:2] + own[4:]  # it varies sync_every
    if "--budget" in rest:
        rest[rest.index("--budget") + 1] = "1s"
        own = own[2:]
    if "--parameters" in rest:
        own = []
    if command == "compare" and "--strategies" not in rest:
        own += ["--strategies", "mgrawa,uniform"]
    return [command, *rest, *own]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the pages' commands name."""
    for page in PAGES:
        for title, text in blocks(page, "python"):
            if title in {"mine.py", "train.py"}:
                with (tmp_path / title).open("a", encoding="utf-8") as file:
                    file.write(text)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("found", COMMANDS, ids=lambda found: " ".join(found.words)[:90])
@pytest.mark.usefixtures("folder")
def test_commands_run(found: Shown) -> None:
    words = found.words
    if words[0] == "grawa":
        text = " ".join(words)
        by = next((test for begin, test in ELSEWHERE.items() if text.startswith(begin)), None)
        if by is None:
            ended = ran(words)
            assert ended.code == 0, ended.err
        else:
            understood(words)
    elif words[0] == "torchrun":
        get_args_parser().parse_args(list(words[1:]))
    else:
        assert words[0] in NOT_RUN or " ".join(words[:2]) in ELSEWHERE


def understood(words: tuple[str, ...]) -> None:
    """Parses a command of `grawa`, which raises an error if it has no such options."""
    _, name, *rest = words
    command, config = named(name), config_from([name, *rest])
    assert command is not None
    parsed(f"grawa {name}", command, rest, {} if config is None else {"config": config})


def ran(words: tuple[str, ...]) -> Ended:
    """Runs a command of `grawa`, after the runs that it names were made."""
    forks()
    if words[1] != "train" or "runs/X/config.toml" in words:
        for path in MADE & {*words}:
            make_run(Path(path.removesuffix("/config.toml")), broken_off=words[1] == "resume")
    return grawa(*small(words))


def make_run(path: Path, *, broken_off: bool) -> None:
    """A run of 24 rounds, with a checkpoint after every 10; as if it were killed, if asked for."""
    done = grawa(
        "train", "digits", "--steps", "96", "--sync-every", "4", "--checkpoint-every", "10",
        "--keep-workers", "--keep-rounds", "2", "--out", path,
    )  # fmt: skip
    assert done.code == 0, done.err
    if broken_off:
        unfinished(path)


def test_messages_of_the_faq_are_ours() -> None:
    constants = [
        node.value
        for path in (ROOT / "grawa").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/faq.md").read_text(encoding="utf-8"), re.M)
    quoted = [part for heading in headings for part in re.findall(r'"(.*?)"', heading)]
    pieces = [piece.strip() for part in quoted for piece in part.split("...") if piece.strip()]
    assert len(pieces) > 20
    assert [p for p in pieces if not any(p in constant for constant in constants)] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_linked_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 40
    tests = {ROOT / test for test in ELSEWHERE.values()}
    assert all(test.exists() for test in tests)
