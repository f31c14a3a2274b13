"""`grawa compare` and `grawa ablate`, from the command line to the table."""

import json
import math
import os
import re
import shutil
import signal
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from grawa.lab.cli.main import main
from grawa.lab.cli.process import strategy_for
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.study_toml import as_toml
from grawa.lab.experiments.trial import Result
from grawa.lab.experiments.tuning import at_edge
from grawa.lab.report.outcomes import outcomes_of
from grawa.lab.report.power import detectable
from grawa.lab.report.tables import Unit
from grawa.lab.report.verdicts import LEVEL, verdicts_of
from grawa.lab.tasks import Data, Digits, Task
from grawa.lab.train.events import Finished
from grawa.lab.train.loop import train
from grawa.lab.train.settings import Settings
from grawa.lab.train.sharing import load
from tests.lab.cli.processes import Ended, all_gone, children_of, grawa, started, until
from tests.lab.experiments.studies import result
from tests.lab.tasks.archives import binary_files, write_folder
from tests.world import forks

SMALL = ("digits:train_size=200", "--steps", "16", "--sync-every", "4", "--batch-size", "8")
STUDY = (
    "compare", *SMALL, "--strategies", "best=mgrawa:score=training:power=2,uniform,dp_sgd",
    "--seeds", "2", "--tune", "1", "--grid", "2", "--grow", "1",
    "--faults", "clean,wrong-labels:3", "--points", "3", "--axis", "time",
)  # fmt: skip
# Paces; settings x conditions, one of them beyond the grid, as of two one is always at its edge;
# seeds x conditions.
TRIALS = 3 + 3 * (2 + 1) * 2 + 3 * 2 * 2


def here(*args: str | Path) -> Ended:
    """Runs the command in this process, its trials in one other."""
    forks()
    return grawa(*args, "--jobs", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study's folder, and what was printed."""
    path = tmp_path_factory.mktemp("studies") / "whole"
    done = here(*STUDY, "--out", path)
    assert (done.code, done.err) == (0, "")
    return path, done.out


def results(path: Path) -> dict[str, Result]:
    return {result.key: result for result in StudyFolder(path).found().results}


def without_time(path: Path) -> dict[str, dict[str, Any]]:
    return {key: {**r.as_json(), "seconds": 0} for key, r in results(path).items()}


@pytest.mark.world
def test_a_study_ends_in_a_table_verdicts_and_a_page(whole: tuple[Path, str]) -> None:
    path, said = whole
    assert len(results(path)) == TRIALS
    for words in (
        "clean: test error (%) after",
        "minus",
        "95% CI",
        "p, Holm",
        f"{TRIALS}/{TRIALS} trials",
        "Ends better, at equal time:",
        "report.html",
    ):
        assert words in said
    assert "<svg" in (path / "report.html").read_text()


@pytest.mark.world
def test_a_study_begins_with_its_answer_in_the_terminal_and_on_the_page(
    whole: tuple[Path, str],
) -> None:
    path, said = whole
    begin = said.index("Lowest test error (clean): ")
    assert begin < said.index("clean: test error (%) after")
    page = (path / "report.html").read_text()
    assert page.index("Lowest test error (clean): ") < page.index("<h2>")
    answer = said[begin : said.index("best stands for mgrawa:score=training:power=2.")].splitlines()
    assert [line.partition(" ")[0] for line in answer] == ["Lowest", "Lowest", "Compared", "These"]
    again = grawa("report", path).out
    assert again.startswith(said[begin : begin + 40])
    assert "best stands for mgrawa:score=training:power=2." in again


@pytest.mark.world
def test_a_grid_grows_where_its_best_is_at_the_edge_and_the_limit_is_told(
    whole: tuple[Path, str],
) -> None:
    path, said = whole
    study, found = StudyFolder(path).study(), results(path).values()
    for arm, condition in product(study.arms, study.conditions):
        place = (arm.name, condition.name)
        tuned = {r.setting: r for r in found if r.role == "tune" and (r.arm, r.condition) == place}
        lrs = [tuned[setting].config["lr"] for setting in sorted(tuned)]
        assert lrs[:2] == [0.0354, 0.283]
        low, high = tuned[0].error, tuned[1].error
        assert low is not None and high is not None
        assert lrs[2:] == [2.26 if high < low else 0.00442]
        assert (
            f"{arm.name} ({condition.name}): the best learning rate is at the edge of those tried; "
            f"trying {lrs[2]:g} too"
        ) in said
    still = dict.fromkeys(r.arm for r in found if r.role == "test" and at_edge(study, r))
    told = f"at the edge of all that were tried for {', '.join(still)}: one beyond it might be"
    assert (told in said) == bool(still)
    assert "2 + 1" in (path / "report.html").read_text()


@pytest.mark.world
def test_every_field_of_the_trials_is_documented_and_no_other(whole: tuple[Path, str]) -> None:
    page = (Path(__file__).parents[3] / "docs/lab/trials.md").read_text()
    _, _, text = page.partition("## trials.jsonl")
    documented = re.findall(r"^\| `([a-z_.]+)` \|", text, re.M)
    assert len(documented) == len(set(documented))
    lines = (whole[0] / "trials.jsonl").read_text().splitlines()
    written = {field for line in lines for field in fields_of(json.loads(line))}
    assert set(documented) - WHOLE == written - WHOLE


WHOLE = {
    "weights", "flatness", "flatness.valley", "flatness.models.consensus.trace",
    "flatness.models.consensus.trace_over_loss",
}  # fmt: skip
"""Objects that are null in some lines, or whose fields are documented beside them."""


def fields_of(entry: dict[str, Any], place: str = "") -> list[str]:
    """The names of all fields, those of objects within others with a dot."""
    found = []
    for name, value in entry.items():
        if isinstance(value, dict) and name not in {"config", "sharpness"}:
            found += fields_of(value, f"{place}{name}.")
        else:
            found.append(place + name)
    return found


@pytest.mark.world
def test_a_trial_is_the_run_that_grawa_train_makes(whole: tuple[Path, str]) -> None:
    found = next(
        r
        for r in results(whole[0]).values()
        if (r.role, r.arm, r.condition, r.seed) == ("test", "best", "wrong-labels:3", 1)
    )
    config = TrainConfig.from_toml(found.config, Path("trials.jsonl"))
    assert (config.fault, config.seed, config.processes) == (("wrong-labels:3",), 1, None)
    *_, finished = train(Digits(train_size=200), partial(strategy_for, config), config.settings())
    assert isinstance(finished, Finished)
    assert found.error == pytest.approx(finished.error)
    assert found.curve.error[-1] == found.error
    assert len(found.curve.steps) >= 3
    assert found.weights is not None


@pytest.mark.world
def test_methods_get_as_much_of_the_axis(whole: tuple[Path, str]) -> None:
    tests = [r for r in results(whole[0]).values() if r.role == "test"]
    ends = {r.arm: (r.curve.steps[-1], r.curve.time[-1]) for r in tests}
    assert ends["best"][0] == ends["uniform"][0] == 16
    assert 0 < ends["dp_sgd"][0] < 8  # 4 messages of 20 ms and more, beside 50 ms of computing
    times = [time for _, time in ends.values()]
    assert max(times) / min(times) < 1.3


@pytest.mark.world
def test_the_same_command_again_runs_nothing(whole: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "again"
    shutil.copytree(whole[0], path)
    before = (path / "trials.jsonl").read_bytes()
    done = here(*STUDY, "--out", path)
    assert done.code == 0
    assert f"continuing after {TRIALS} trials" in " ".join(done.out.split())
    assert (path / "trials.jsonl").read_bytes() == before


@pytest.mark.world
def test_a_killed_study_goes_on_to_the_same_results(
    whole: tuple[Path, str], tmp_path: Path
) -> None:
    path = tmp_path / "killed"
    trials = path / "trials.jsonl"
    with started(tmp_path / "output", *STUDY, "--out", path) as running:
        until(lambda: trials.exists() and trials.read_text().count("\n") > 4, "trials")
        running.process.kill()
        running.wait()
    assert len(results(path)) < TRIALS
    with trials.open("a") as file:
        file.write('{"schema": 1, "key": "test/mg')  # as a crash leaves it
    done = here(*STUDY, "--out", path)
    assert done.code == 0
    assert "lines of trials.jsonl are incomplete; these trials run again" in done.out
    assert without_time(path) == without_time(whole[0])


@pytest.mark.world
@pytest.mark.parametrize("to", ["the command", "everyone in the terminal"])
def test_an_interrupted_study_ends_at_once_with_its_processes(to: str, tmp_path: Path) -> None:
    study = ("compare", "digits", "--steps", "900000", "--seeds", "2", "--tune", "0",
             "--axis", "steps", "--jobs", "2", "--out", tmp_path / "interrupted")  # fmt: skip
    with started(tmp_path / "output", *study) as running:
        until(lambda: len(trials_of(running.pid)) == 2, "the processes of two trials")
        processes = children_of(running.pid) | trials_of(running.pid)
        (os.kill if to == "the command" else os.killpg)(running.pid, signal.SIGINT)
        code, output = running.wait()
    assert code == 130
    last = output.splitlines()[-1]
    assert last == "grawa: interrupted; the same command continues where it stopped"
    assert "Traceback" not in output
    all_gone(sorted(processes))


def trials_of(pid: int) -> set[int]:
    """The processes of a study's trials, which one of its processes has forked."""
    return {trial for child in children_of(pid) for trial in children_of(child)}


@pytest.mark.world
def test_a_finished_study_is_run_anew_if_that_is_asked_for(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "study"
    shutil.copytree(whole[0], path)
    ran: list[int] = []

    def run(_: object, folder: StudyFolder, *__: object) -> None:
        ran.append(len(folder.found().results))

    monkeypatch.setattr("grawa.lab.cli.studies.run_study", run)
    assert grawa(*STUDY, "--out", path).code == 0  # all results are there
    assert grawa(*STUDY, "--out", path, "--overwrite", "--lr", "0.2").code == 2  # none yet
    assert ran == [TRIALS, 0]
    assert StudyFolder(path).study().base.lr == pytest.approx(0.2)
    assert os.listdir(tmp_path) == ["study"]


@pytest.mark.world
def test_another_study_is_refused_and_nothing_is_lost(
    whole: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (whole[0] / "trials.jsonl").read_bytes()
    with pytest.raises(SystemExit) as stop:
        main([*STUDY, "--out", str(whole[0]), "--lr", "0.2"])
    assert stop.value.code == 2
    assert "has another study: base differs; choose another --out" in capsys.readouterr().err
    assert (whole[0] / "trials.jsonl").read_bytes() == before


@pytest.mark.world
@pytest.mark.parametrize(
    ("knob", "strategies"),
    [
        ("sync_every=2,8", "lgrawa,equal=uniform"),
        ("ema=0.5,0.9", "mgrawa"),
        ("norm_source=training,probe", "mgrawa"),
    ],
)
def test_an_ablation_has_a_picture_of_its_knob(knob: str, strategies: str, tmp_path: Path) -> None:
    path = tmp_path / "ablation"
    done = here("ablate", *SMALL, knob, "--strategies", strategies, "--seeds", "2", "--out", path)
    assert (done.code, done.err) == (0, "")
    name, _, values = knob.partition("=")
    methods = [each.partition("=")[0] for each in strategies.split(",")]
    arms = [f"{method} {name}={v}" for method in methods for v in values.split(",")]
    assert {r.arm for r in results(path).values()} == set(arms)
    page = (path / "report.html").read_text()
    assert f"Effect of {name}" in page
    assert ("equal stands for uniform." in page) == ("equal" in methods)
    first, second = (results(path)[f"test/{arm}/clean/0/0"].config for arm in arms[:2])
    changed = {key for key in first if first[key] != second[key]} - {"evaluate_every"}
    assert changed == {"ema": {"strategy", "score"}, "norm_source": {"score"}}.get(name, {name})


@pytest.mark.world
def test_a_failed_trial_is_said_and_does_not_stop_the_others(tmp_path: Path) -> None:
    path = tmp_path / "diverging"
    faults = "+".join(f"nan:{worker}@3" for worker in range(4))
    done = here(
        "compare", *SMALL, "--strategies", "mgrawa,uniform", "--seeds", "1", "--tune", "0",
        "--faults", f"clean,{faults}", "--axis", "steps", "--out", path,
    )  # fmt: skip
    assert done.code == 0
    assert "failed: all 4 workers have diverged" in done.out
    failed = [r for r in results(path).values() if r.failure]
    assert {(r.arm, r.error) for r in failed} == {("mgrawa", None), ("uniform", None)}
    assert "2 runs failed" in (path / "report.html").read_text()


COMPARE = ("compare", *SMALL)
ABLATE = ("ablate", *SMALL)
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no task": (("compare",), "TASK"),
    "unknown task": (("compare", "mnist"), "there is no task 'mnist'"),
    "data that are not there": (
        ("compare", "cifar10", "--data", "nowhere"),
        "nowhere does not exist",
    ),
    "unknown device": ((*COMPARE, "--device", "tpu"), "device 'tpu' can't be used here"),
    "unknown method": (
        (*COMPARE, "--strategies", "sgd"),
        "no method 'sgd' (did you mean lsgd?); there are",
    ),
    "unknown option of a method": ((*COMPARE, "--strategies", "lgrawa:pul=1"), "no option 'pul'"),
    "empty method": ((*COMPARE, "--strategies", "lgrawa,"), "separated by commas"),
    "a name twice": ((*COMPARE, "--strategies", "a=lsgd,a=dppf"), "'a' is given to two methods"),
    "a method's name": (
        (*COMPARE, "--strategies", "lsgd=dppf"),
        "'lsgd' is the name of a method",
    ),
    "no method behind a name": ((*COMPARE, "--strategies", "a=b"), "there is no method 'b'"),
    "grown for ever": ((*COMPARE, "--grow", "21"), "grow must be at most 20, got 21"),
    "grown backwards": ((*COMPARE, "--grow", "-1"), "grow must be at least 0, got -1"),
    "a method twice": ((*COMPARE, "--strategies", "lsgd,lsgd"), "'lsgd' is given twice"),
    "unknown baseline": ((*COMPARE, "--baseline", "sgd"), "the baseline must be one of mgrawa"),
    "unknown fault": ((*COMPARE, "--faults", "tired:1"), "there is no fault 'tired:1'"),
    "fault of nobody": ((*COMPARE, "--faults", "lr-x6:4"), "the workers are 0 to 3"),
    "unknown axis": ((*COMPARE, "--axis", "money"), "'money'"),
    "no seeds": ((*COMPARE, "--seeds", "0"), "seeds must be at least 1, got 0"),
    "seeds for tuning": ((*COMPARE, "--seeds", "1001"), "the last seed would be 1000"),
    "negative tune": ((*COMPARE, "--tune", "-1"), "tune must be at least 0, got -1"),
    "no grid": ((*COMPARE, "--grid", "0"), "grid must be at least 1, got 0"),
    "no points": ((*COMPARE, "--points", "0"), "points must be at least 1"),
    "no jobs": ((*COMPARE, "--jobs", "-1"), "jobs must be at least 1"),
    "link": ((*COMPARE, "--link", "fast"), "write a link as"),
    "tune_faults untuned": (
        (*COMPARE, "--tune", "0", "--tune-faults", "clean"),
        "tune_faults needs --tune",
    ),
    "flatness of nothing": (
        (*COMPARE, "--flatness", "0", "--flatness-faults", "clean"),
        "flatness_faults needs --flatness",
    ),
    "flatness elsewhere": (
        (*COMPARE, "--flatness", "64", "--flatness-faults", "nan:0@1"),
        "flatness can be measured under clean, not under 'nan:0@1'",
    ),
    "unknown further option": ((*COMPARE, "--options", "momentum=1"), "no option 'momentum'"),
    "the study's own": ((*COMPARE, "--options", "seed=1"), "seed can't be given in --options"),
    "too many workers": ((*COMPARE, "--workers", "100"), "fewer than a batch"),
    "no knob": (ABLATE, "KNOB"),
    "knob without values": ((*ABLATE, "pull"), "write a knob as name=value,value"),
    "unknown knob": ((*ABLATE, "push=1,2"), "has no option 'push'"),
    "value out of range": ((*ABLATE, "pull=0.5,2"), "pull must lie in [0, 1], got 2.0"),
    "value of another type": (
        (*ABLATE, "workers=4,many"),
        "workers must be a whole number, got 'many'",
    ),
    "a value twice": ((*ABLATE, "workers=4,4"), "is given twice"),
    "not a knob": ((*ABLATE, "seed=1,2"), "seed can't be the knob"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    case: str, tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    args, said = WRONG[case]
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert said in error
    assert error.count("\n") == 1, error
    assert os.listdir(tmp_path) == []


@pytest.mark.world
def test_photographs_are_compared_by_one_command(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "cifar-10-batches-bin", binary_files(10, 12))
    few = ("--workers", "2", "--steps", "4", "--sync-every", "2", "--batch-size", "4")
    study = ("--strategies", "mgrawa,dp_sgd", "--seeds", "1", "--tune", "0", "--axis", "steps")
    args = ("compare", "cifar10:model=cnn", "--data", data, *few, *study)
    done = here(*args, "--flatness", "8", "--out", tmp_path / "s")
    assert (done.code, done.err) == (0, "")
    assert "minus" in done.out
    found = results(tmp_path / "s").values()
    assert {(r.config["data"], r.config["device"]) for r in found} == {(str(data), "cpu")}
    assert not any(r.failure for r in found)


@pytest.mark.world
def test_no_common_axis_is_one_clear_line(tmp_path: Path) -> None:
    alone = ("--workers", "1", "--seeds", "1", "--tune", "0", "--axis", "bytes")
    done = here("compare", *SMALL, *alone, "--out", tmp_path / "study")
    assert done.code == 2
    assert done.err.startswith(
        "grawa: methods can't be compared at equal bytes, because mgrawa uses none"
    )
    assert done.err.count("\n") == 1


def studies_of(monkeypatch: pytest.MonkeyPatch, *args: str) -> Study:
    """The study that a command would run."""
    found: list[Study] = []
    for command in ("compare", "ablate"):
        monkeypatch.setattr(
            f"grawa.lab.cli.{command}.run", lambda study, asked: found.append(study)
        )
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    assert stop.value.code == 0
    return found[0]


def effect(study: Study, points: float) -> list[Result]:
    """Made-up results, in which all methods but the baseline are worse by so many standard
    deviations of the paired differences."""
    random = np.random.default_rng(0)
    return [
        result(arm.name, [0.9, error], seed=seed)
        for arm in study.arms
        for seed, error in zip(
            study.seeds,
            0.05
            + 0.01 * _standardised(random.standard_normal(len(study.seeds)))
            + 0.01 * points * (arm.name != study.baseline),
            strict=True,
        )
    ]


def _standardised(values: Any) -> Any:
    return (values - values.mean()) / values.std(ddof=1) / math.sqrt(2.0)


def test_a_quick_study_can_win(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = studies_of(monkeypatch, "compare", "digits", "--quick")
    tests = len(asked.arms) - 1
    assert detectable(1.0, len(asked.seeds), LEVEL / tests) < 1.0
    outcomes = outcomes_of(asked, effect(asked, 2.0))
    verdicts, _ = verdicts_of(asked, outcomes, Unit("test error")).values()
    assert [verdict.outcome for verdict in verdicts] == ["supported"] * tests
    # As many runs as ten methods with four seeds, in which a difference had to be over four times
    # large as its standard deviation.
    assert asked.count() <= 10 + 10 * 4 + 10 * 4
    assert detectable(1.0, 4, LEVEL / 9) > 4.0


def test_make_demo_asks_a_valid_question(monkeypatch: pytest.MonkeyPatch) -> None:
    makefile = (Path(__file__).parents[3] / "Makefile").read_text().replace("\\\n", " ")
    (command,) = re.findall(r"\$\(BIN\)/grawa (compare .*)", makefile)
    asked = studies_of(monkeypatch, *command.split())
    assert asked.baseline == "local_sgd"
    assert {arm.name for arm in asked.arms} == {"local_sgd", "norms", "losses"}
    assert len(asked.populations) >= 12


def test_the_same_question_has_the_same_folder(tmp_path: Path) -> None:
    from grawa.lab.cli.studies import default_name
    from tests.lab.experiments.studies import study

    assert default_name(study()) == default_name(study())
    assert default_name(study()) != default_name(study(points=5))
    assert json.dumps(as_toml(study()))


def test_a_study_is_checked_on_data_that_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def counting(task: Task, settings: Settings, device: torch.device) -> Data:
        loaded.append(task)
        return load(task, settings, device)

    monkeypatch.setattr("grawa.lab.cli.run.load", counting)
    monkeypatch.setattr("grawa.lab.cli.compare.run", lambda study, asked: None)
    with pytest.raises(SystemExit):
        main(["compare", "digits", "--faults", "clean,mixed:1", "--strategies", "mgrawa,lsgd"])
    assert loaded == [Digits()]
