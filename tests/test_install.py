"""The wheel, installed where there is nothing but torch and what torch itself needs."""

import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from statistics import median
from zipfile import ZipFile

import pytest

pytestmark = pytest.mark.world

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


BEFORE = """
import torch
from torch.nn.functional import mse_loss as loss_fn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
torch.manual_seed(0)
inputs = torch.randn(4000, 2)
dataset = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
epochs = 16
def Net():
    return torch.nn.Linear(2, 1)
"""

AFTER = """
    averager.save("checkpoints")
    averager.restore("checkpoints")
    print(averager.round, float(loss))
"""


def script_of_the_readme() -> str:
    """The training script after the change that it shows."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    return "\n".join(line[2:] for line in diff.splitlines() if not line.startswith("-"))


def test_the_change_that_the_readme_shows_runs_with_torch_alone(
    python: Path, tmp_path: Path
) -> None:
    script = tmp_path / "loop.py"
    script.write_text(f"{BEFORE}{script_of_the_readme()}{AFTER}")
    done = run(
        python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script,
        folder=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        rounds, loss = line.split()
        assert int(rounds) == 32  # after every 32 of 1,008 steps, and at the end
        assert float(loss) < 0.5


def test_source_and_wheel_are_built_and_described_as_indexes_want_it(
    python: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "__py*", "runs", "site", "*.egg-info", "results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    built = run(sys.executable, "-m", "build", "--no-isolation", copy, folder=tmp_path)
    assert built.returncode == 0, built.stderr
    files = sorted((copy / "dist").iterdir())
    assert [path.name.endswith((".whl", ".tar.gz")) for path in files] == [True, True]
    checked = run(sys.executable, "-m", "twine", "check", "--strict", *files, folder=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


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
