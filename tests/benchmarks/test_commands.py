"""The benchmarks that documents and the Makefile name exist, and have the options they name."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.benchmarks.toys import NAMES

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
COMMANDS = (*NAMES, "evidence", "broken_off", "chaos_runs", "kills", "phases", "long_run")
_CALL = re.compile(r"python benchmarks/(\w+)\.py((?:[ ][^`;|&#()]*)?)")


def documents() -> Iterator[Path]:
    """All that tell how benchmarks are run."""
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))
    yield from sorted(ROOT.glob("docs/**/*.md"))
    yield from sorted(BENCHMARKS.glob("*.py"))


def documented() -> Iterator[tuple[str, str, str]]:
    """Document, script and options of every command."""
    for page in documents():
        text = page.read_text(encoding="utf-8")
        fenced = re.compile(r"^```.*?^```$", re.M | re.S)
        blocks = re.findall(r"^(?:    )?(python .*)$", "\n".join(fenced.findall(text)), re.M)
        spans = re.findall(r"`([^`]+)`", fenced.sub("", text))
        spans += blocks + re.findall(r"^    (python .*)$", text, re.M)
        for span in spans:
            for script, options in _CALL.findall(" ".join(span.split())):
                yield page.name, script, options
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    loops = re.findall(
        r"for name in ([\w ]+); do.*?benchmarks/\$\$name\.py(.*?)(?:\|\||;|$)", text, re.S
    )
    for names, options in loops:
        for name in names.split():
            yield "Makefile", name, options
    for script, options in _CALL.findall(text.replace("$(BIN)/", "")):
        yield "Makefile", script, options.splitlines()[0] if options else ""


FOUND = sorted(set(documented()))


def test_commands_are_found_where_there_are_some() -> None:
    pages = {page for page, *_ in FOUND}
    assert {"README.md", "benchmarks.md", "evidence.md", "decisions.md", "Makefile"} <= pages
    assert ("Makefile", "guard", " ") in FOUND
    assert any(options for _, _, options in FOUND)


@pytest.mark.parametrize(("page", "script", "options"), FOUND)
def test_documented_commands_can_be_given(page: str, script: str, options: str) -> None:
    words = [word for word in shlex.split(options) if word != "NAME"]
    module = import_module(script)
    parse = getattr(module, "parse", None) or module.BENCHMARK.parse
    parse(words)


@pytest.mark.parametrize("page", list(documents()), ids=lambda page: page.name)
def test_files_of_benchmarks_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"benchmarks/(?:results/)?[\w./-]*\.\w+", page.read_text(encoding="utf-8"))
    made = {"json", "png", "py", "md"}
    missing = [n for n in named if n.rpartition(".")[2] in made and not (ROOT / n).exists()]
    assert not missing


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_what_is_measured_how_long_it_takes_and_what_is_written(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = import_module(name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    first = (module.__doc__ or "").split("\n\n")[0]
    assert " ".join(first.split()) in text
    assert "Takes " in text
    assert f"{name}.json" in text
    assert "--toy" in text and "--out" in text


def test_every_script_with_a_main_program_is_tested() -> None:
    scripts = [p for p in BENCHMARKS.glob("*.py") if not p.stem.endswith("_worker")]
    mains = {p.stem for p in scripts if "__main__" in p.read_text(encoding="utf-8")}
    assert mains == set(COMMANDS)


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_benchmarks_use_the_library_by_its_public_names(path: Path) -> None:
    public = {"_asdict", "_replace", "_fields"}  # of named tuples
    private = re.compile(r"_[a-z]")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and private.match(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            assert own or node.attr in public, f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names if private.match(alias.name)]
            assert not names, f"line {node.lineno}: {names}"
            assert node.module not in {"unittest", "unittest.mock"}, f"line {node.lineno}"
