"""The command, from its arguments to its files, output and exit code."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from grawa.lab.cli.process import run_process
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.lock import locked
from grawa.lab.experiments.run_folder import RunFolder
from tests.lab.cli.processes import environment, grawa
from tests.lab.tasks.archives import binary_files, python_files, write_archive
from tests.world import launched, results

RUN = ("train", "digits", "--workers", "4", "--steps", "64", "--checkpoint-every", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of a run in four processes: a real launch of the command."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    done = subprocess.run(
        [sys.executable, "-m", "grawa", *RUN, "--out", str(path)],
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return path, done.stdout


FIRST, SECOND = "save-000001-round-00000001", "save-000002-round-00000002"


def names_saved(run: Path) -> list[str]:
    return [path.name for path in RunFolder(run).saved()]


def model_bytes(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.world
def test_one_process_hosts_all_workers_to_the_same_numbers(
    command: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    assert command(*RUN, "--out", "one", "--processes", "1").code == 0
    # Not to the bit: this process computes with more threads than each of the four.
    ours, theirs = (RunFolder.open(path).load_model() for path in (tmp_path / "one", whole[0]))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0.0, atol=1e-5)


@pytest.mark.world
def test_two_processes_host_two_workers_each_to_the_same_numbers(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    assert grawa(*RUN, "--out", tmp_path / "two", "--processes", "2").code == 0
    ours, theirs = (RunFolder.open(path).load_model() for path in (tmp_path / "two", whole[0]))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0.0, atol=1e-5)


@pytest.mark.world
def test_a_run_leaves_its_folder(whole: tuple[Path, str]) -> None:
    run, _ = whole
    assert sorted(os.listdir(run)) == [
        ".lock",
        "checkpoints",
        "config.toml",
        "environment.json",
        "events.jsonl",
        "model.safetensors",
    ]
    config = tomllib.loads((run / "config.toml").read_text())
    assert (config["task"], config["steps"], config["strategy"]) == ("digits", 64, "lgrawa")
    environment = json.loads((run / "environment.json").read_text())
    assert shlex.split(environment["command"])[1:] == [*RUN, "--out", str(run)]
    events = RunFolder.open(run).events()
    assert [event["kind"] for event in events] == ["started", "round", "round", "finished"]
    assert all(event["schema"] == 1 for event in events)
    assert [event["step"] for event in events] == [0, 32, 64, 64]
    assert (events[0]["workers"], events[0]["processes"]) == (4, 4)
    assert len(events[1]["weights"]) == 4
    assert names_saved(run) == [FIRST, SECOND]
    # Of each worker, of each process, what they share, and the manifest; each with its checksum.
    assert len(os.listdir(run / "checkpoints" / SECOND)) == 2 * (4 + 4 + 1 + 1)


@pytest.mark.world
def test_evaluate_prints_the_error_of_the_runs_table(command: Any, whole: tuple[Path, str]) -> None:
    run, printed = whole
    error = RunFolder.open(run).events()[-1]["error"]
    assert 0.0 < error < 0.5
    row = next(line for line in printed.splitlines() if "test error of the consensus" in line)
    assert f"{error:.2%}" in row
    done = command("evaluate", run)
    assert done.code == 0
    assert f"test error of {run}/model.safetensors: {error:.2%}" in done.out.replace("\n", "")


def interrupted(whole: Path, path: Path) -> Path:
    """The run as it was right before the end of its last round."""
    shutil.copytree(whole, path)
    (path / "model.safetensors").unlink()
    shutil.rmtree(path / "checkpoints" / SECOND)
    lines = (path / "events.jsonl").read_text().splitlines(keepends=True)
    (path / "events.jsonl").write_text("".join(lines[:-1]))  # without "finished"
    with (path / "events.jsonl").open("a") as events:
        events.write('{"schema": 1, "kind": "rou')
    return path


@pytest.mark.world
def test_a_resumed_run_ends_with_the_same_bits(whole: tuple[Path, str], tmp_path: Path) -> None:
    run = interrupted(whole[0], tmp_path / "resumed")
    done = grawa("resume", run)
    assert (done.code, done.err) == (0, "")
    notices = "1 lines of events.jsonl are incomplete and were ignored.\ncontinues from the check"
    assert notices in done.out
    assert model_bytes(run) == model_bytes(whole[0])
    events, expected = (RunFolder.open(path).events() for path in (run, whole[0]))
    kinds = ["started", "started", "round", "round", "finished"]
    assert [event["kind"] for event in events] == kinds
    for name in ("round", "step", "weights", "scores", "losses", "consensus_distance"):
        assert events[2][name] == expected[1][name]
        assert events[3][name] == expected[2][name]
    for name in ("metric", "error", "round", "step"):
        assert events[-1][name] == expected[-1][name]


@pytest.mark.world
def test_resuming_needs_as_many_processes(
    command: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    run = interrupted(whole[0], tmp_path / "run")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config + "processes = 1\n")
    events = (run / "events.jsonl").read_text()
    done = command("resume", run)
    assert done.code == 2
    assert "with 4 workers in 4 processes, and this one has 4 workers in 1 process" in done.err
    assert f"`grawa resume {run} --workers 4 --processes 1` continues with these" in done.err
    assert not (run / "model.safetensors").exists()
    assert (run / "events.jsonl").read_text().startswith(events[:200])


@pytest.mark.world
def test_the_same_workers_go_on_in_other_processes(
    command: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    run = interrupted(whole[0], tmp_path / "run")
    done = grawa("resume", run, "--processes", "2")
    assert (done.code, done.err) == (0, "")
    assert "4 workers in 2 processes go on from a checkpoint of 4 workers in 4 proc" in done.out
    ours, theirs = (RunFolder.open(path).load_model() for path in (run, whole[0]))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0.0, atol=1e-5)


@pytest.mark.world
def test_other_workers_go_on_and_are_reported(
    command: Any, whole: tuple[Path, str], tmp_path: Path
) -> None:
    run = interrupted(whole[0], tmp_path / "run")
    done = grawa("resume", run, "--workers", "6", "--processes", "3")
    assert (done.code, done.err) == (0, "")
    told = (
        "6 workers in 3 processes go on from a checkpoint of 4 workers in 4 processes, workers 4 "
        "to 5 at the center with a fresh optimizer state, all samples dealt anew"
    )
    assert told in done.out
    folder = RunFolder.open(run)
    assert (folder.config().workers, folder.config().processes) == (6, 3)
    assert [len(e["losses"]) for e in folder.events() if e["kind"] == "round"] == [4, 6]
    assert command("evaluate", run).code == 0
    assert command("report", run).code == 0
    assert f"Since round 1: {told}." in (run / "report.html").read_text()


def test_numbers_that_do_not_fit_are_refused(command: Any, run: Path) -> None:
    unfinished(run)
    before = everything(run)
    wrong = {("--workers", "3", "--processes", "2"): "3", ("--workers", "0"): "0"}
    for numbers, said in {**wrong, ("--donors",): "give --workers"}.items():
        done = command("resume", run, *numbers)
        assert done.code == 2
        assert_one_line(done.err, said)
    assert everything(run) == before


FAST = ("--processes", "1", "--workers", "2", "--steps", "8", "--sync-every", "4")


@pytest.mark.parametrize(
    "args",
    [
        ("digits", "--strategy", "data_parallel"),
        ("digits", "--strategy", "data_parallel", "--optimizer", "sam:rho=0.1"),
        ("digits", "--optimizer", "sam:base=adamw", "--lr", "0.01"),
        ("digits", "--strategy", "lsgd:team_size=2"),
        ("digits", "--strategy", "diloco:outer.lr=0.5", "--optimizer", "adamw", "--lr", "0.01"),
        ("digits", "--score", "probe:size=5", "--shards", "dirichlet:0.5"),
        ("digits", "--swa", "50%"),
        ("digits", "--score", "rms:decay=0.9"),
        ("digits", "--score", "norm-times-probe-loss:from=2", "--strategy", "mgrawa"),
        ("digits", "--strategy", "random"),
        ("digits", "--strategy", "inverse_loss:power=2"),
        ("digits", "--strategy", "dppf:push=0.05"),
        ("digits", "--strategy", "slowmo"),
        ("digits", "--fault", "nan:1@3"),
        ("digits", "--stack-workers", "--fault", "lr-x2:1"),
        ("digits:model=cnn:label_noise=0.2", "--strategy", "mgrawa"),
        ("glyphs:train_size=100:model=cnn", "--score", "probe"),
        (
            "text:model=transformer_small:train_bytes=9000:test_bytes=3000:context=32",
            "--fault",
            "wrong-labels:1",
            "--optimizer",
            "adamw",
        ),
        ("wells", "--strategy", "easgd"),
        ("digits", "--fault", "wrong-labels:1", "--fault", "lr-x6:0"),
        ("digits", "--fault", "mixed:1", "--optimizer", "sam"),
        ("digits", "--fault", "mixed:1", "--clock", "virtual", "--schedule", "every"),
        ("digits", "--fault", "graded-labels", "--fault", "graded-batch"),
        ("logistic", "--dtype", "float64", "--lr-schedule", "constant"),
        ("quadratic:dimensions=3", "--no-guard", "--buffers", "local", "--tensorboard"),
    ],
    ids=" ".join,
)
def test_runs_of_many_kinds_can_be_evaluated(command: Any, args: tuple[str, ...]) -> None:
    done = command("train", *args, *FAST, "--out", "run")
    assert (done.code, done.err) == (0, "")
    finished = RunFolder(Path("run")).events()[-1]
    assert (finished["step"], finished["round"]) == (8, 2)
    measured = command("evaluate", "run")
    assert (measured.code, measured.err) == (0, "")
    assert measured.out.startswith(f"{finished['metric']} of run/model.safetensors: ")
    assert Path("run/tensorboard").exists() == ("--tensorboard" in args)


def test_a_population_is_written_into_the_run(command: Any) -> None:
    options = ("--fault", "mixed:1", "--clock", "virtual")
    assert command("train", "digits", *FAST, *options, "--out", "run").code == 0
    drawn = RunFolder(Path("run")).events()[0]["faults"]
    assert len(drawn) == 8
    assert [text.split("=")[0] for text in drawn if text.endswith(":0")][::3] == ["batch", "speed"]
    again = ("--clock", "virtual", *(part for text in drawn for part in ("--fault", text)))
    assert command("train", "digits", *FAST, *again, "--out", "again").code == 0
    assert model_bytes(Path("run")) == model_bytes(Path("again"))


def test_an_average_of_consensuses_is_announced(command: Any) -> None:
    done = command("train", "digits", *FAST, "--swa", "1", "--out", "run")
    assert "test error of the averaged consensus" in done.out
    assert "rounds averaged" in done.out
    assert RunFolder(Path("run")).events()[-1]["averaged_rounds"] == 2


@pytest.mark.world
def test_photographs_are_trained_on_in_processes_and_hosted_to_the_same_numbers(
    command: Any, tmp_path: Path
) -> None:
    write_archive(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", python_files(10, 12))
    args = ("train", "cifar10:model=cnn", "--data", tmp_path, "--workers", "2", "--steps", "6")
    options = ("--sync-every", "3", "--batch-size", "8", "--score", "probe:size=16")
    assert grawa(*args, *options, "--out", tmp_path / "two").code == 0
    assert command(*args, *options, "--processes", "1", "--out", "one").code == 0
    ours, theirs = (RunFolder.open(tmp_path / run).load_model() for run in ("one", "two"))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0.0, atol=1e-5)
    measured = command("evaluate", tmp_path / "two")
    error = RunFolder(tmp_path / "two").events()[-1]["error"]
    assert f"{error:.2%}" in measured.out
    assert command("flatness", tmp_path / "two", "--eigenvalues", "0").code == 0


@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_a_truncated_archive_is_one_clear_line(command: Any, keep: float, tmp_path: Path) -> None:
    path = tmp_path / "cifar-100-binary.tar.gz"
    write_archive(path, "cifar-100-binary", binary_files(100))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    done = command("train", "cifar100", "--data", path, "--out", "run")
    assert done.code == 2
    assert_one_line(done.err, "can't be read to its end")
    assert os.listdir(tmp_path) == [path.name]


def test_a_faulty_worker_is_announced(command: Any) -> None:
    done = command("train", "digits", *FAST, "--fault", "nan:1@6", "--out", "run")
    assert done.code == 0
    assert "round 2: worker 1 left out: parameters are not finite" in done.out


@pytest.mark.parametrize("strategy", ["lgrawa", "mgrawa", "local_sgd", "lsgd", "easgd"])
@pytest.mark.parametrize("guard", ["--guard", "--no-guard"])
def test_a_run_that_diverges_ends_without_a_traceback(
    command: Any, strategy: str, guard: str
) -> None:
    faults = ("--fault", "nan:0@3", "--fault", "nan:1@3")
    done = command("train", "digits", *FAST, *faults, "--strategy", strategy, guard, "--out", "r")
    if guard == "--guard":
        assert done.code == 1
        assert_one_line(done.err, "all 2 workers have diverged (worker 0: parameters are not fin")
    else:
        assert done.code in {0, 1}


def test_a_run_has_a_folder_of_its_own_by_default(command: Any) -> None:
    assert command("train", "quadratic:dimensions=2", *FAST).code == 0
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("quadratic-dimensions-2-lgrawa-seed0-")


def test_the_lists_show_every_name(command: Any) -> None:
    for what, expected in {
        "strategies": ["mgrawa", "lgrawa", "easgd", "lsgd", "local_sgd", "diloco", "uniform"],
        "tasks": ["digits", "quadratic", "logistic", "train_size=1200"],
    }.items():
        done = command(what)
        assert done.code == 0
        assert all(name in done.out for name in expected)


# What a user can get wrong


def assert_one_line(err: str, said: str) -> None:
    """One line that begins with the command's name and says what is wrong."""
    assert err.startswith("grawa: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert said in err


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown command": (("fly",), "there is no command 'fly'; there are train"),
    "misspelt command": (("trian",), "there is no command 'trian' (did you mean train?)"),
    "misspelt option": (
        ("train", "digits", "--stratgy", "x"),
        "there is no option --stratgy (did you mean --strategy?); see `grawa train --help`",
    ),
    "no number": (
        ("train", "digits", "--steps", "x"),
        "--steps must be a whole number, got 'x'; see `grawa train --help`",
    ),
    "500 percent": (
        ("train", "digits", "--until-error", "5", "--evaluate-every", "1"),
        "until_error 5 is 500%: write a percentage, such as 5%, or a fraction, such as 0.05",
    ),
    "no such GPU": (("train", "digits", "--device", "cuda:7"), "has no usable GPU"),
    "no task": (("train",), "TASK is missing; see `grawa train --help`"),
    "two tasks": (("train", "digits", "text"), "there is one argument too many: 'text'"),
    "no value": (("train", "digits", "--steps"), "--steps: expected one argument; see `grawa tr"),
    "unknown task": (("train", "mnist"), "there is no task 'mnist'; there are digits"),
    "unknown task option": (("train", "digits:size=3"), "has no option 'size'"),
    "task option out of range": (("train", "digits:train_size=0"), "train_size must lie between"),
    "no data": (("train", "cifar10"), "give the folder of CIFAR-10: --data DIR"),
    "data that are not there": (
        ("train", "cifar100", "--data", "nowhere"),
        "nowhere does not exist",
    ),
    "a foreign folder": (("train", "cifar10:data=."), "does not contain CIFAR-10"),
    "a foreign folder of photographs": (("train", "imagenet", "--data", "."), "no folder train"),
    "data for a task without": (("train", "digits", "--data", "x"), "has no option 'data'"),
    "unknown model": (("train", "digits:model=vgg16"), "model must be one of mlp, cnn"),
    "shards of text": (
        ("train", "text:model=transformer_small:train_bytes=9000", "--shards", "dirichlet:1"),
        "need a label for each sample",
    ),
    "dimensions": (("train", "quadratic:dimensions=0"), "dimensions must be at least 1"),
    "unknown option": (("train", "digits", "--momentum", "3"), "--momentum"),
    "unknown choice": (("train", "digits", "--dtype", "float16"), "'float16'"),
    "unknown optimizer": (
        ("train", "digits", "--optimizer", "lion"),
        "there is no optimizer 'lion'; there are sgd",
    ),
    "unknown optimizer option": (("train", "digits", "--optimizer", "sam:r=1"), "option 'r'"),
    "unknown strategy": (("train", "digits", "--strategy", "sgd"), "there is no strategy 'sgd'"),
    "unknown strategy option": (
        ("train", "digits", "--strategy", "lgrawa:pul=1"),
        "has no option 'pul'",
    ),
    "strategy option out of range": (
        ("train", "digits", "--strategy", "lgrawa:pull=2"),
        "pull must lie in [0, 1], got 2.0",
    ),
    "teams that leave workers over": (
        ("train", "digits", "--strategy", "lsgd:team_size=3", "--processes", "2"),
        "4 workers can't be split into teams of 3",
    ),
    "teams that leave workers over, in one process": (
        ("train", "digits", "--strategy", "lsgd:team_size=3", "--processes", "1"),
        "4 workers can't be split into teams of 3",
    ),
    "unknown fault": (("train", "digits", "--fault", "tired:1"), "there is no fault 'tired:1'"),
    "population without a seed": (("train", "digits", "--fault", "mixed"), "mixed:SEED"),
    "fault out of range": (
        ("train", "digits", "--fault", "noisy-labels=2:0"),
        "must lie in [0, 1], got 2",
    ),
    "speed on the wall's clock": (("train", "digits", "--fault", "speed=2:0"), "--clock virtual"),
    "population without labels": (("train", "quadratic", "--fault", "mixed:1"), "with labels"),
    "fault of nobody": (("train", "digits", "--fault", "nan:4@1"), "the workers are 0 to 3"),
    "fault without labels": (("train", "quadratic", "--fault", "wrong-labels:0"), "with labels"),
    "stacked batches of one": (
        ("train", "digits", "--stack-workers", "--fault", "batch-of-one:0"),
        "--stack-workers needs the same batch size for all workers",
    ),
    "stacked turns": (
        (
            *("train", "digits", "--stack-workers"),
            *("--clock", "virtual", "--schedule", "shared-count"),
        ),
        "so their steps can't be stacked: leave out --stack-workers",
    ),
    "no workers": (("train", "digits", "--workers", "0"), "workers must be at least 1, got 0"),
    "no steps": (("train", "digits", "--steps", "-1"), "steps must be at least 1, got -1"),
    "no sync": (("train", "digits", "--sync-every", "0"), "sync_every must be a whole number"),
    "no batch": (("train", "digits", "--batch-size", "0"), "batch_size must be at least 1"),
    "average": (
        ("train", "digits", "--swa", "25"),
        "swa 25 is 2500%: write a percentage, such as 25%, or a fraction, such as 0.25",
    ),
    "no rate": (("train", "digits", "--lr", "0"), "lr must be positive, got 0.0"),
    "rate is nan": (("train", "digits", "--lr", "nan"), "lr must be positive, got nan"),
    "timeout": (("train", "digits", "--timeout", "0"), "timeout must be positive"),
    "timeout is nan": (("train", "digits", "--timeout", "nan"), "timeout"),
    "timeout is endless": (("train", "digits", "--timeout", "inf"), "timeout"),
    "checkpoints": (("train", "digits", "--checkpoint-every", "-1"), "must not be negative"),
    "shards": (("train", "digits", "--shards", "dirichlet:0"), 'shards must be "iid" or'),
    "device": (("train", "digits", "--device", "abacus"), "device 'abacus' can't be used here"),
    "norms for losses": (
        ("train", "digits", "--score", "probe", "--strategy", "lsgd"),
        "strategy lsgd can't use the score 'probe'; it can use loss, probe-loss",
    ),
    "losses for norms": (
        ("train", "digits", "--score", "probe-loss"),
        "strategy lgrawa can't use the score 'probe-loss'; it can use training, rms, probe, disp",
    ),
    "score of none": (
        ("train", "digits", "--score", "probe", "--strategy", "diloco"),
        "strategy diloco uses no score, so leave out --score probe",
    ),
    "start of a leader": (
        ("train", "digits", "--strategy", "lsgd", "--score", "loss:from=2"),
        "option 'from' is for strategies that weight workers by their score, not lsgd",
    ),
    "start": (("train", "digits", "--score", "rms:from=0"), "from of score rms must be a whole"),
    "decay": (("train", "digits", "--score", "probe:decay=1"), "decay must lie in [0, 1)"),
    "score": (("train", "digits", "--score", "l1"), "no score 'l1'; there are training, rms"),
    "option of score": (("train", "digits", "--score", "rms:d=1"), "has no option 'd'; it has d"),
    "probe size": (("train", "digits", "--score", "probe:size=0"), "size of score probe must be"),
    "size of no probe": (("train", "digits", "--score", "rms:size=9"), "it uses no probe batch"),
    "what was an option": (("train", "digits", "--norms", "probe"), "--norms"),
    "time between checkpoints": (
        ("train", "digits", "--checkpoint-every", "often"),
        "checkpoint_every must be a number of rounds, such as 20, or a time, such as 10s, got 'of",
    ),
    "checkpoints kept": (
        ("train", "digits", "--keep-checkpoints", "0"),
        "keep_checkpoints must be at least 1, got 0",
    ),
    "processes": (("train", "digits", "--processes", "3"), "divide the 4 workers evenly, got 3"),
    "no processes": (("train", "digits", "--processes", "0"), "evenly, got 0"),
    "too many workers for the data": (
        ("train", "digits", "--workers", "100"),
        "worker 0 would have 12 training samples, fewer than a batch of 16",
    ),
    "evaluate nothing": (("evaluate",), "RUN is missing"),
    "evaluate no run": (("evaluate", "missing"), "missing is not a run folder"),
    "resume no run": (("resume", "missing"), "missing is not a run folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    command: Any, case: str, tmp_path: Path
) -> None:
    args, said = WRONG[case]
    done = command(*args, *(["--out", "run"] if args[:1] == ("train",) else []))
    assert done.code == 2
    assert_one_line(done.err, said)
    assert all(line.endswith("...") for line in done.out.splitlines())  # what is about to start
    assert os.listdir(tmp_path) == []


@pytest.fixture
def run(command: Any, tmp_path: Path) -> Path:
    """A small run's folder."""
    done = command("train", "digits", *FAST, "--checkpoint-every", "1", "--out", "run")
    assert done.code == 0
    return tmp_path / "run"


def everything(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_folder_whose_name_looks_like_markup_is_told_as_it_is(command: Any) -> None:
    done = command("train", "digits", *FAST, "--out", "[/red]x")
    assert (done.code, done.err) == (0, "")
    assert "[/red]x: the run's folder; `grawa evaluate [/red]x` measures its model" in done.out


def test_an_existing_run_is_left_untouched(command: Any, run: Path) -> None:
    before = everything(run)
    done = command("train", "digits", *FAST, "--out", run)
    assert done.code == 2
    assert_one_line(done.err, "exists already, and nothing is overwritten")
    assert everything(run) == before


def test_a_finished_run_is_replaced_if_that_is_asked_for(command: Any, run: Path) -> None:
    before, again = everything(run), ("train", "digits", *FAST, "--seed", "1", "--overwrite")
    done = command(*again, "--out", run, "--strategy", "lsgd:team_size=3", "--steps", "16")
    assert done.code == 2  # and it is kept
    assert {**everything(run), ".lock": b""} == {**before, ".lock": b""}
    assert command(*again, "--out", run).code == 0
    assert RunFolder(run).config().seed == 1
    assert [path.name for path in run.parent.iterdir()] == ["run"]
    done = command(*again)
    assert done.code == 2
    assert_one_line(done.err, "--overwrite needs --out")


def test_a_finished_run_is_not_resumed(command: Any, run: Path) -> None:
    before = everything(run)
    done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, "has finished")
    assert everything(run) == before


def unfinished(run: Path) -> bytes:
    """Makes a run one that was killed before its end was written; returns its model."""
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    assert '"finished"' in lines[-1]
    (run / "events.jsonl").write_text("".join(lines[:-1]))
    return model_bytes(run)


def kinds(run: Path) -> list[tuple[str, int]]:
    return [(event["kind"], event["round"]) for event in RunFolder(run).events()]


def test_a_run_without_checkpoints_begins_anew(command: Any, run: Path) -> None:
    model = unfinished(run)
    shutil.rmtree(run / "checkpoints")
    done = command("resume", run)
    assert (done.code, done.err) == (0, "")
    assert "has no checkpoint yet: the run begins anew" in done.out
    assert model_bytes(run) == model
    assert kinds(run) == [
        ("started", 0), ("started", 0), ("round", 1), ("round", 2), ("finished", 2),
    ]  # fmt: skip


def test_a_run_that_was_killed_after_its_model_was_saved_is_resumed(
    command: Any, run: Path
) -> None:
    model = unfinished(run)
    assert command("resume", run).code == 0
    assert model_bytes(run) == model
    assert kinds(run) == [
        ("started", 0), ("round", 1), ("started", 2), ("round", 2), ("finished", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("steps = 8", "steps was 8, and is 16"),
        ('strategy = "lgrawa"', "strategy was not given, and is mgrawa"),
        ("seed = 0", "seed was not given, and is 1"),
    ],
)
def test_a_run_whose_configuration_was_edited_is_not_resumed(
    command: Any, entry: str, said: str, run: Path
) -> None:
    unfinished(run)
    text = (run / "config.toml").read_text()
    assert entry in text
    new = {"steps = 8": "steps = 16", "seed = 0": "seed = 1"}.get(entry, 'strategy = "mgrawa"')
    (run / "config.toml").write_text(text.replace(entry, new))
    before = everything(run)
    done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, f"have changed since its checkpoint was saved: {said}.")
    assert {**everything(run), ".lock": b""} == {**before, ".lock": b""}


def restarted_on_another_host(table: dict[str, object], path: Path) -> None:
    """A process of a run that only the agent of rank 1 has counted as started again."""
    counted = {"TORCHELASTIC_RESTART_COUNT": os.environ["RANK"]}
    with patch.dict(os.environ, counted), redirect_stdout(StringIO()):
        run_process(TrainConfig.from_toml(table, path), path)


@pytest.mark.world
def test_all_ranks_know_of_a_restart_that_one_host_has_counted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--processes", "2", *FAST[2:], "--checkpoint-every", "1")
    assert grawa("train", "digits", *options, "--out", run).code == 0
    model = unfinished(run)
    part = RunFolder(run).saved()[-1] / "worker-1.pt"
    part.write_bytes(part.read_bytes()[:-1])
    table = RunFolder(run).config().as_toml()
    results(launched(2, restarted_on_another_host, table, run))  # takes the one before it
    assert model_bytes(run) == model
    assert kinds(run)[-3:] == [("round", 1), ("round", 2), ("finished", 2)]


def test_options_that_change_no_number_may_be_edited(command: Any, run: Path) -> None:
    model = unfinished(run)
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(
        text.replace("timeout = 600.0", "timeout = 60.0").replace(
            "checkpoint_every = 1", 'checkpoint_every = "5s"'
        )
    )
    assert command("resume", run).code == 0
    assert model_bytes(run) == model


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_can_be_taken(
    command: Any, run: Path
) -> None:
    model = unfinished(run)
    part = run / "checkpoints" / SECOND / "process-0.pt"
    data = part.read_bytes()
    part.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, "process-0.pt is damaged: its checksum is not the one it was saved")
    assert f"`grawa resume {run} --from {FIRST}`" in done.err
    done = command("resume", run, "--from", FIRST)
    assert (done.code, done.err) == (0, "")
    assert "continues from the checkpoint of round 1" in done.out
    assert model_bytes(run) == model
    assert kinds(run) == [
        ("started", 0), ("started", 1), ("round", 1), ("round", 2), ("finished", 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("save-000007-round-00000007", "run/checkpoints/save-000007-round-00000007"),
        ("last", "'last' is not a checkpoint's name"),
        ("save-000002-round-00000002/..", "'..' is not a checkpoint's name"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_not_resumed_from(
    command: Any, name: str, said: str, run: Path
) -> None:
    unfinished(run)
    done = command("resume", run, "--from", name)
    assert done.code == 2
    assert_one_line(done.err, said)


def test_a_run_that_goes_on_is_not_resumed(command: Any, run: Path) -> None:
    unfinished(run)
    with locked(run):
        done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, f"is being written by process {os.getpid()} on ")


def test_a_checkpoint_that_cannot_be_written_says_what_is_safe(command: Any, run: Path) -> None:
    unfinished(run)
    shutil.rmtree(run / "checkpoints" / SECOND)
    full = OSError(28, "No space left on device")
    with patch("grawa.checkpoints.writing.write_tensors", side_effect=full):
        done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, f"{SECOND} could not be saved (")
    assert f"{FIRST} is complete and untouched): No space left on device" in done.err
    assert f"`grawa resume {run}` continues the run" in done.err
    assert command("resume", run).code == 0


def test_the_last_checkpoints_are_kept(command: Any) -> None:
    options = ("--checkpoint-every", "1", "--keep-checkpoints", "2", "--sync-every", "1")
    assert command("train", "digits", *FAST, *options, "--out", "run").code == 0
    assert [name[-1] for name in names_saved(Path("run"))] == ["7", "8"]


def test_a_run_without_events_is_not_resumed(command: Any, run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "events.jsonl").unlink()
    before = everything(run)
    done = command("resume", run)
    assert done.code == 2
    assert_one_line(done.err, "has no events.jsonl, the record of a run's rounds")
    assert everything(run) == before


BROKEN_CONFIGS = {
    "not toml": "task = ",
    "unknown entry": 'task = "digits"\nmomentum = 0.9\n',
    "no task": "workers = 4\n",
    "empty": "",
    "wrong type": 'task = "digits"\nworkers = "four"\n',
    "wrong type of task": "task = 3\n",
    "wrong dtype": 'task = "digits"\ndtype = "float12"\n',
}


@pytest.mark.parametrize("verb", ["evaluate", "resume"])
@pytest.mark.parametrize("text", BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_a_broken_configuration_is_one_clear_line(
    command: Any, run: Path, verb: str, text: str
) -> None:
    (run / "config.toml").write_text(text)
    if verb == "resume":
        unfinished(run)
    done = command(verb, run)
    assert done.code == 2
    assert_one_line(done.err, "config.toml")


def test_a_run_that_has_not_finished_has_no_model_to_evaluate(command: Any, run: Path) -> None:
    (run / "model.safetensors").unlink()
    done = command("evaluate", run)
    assert done.code == 2
    assert_one_line(done.err, "the run has not finished; see `grawa resume`")


def test_a_model_of_another_task_is_refused(command: Any, run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('"digits"', '"logistic"'))
    done = command("evaluate", run)
    assert done.code == 2
    assert_one_line(done.err, "is not a model of logistic")


def test_a_truncated_model_is_refused(command: Any, run: Path) -> None:
    (run / "model.safetensors").write_bytes(model_bytes(run)[:1000])
    done = command("evaluate", run)
    assert done.code == 2
    assert_one_line(done.err, "is not a complete safetensors file")


def test_an_out_that_can_not_be_written_is_refused(command: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = command("train", "digits", *FAST, "--out", "file/run")
    assert done.code == 2
    assert_one_line(done.err, "can't make the run folder file/run")


def test_a_run_whose_model_is_not_finite_ends_with_one_line_and_saves_no_model(
    command: Any, tmp_path: Path
) -> None:
    run = (
        "train", "digits:train_size=200", "--processes", "1", "--workers", "2", "--steps", "24",
        "--sync-every", "4", "--checkpoint-every", "1", "--keep-checkpoints", "9",
        "--no-guard", "--strategy", "local_sgd",
        "--fault", "nan:1@14", "--evaluate-every", "1",
    )  # fmt: skip
    done = command(*run, "--out", "bad")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "the final model or its test error is not finite after step 24" in line
    assert line.endswith(f"the last checkpoint from before that is bad/checkpoints/{SECOND}")
    folder = RunFolder.open(tmp_path / "bad")
    assert folder.events()[-1]["kind"] == "diverged"
    assert not (folder.path / "model.safetensors").exists()
    assert command("report", "bad").code == 0


@pytest.mark.parametrize("strategy", ["diloco", "local_sgd", "mgrawa"])
@pytest.mark.parametrize("guard", ["--guard", "--no-guard"])
def test_a_result_near_chance_is_not_passed_off_as_one(
    command: Any, strategy: str, guard: str
) -> None:
    run = ("train", "digits:train_size=200", "--processes", "1", "--steps", "32")
    done = command(*run, "--sync-every", "8", "--lr", "30", guard, "--strategy", strategy)
    assert done.code == 0
    warned = [line for line in done.out.splitlines() if line.startswith("warning: ")]
    assert "no better than" in warned[-1]
    assert "lower the learning rate" in warned[-1]
