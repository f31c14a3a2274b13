"""`grawa train --config FILE`, and the recipes that come with grawa."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from grawa.lab.cli import names
from grawa.lab.cli.config_file import config_from
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.run_folder import RunFolder
from grawa.strategies import EASGD, LGRAWA, LSGD, MGRAWA, DataParallel
from tests.lab.cli.processes import ROOT
from tests.lab.cli.test_commands import assert_one_line
from tests.lab.tasks.archives import binary_files, write_folder

RECIPES = {path.name: path for path in sorted((ROOT / "recipes").glob("*.toml"))}

PAPER = {
    "paper_mgrawa.toml": (MGRAWA(pull=0.5, prox=0.01), 32),
    "paper_lgrawa.toml": (LGRAWA(pull=0.5, prox=0.01), 32),
    "paper_easgd.toml": (EASGD(elasticity=0.1), 4),
    "paper_lsgd.toml": (LSGD(pull=0.1, prox=0.1), 4),
    "paper_data_parallel.toml": (DataParallel(), 32),
    "paper_data_parallel_sam.toml": (DataParallel(), 32),
}

every_recipe = pytest.mark.parametrize("name", RECIPES)


def recipe(name: str) -> TrainConfig:
    found = config_from(["train", "--config", str(RECIPES[name])])
    assert found is not None
    return found


def test_there_is_a_recipe_for_each_method_of_the_paper() -> None:
    assert set(RECIPES) == set(PAPER)


@every_recipe
def test_a_recipe_has_the_settings_of_the_paper(name: str) -> None:
    config = recipe(name)
    strategy, sync_every = PAPER[name]
    assert names.strategy(config.strategy) == strategy
    settings = config.settings()
    assert (settings.schedule.sync_every, settings.batch_size) == (sync_every, 128)
    optimizer = "sam" if name == "paper_data_parallel_sam.toml" else "sgd"
    assert (settings.lr, settings.optimizer, settings.workers) == (0.1, optimizer, 4)
    assert (settings.epochs, settings.seed) == (100, 36)
    assert sum(p.numel() for p in names.task(config.task).model(0).parameters()) == 269_722


SMALL = ("--steps", "2", "--epochs", "None", "--batch-size", "4", "--processes", "1")


@every_recipe
@pytest.mark.parametrize(("workers", "seed"), [("8", "720"), ("12", "1042")])
def test_a_recipe_is_one_command_with_other_workers_and_seeds(
    command: Any,
    name: str,
    workers: str,
    seed: str,
    tmp_path: Path,
) -> None:
    folder = write_folder(tmp_path / "data:1" / "cifar-10-batches-bin", binary_files(10, 12))
    given = ("--config", RECIPES[name], "--data", folder, "--workers", workers, "--seed", seed)
    done = command("train", "cifar10:model=cnn", *given, *SMALL, "--out", "run")
    assert (done.code, done.err) == (0, "")
    config = RunFolder(Path("run")).config()
    assert (config.workers, config.seed, config.steps) == (int(workers), int(seed), 2)
    assert config.strategy == recipe(name).strategy
    assert config.data == str(folder)
    assert command("evaluate", "run").code == 0


def write(path: Path, **entries: str) -> Path:
    path.write_text("".join(f"{name} = {value}\n" for name, value in entries.items()))
    return path


def test_the_command_line_goes_over_the_file_and_the_file_over_the_usual(
    command: Any,
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "a.toml", task='"quadratic:dimensions=2"', workers="2", steps="6")
    options = ("--steps", "4", "--sync-every", "2", "--processes", "1")
    assert command("train", f"--config={file}", *options, "--out", "run").code == 0
    config = RunFolder(Path("run")).config()
    assert (config.task, config.workers) == ("quadratic:dimensions=2", 2)
    assert (config.steps, config.sync_every, config.batch_size) == (4, 2, 16)
    assert command("train", "logistic", "--config", file, *options, "--out", "two").code == 0
    assert RunFolder(Path("two")).config().task == "logistic"


def test_a_runs_own_configuration_trains_it_again(command: Any) -> None:
    options = ("--workers", "2", "--steps", "4", "--processes", "1", "--fault", "lr-x2:1")
    assert command("train", "quadratic", *options, "--out", "one").code == 0
    assert command("train", "--config", "one/config.toml", "--out", "two").code == 0
    first, second = (Path(run) / "config.toml" for run in ("one", "two"))
    assert tomllib.loads(first.read_text()) == tomllib.loads(second.read_text())
    models = [Path(run, "model.safetensors").read_bytes() for run in ("one", "two")]
    assert models[0] == models[1]


WRONG = {
    "no file": (("--config", "missing.toml"), "missing.toml can't be read"),
    "no name": (("--config",), "--config"),
    "two files": (("--config", "good.toml", "--config", "good.toml"), "takes one file"),
    "a folder": (("--config", "."), "can't be read"),
    "no toml": (("--config", "bad.toml"), "bad.toml can't be read"),
    "an unknown entry": (("--config", "unknown.toml"), "unknown entry 'momentum'"),
    "another kind of value": (("--config", "kind.toml"), "workers = 'four' is invalid"),
    "out of range": (("--config", "good.toml", "--workers", "0"), "workers must be at least 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_one_line(
    command: Any,
    case: str,
    tmp_path: Path,
) -> None:
    write(tmp_path / "good.toml", task='"quadratic"')
    write(tmp_path / "bad.toml", task="quadratic =")
    write(tmp_path / "unknown.toml", task='"quadratic"', momentum="0.9")
    write(tmp_path / "kind.toml", task='"quadratic"', workers='"four"')
    args, said = WRONG[case]
    done = command("train", "--out", "run", *args)
    assert done.code == 2
    assert_one_line(done.err, said)
    assert not Path("run").exists()
