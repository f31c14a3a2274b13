"""`grawa flatness`, and the workers that `grawa train --keep-workers` leaves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from grawa.flatness.hessian import has_curvlinops
from grawa.lab.cli.main import main
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.saved_models import write_model
from grawa.lab.tasks import Digits
from tests.lab.cli.processes import grawa

needs_curvlinops = pytest.mark.skipif(not has_curvlinops(), reason="the extra [flatness]")

RUN = ("train", "digits:train_size=200", "--workers", "4", "--steps", "64", "--dtype", "float64")


def command(capfd: pytest.CaptureFixture[str], *args: str | Path) -> tuple[object, str, str]:
    """Its code, its output without line breaks, and its errors."""
    with pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    said = capfd.readouterr()
    return stop.value.code, " ".join(said.out.split()), said.err


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in two processes that has kept its workers."""
    path = tmp_path_factory.mktemp("runs") / "kept"
    kept = ("--keep-workers", "--keep-rounds", "2")
    done = grawa(*RUN, "--strategy", "lgrawa", "--processes", "2", *kept, "--out", path)
    assert (done.code, done.err) == (0, "")
    return path


@pytest.fixture
def run(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(kept, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.world
def test_real_processes_and_one_process_keep_the_same_workers(
    capfd: pytest.CaptureFixture[str], kept: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    args = (*RUN, "--strategy", "lgrawa", "--processes", "1", "--keep-workers", "--out", one)
    assert command(capfd, *args, "--keep-rounds", "2")[0] == 0
    names = [f"worker-{i}.safetensors" for i in range(4)]
    for path in (kept, one):
        for folder in ("workers", "rounds"):
            assert sorted(file.name for file in (path / folder).iterdir()) == names
    early, later = (RunFolder(path).load_rounds(4) for path in (one, kept))
    for worker, rounds in early.items():
        for name, value in rounds.items():
            assert len(value) == 2
            torch.testing.assert_close(value, later[worker][name], rtol=0.0, atol=1e-10)
    ours, theirs = (RunFolder(path).load_workers(4) for path in (one, kept))
    for worker, state in ours.items():
        for name, value in state.items():
            torch.testing.assert_close(value, theirs[worker][name], rtol=0.0, atol=1e-10)
    weights = [state["0.weight"] for state in ours.values()]
    assert not any(torch.equal(weights[0], other) for other in weights[1:])


@pytest.mark.world
def test_the_kept_workers_are_those_after_the_last_pull(kept: Path) -> None:
    distances = []
    consensus = load_file(kept / "model.safetensors")
    for state in RunFolder(kept).load_workers(4).values():
        squares = [(state[name] - value).square().sum() for name, value in consensus.items()]
        distances.append(float(torch.stack(squares).sum()))
    last = [event for event in RunFolder(kept).events() if event["kind"] == "round"][-1]
    # The report's distance is that of before the pull, which halves it.
    half = 0.5 * last["consensus_distance"]
    assert (sum(distances) / 4) ** 0.5 == pytest.approx(half, rel=1e-6)


@pytest.mark.world
def test_the_kept_rounds_are_before_the_pull(kept: Path) -> None:
    folder = RunFolder(kept)
    before, after = folder.load_rounds(4), folder.load_workers(4)
    consensus = load_file(kept / "model.safetensors")
    for worker, rounds in before.items():
        for name, center in consensus.items():
            halfway = 0.5 * (rounds[name][-1] + center)
            torch.testing.assert_close(halfway, after[worker][name], rtol=0.0, atol=1e-10)


def test_workers_are_not_kept_unless_asked(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(capfd, *RUN, "--processes", "1", "--out", tmp_path / "run")[0] == 0
    assert not (tmp_path / "run" / "workers").exists()
    assert not (tmp_path / "run" / "rounds").exists()
    code, out, _ = command(capfd, "flatness", tmp_path / "run", "--eigenvalues", "0")
    assert code == 0
    assert "the workers' parameters were not saved; train with --keep-workers" in out
    assert "before rounds were not saved; train with --keep-rounds" in out
    found = json.loads((tmp_path / "run" / "flatness.json").read_text())
    assert list(found["models"]) == ["consensus"]
    assert found["valley"] is None


@pytest.mark.world
@needs_curvlinops
def test_consensus_and_workers_are_measured(capfd: pytest.CaptureFixture[str], run: Path) -> None:
    code, out, err = command(capfd, "flatness", run, "--pictures", "--samples", "150")
    assert (code, err) == (0, "")
    found: dict[str, Any] = json.loads((run / "flatness.json").read_text())
    assert list(found["models"]) == ["consensus", *(f"worker {i}" for i in range(4))]
    assert (found["samples"], found["parameters"]) == (150, 4810)
    consensus = found["models"]["consensus"]
    assert consensus["test_error"] == RunFolder(run).events()[-1]["error"]
    assert consensus["gap"] == consensus["test_error"] - consensus["train_error"]
    assert len(consensus["eigenvalues"]) == 3
    assert consensus["trace"]["standard_error"] > 0.0
    ratio = consensus["trace"]["value"] / consensus["loss"]
    assert consensus["trace_over_loss"]["value"] == pytest.approx(ratio)
    assert list(consensus["sharpness"]) == ["0.05", "0.5"]
    inverse = 4.0 / sum(found["valley"]["border_distances"])
    assert found["valley"]["inverse_mean"] == pytest.approx(inverse)
    spectrum = found["disagreement"]
    assert (spectrum["rounds"], spectrum["gaps"]) == (2, 8)
    assert len(spectrum["singular_values"]) == 6
    assert spectrum["chance"] == pytest.approx(6 / 4810)
    assert len(spectrum["eigenvector_shares"]) == 3
    assert 0.0 < spectrum["dominant_share"] <= 1.0
    assert "8 gaps x_i - mean(x) of 2 rounds span 6 dimensions" in out
    for words in ("worker 3", "Inverse mean valley", "150 of 200 training samples", "plane.png"):
        assert words in out
    for name in ("flatness", "line", "plane"):
        assert (run / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.world
def test_the_gap_is_taken_from_some_training_samples(
    capfd: pytest.CaptureFixture[str], run: Path
) -> None:
    errors = {}
    for few in ("20", "200", "1000"):
        code, out, _ = command(capfd, "flatness", run, "--eigenvalues", "0", "--gap-samples", few)
        assert code == 0
        assert f"the train column over {min(int(few), 200)};" in out
        models = json.loads((run / "flatness.json").read_text())["models"]
        errors[few] = [(one["train_error"], one["test_error"]) for one in models.values()]
    assert errors["200"] == errors["1000"] != errors["20"]
    assert all(20 * train == pytest.approx(round(20 * train)) for train, _ in errors["20"])
    assert [test for _, test in errors["20"]] == [test for _, test in errors["200"]]


@pytest.mark.world
def test_the_same_seed_measures_the_same_and_all_samples_give_the_training_loss(
    capfd: pytest.CaptureFixture[str], run: Path
) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        args = ("--eigenvalues", "0", "--samples", "50", "--seed", seed)
        assert command(capfd, "flatness", run, *args)[0] == 0
        texts.append(json.loads((run / "flatness.json").read_text())["models"])
    assert texts[0] == texts[1] != texts[2]
    assert command(capfd, "flatness", run, "--eigenvalues", "0")[0] == 0
    task = Digits(train_size=200)
    model, data = task.model(0).double(), task.data(0)
    model.load_state_dict(RunFolder(run).load_model())
    loss = task.loss(model, data.train_inputs.double(), data.train_targets).item()
    found = json.loads((run / "flatness.json").read_text())["models"]["consensus"]["loss"]
    assert found == pytest.approx(loss, rel=1e-9)


WRONG = {
    "no run": (("missing",), "missing is not a run folder"),
    "samples": (("run", "--samples", "1"), "samples must be at least 2, got 1"),
    "eigenvalues": (("run", "--eigenvalues", "-1"), "eigenvalues must be at least 0, got -1"),
    "radii": (("run", "--radii", "0.1", "0"), "radii must be positive and finite, got 0.0"),
    "steps": (("run", "--ascent-steps", "0"), "ascent_steps must be at least 1, got 0"),
    "kappa": (("run", "--kappa", "1"), "kappa must be larger than 1 and finite, got 1.0"),
    "device": (("run", "--device", "abacus"), "device 'abacus' can't be used here"),
}


@pytest.mark.world
@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], run: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    args, said = WRONG[case]
    code, out, err = command(capfd, "flatness", *args)
    assert (code, out) == (2, "")
    assert err.startswith("grawa: ") and said in err and err.count("\n") == 1
    assert not (run / "flatness.json").exists()


def broken(run: Path, what: str) -> None:
    if what == "no model":
        (run / "model.safetensors").unlink()
    elif what == "a worker cut short":
        path = run / "workers" / "worker-1.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
    elif what == "a worker's rounds missing":
        (run / "rounds" / "worker-2.safetensors").unlink()
    elif what == "a worker with fewer rounds":
        path = run / "rounds" / "worker-1.safetensors"
        write_model({name: x[1:] for name, x in load_file(path).items()}, path)
    elif what == "rounds of another model":
        write_model({"0.weight": torch.zeros(2, 3)}, run / "rounds" / "worker-1.safetensors")
    elif what == "a worker missing":
        (run / "workers" / "worker-2.safetensors").unlink()
    else:
        config = (run / "config.toml").read_text()
        (run / "config.toml").write_text(config.replace("digits:train_size=200", "logistic"))


BROKEN = {
    "no model": "model.safetensors is missing: the run has not finished",
    "a worker cut short": "worker-1.safetensors is not a complete safetensors file",
    "a worker missing": "worker-2.safetensors is missing, while other workers' files exist",
    "a worker's rounds missing": "rounds/worker-2.safetensors is missing, while other workers'",
    "a worker with fewer rounds": "--keep-rounds has kept 1, 2 rounds of different workers",
    "rounds of another model": "not of this task's model: 0.weight is missing or has another shape",
    "another task": "model.safetensors is not a model of logistic",
}


@pytest.mark.world
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_run_is_one_clear_line_and_exit_code_2(
    capfd: pytest.CaptureFixture[str], run: Path, what: str
) -> None:
    broken(run, what)
    (run / "flatness.json").write_text("of before")
    code, out, err = command(capfd, "flatness", run, "--eigenvalues", "0")
    assert (code, out) == (2, "")
    assert BROKEN[what] in err and err.count("\n") == 1
    assert (run / "flatness.json").read_text() == "of before"


@pytest.mark.world
def test_without_curvlinops_the_extra_is_named_and_the_rest_can_be_measured(
    capfd: pytest.CaptureFixture[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "curvlinops", None)
    code, _, err = command(capfd, "flatness", run)
    assert code == 2
    assert "pip install 'grawa[flatness]'" in err and err.count("\n") == 1
    assert command(capfd, "flatness", run, "--eigenvalues", "0")[0] == 0
    assert json.loads((run / "flatness.json").read_text())["models"]["worker 3"]["trace"] is None


@pytest.mark.world
def test_workers_on_the_consensus_have_no_valley_and_no_landscape(
    capfd: pytest.CaptureFixture[str], run: Path
) -> None:
    shutil.rmtree(run / "rounds")
    for worker in range(4):
        shutil.copy(run / "model.safetensors", run / "workers" / f"worker-{worker}.safetensors")
    code, out, _ = command(capfd, "flatness", run, "--eigenvalues", "0", "--pictures")
    assert code == 0
    assert "No worker valley: " in out and "no pictures of the loss between models: " in out
    assert (
        "No table of the directions in which workers differ: their parameters before rounds were"
        in out
    )
    assert not (run / "line.png").exists()


def test_workers_that_share_gradients_do_not_differ(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = ("--strategy", "data_parallel", "--processes", "1", "--keep-rounds", "1")
    assert command(capfd, *RUN, *args, "--out", tmp_path / "run")[0] == 0
    code, out, _ = command(capfd, "flatness", tmp_path / "run", "--eigenvalues", "0")
    assert code == 0
    assert (
        "No table of the directions in which workers differ: they were equal before each round"
        in out
    )


@pytest.mark.world
def test_a_worker_that_had_no_part_in_a_round_has_no_gap(
    capfd: pytest.CaptureFixture[str], run: Path
) -> None:
    path = run / "rounds" / "worker-1.safetensors"
    kept = load_file(path)
    for value in kept.values():
        value[0] = torch.nan
    write_model(kept, path)
    assert command(capfd, "flatness", run, "--eigenvalues", "0")[0] == 0
    spectrum = json.loads((run / "flatness.json").read_text())["disagreement"]
    assert (spectrum["rounds"], spectrum["gaps"], len(spectrum["singular_values"])) == (2, 7, 5)
