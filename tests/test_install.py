"""The wheel, installed where there is nothing but torch and what torch itself needs."""

import re
import shutil
import subprocess
import sys
import textwrap
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import takewhile
from pathlib import Path
from statistics import median
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = {
    str(path.relative_to(ROOT)) for path in (ROOT / "grawa/lab/report/templates").glob("*.html")
}
FORBIDDEN = {"numpy", "scipy", "sklearn", "matplotlib", "jinja2", "rich", "tyro", "PIL"}


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, without anything that the checkout sets."""
    return subprocess.run(
        [*map(str, command)], cwd=folder, env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of a copy: building leaves files beside the sources."""
    path = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "grawa", path / "source/grawa", ignore=shutil.ignore_patterns("__py*"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, path / "source" / name)
    done = run(
        sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps",
        "--no-build-isolation", "--wheel-dir", path, path / "source", folder=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (built,) = path.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment's interpreter, outside the checkout."""
    path = tmp_path_factory.mktemp("environment")
    venv.create(path, with_pip=False, symlinks=True)
    (packages,) = path.glob("lib/python*/site-packages")
    for found in with_requirements("torch"):
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            (packages / name).symlink_to(found.locate_file(name))  # type: ignore[arg-type]
    done = run(
        sys.executable, "-m", "pip", "--python", path / "bin/python", "install", "--quiet",
        "--no-index", "--no-deps", wheel, folder=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return path / "bin/python"


def with_requirements(name: str, known: set[str] | None = None) -> Iterator[Distribution]:
    """A distribution and all that it needs, as far as it is installed."""
    known = set() if known is None else known
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    known.add(name)
    yield found
    for text in found.requires or ():
        needed = re.match(r"[\w.-]+", text)
        if needed and "extra ==" not in text and needed[0] not in known:
            yield from with_requirements(needed[0], known)


def test_the_wheel_says_that_it_is_typed_and_has_the_pages_templates(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"grawa/py.typed", *TEMPLATES} <= names
    assert len(TEMPLATES) > 0


LOOP = """
import torch
torch.manual_seed(0)
model = torch.nn.Linear(2, 1)
loss_fn = torch.nn.functional.mse_loss
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = [(inputs, inputs.sum(dim=1, keepdim=True)) for inputs in torch.randn(200, 40, 2)]
"""


def lines_of_the_readme() -> str:
    """What it shows to write into a training loop."""
    after = (ROOT / "README.md").read_text().partition("\n    import grawa\n")[2].splitlines()
    indented = takewhile(lambda line: line.startswith("    ") or not line, after)
    return textwrap.dedent("\n".join(["    import grawa", *indented]))


def test_the_three_lines_of_the_readme_run_with_torch_alone(python: Path, tmp_path: Path) -> None:
    script = tmp_path / "loop.py"
    script.write_text(LOOP + lines_of_the_readme() + "\nprint(averager.round, float(loss))\n")
    done = run(python, script, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rounds, loss = done.stdout.split()
    assert int(rounds) == 7  # after every 32 of 200 steps, and at the end
    assert float(loss) < 1e-3


def test_the_command_without_the_laboratory_says_what_to_install(
    python: Path, tmp_path: Path
) -> None:
    torch = run(python, "-c", "import torch", folder=tmp_path)
    done = run(python.with_name("grawa"), "tasks", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.removeprefix(torch.stderr).splitlines()  # torch misses numpy, and says so
    assert line.startswith("grawa: ") and "pip install 'grawa[lab]'" in line


MODULES = (
    "import sys, torch; before = {*sys.modules}; import grawa; grawa.Averager; "
    "print(*{*sys.modules} - before)"
)


def test_the_library_imports_no_package_of_the_laboratory() -> None:
    """Here, where they are all installed."""
    done = run(sys.executable, "-c", MODULES, folder=ROOT)
    assert done.returncode == 0, done.stderr
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert "grawa" in imported
    assert not imported & FORBIDDEN


SECONDS = """
from time import process_time
start = process_time()
import torch
between = process_time()
import grawa
grawa.Averager
print((process_time() - start) / (between - start))
"""


def test_the_library_takes_hardly_longer_to_import_than_torch(python: Path, tmp_path: Path) -> None:
    ratios = [float(run(python, "-c", SECONDS, folder=tmp_path).stdout) for _ in range(3)]
    assert median(ratios) < 1.15, ratios
