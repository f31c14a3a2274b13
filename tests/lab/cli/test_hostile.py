"""No command ends in a traceback, or waits for ever, because of what it is given."""

import json
import os
import pickle
import random
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import grawa
from grawa.lab.cli.report import page_of
from grawa.lab.cli.study_config import StudyConfig
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.limits import check_memory
from grawa.lab.experiments.run_folder import RunFolder
from grawa.lab.experiments.saved_models import read_model, write_model
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.trial_lines import trial_of
from grawa.lab.records import read_lines, read_record, read_toml
from grawa.lab.report.page import write_page
from grawa.lab.shapes import WHOLE, table
from grawa.lab.simulate.network import Link, parse_hosts
from grawa.lab.tasks.plain_pickle import load_plain
from grawa.lab.train.faults import Fault
from grawa.lab.train.optimizers import OptimizerChoice
from grawa.lab.train.population import faults_of
from tests.damage import Damage, damages, restore
from tests.fuzzing import MORE, few
from tests.lab.cli.processes import Ended
from tests.lab.experiments.studies import arm, result, study

FEW = few(40)

ESTIMATE = {"value": 1.0, "standard_error": 0.1}
MODEL = {
    "train_error": 0.1, "test_error": 0.2, "gap": 0.1, "loss": 0.5, "gradient_norm": 0.75,
    "sharpness": {"0.05": 0.1, "0.5": None}, "eigenvalues": [ESTIMATE], "trace": ESTIMATE,
    "trace_over_loss": ESTIMATE,
}  # fmt: skip
FLATNESS = {
    "schema": 2, "samples": 8, "of_samples": 9, "gap_samples": 9, "parameters": 5,
    "metric": "test error", "no_valley": "", "models": {"consensus": MODEL, "worker 0": MODEL},
    "valley": {"kappa": 2.0, "worker_distances": [1.0], "border_distances": [None],
               "inverse_mean": 0.0},
}  # fmt: skip
PLACE = {"schema": 1, "step": 4, "round": 1, "elapsed": 0.5}
TIMES = {"bytes_sent": 9, "compute_seconds": 0.1, "round_seconds": 0.1, "exposed_seconds": 0.1}
EVENTS: list[dict[str, Any]] = [
    {"schema": 1, "kind": "started", "step": 0, "parameters": 5, "processes": 1, "tensors": ["a"]},
    {**PLACE, **TIMES, "kind": "round", "losses": [0.5, None], "weights": [[0.5], [0.5]],
     "consensus_distance": 0.1, "left_out": {"1": "it is not finite"}},
    {**PLACE, "kind": "evaluated", "error": 0.5},
    {**PLACE, **TIMES, "kind": "finished", "metric": "test error", "error": 0.4},
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and a study, made up."""
    path = tmp_path_factory.mktemp("whole")
    run = RunFolder.create(path / "run", TrainConfig(task="digits", workers=2))
    lines = "".join(json.dumps(event) + "\n" for event in EVENTS)
    (run.path / "events.jsonl").write_text(lines)
    (run.path / "flatness.json").write_text(json.dumps(FLATNESS))
    folder = StudyFolder.begin(path / "study", study())
    for name in ("mgrawa", "uniform"):
        folder.append(result(name, [0.9, 0.5]))
    return path


FILES = (
    "run/config.toml", "run/events.jsonl", "run/flatness.json", "run/environment.json",
    "study/study.toml", "study/trials.jsonl", "study/environment.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def versions(whole: Path) -> list[tuple[str, Damage]]:
    """Every damaged version of every file."""
    return [(file, damage) for file in FILES for damage in damages(whole / file)]


@FEW
@given(seed=st.integers(0, 2**32))
def test_a_damaged_file_is_refused_by_name_or_told_and_left_out(
    seed: int,
    whole: Path,
    versions: list[tuple[str, Damage]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    for file, damage in random.Random(seed).sample(versions, 8):
        damage.apply(folder / file)
        with at_once():
            try:
                page = page_of((folder / file).parent)
                if MORE:
                    write_page([page], folder / "report.html")
            except grawa.UserError as error:
                assert str((folder / file).parent) in str(error), damage.what
        restore(folder / file, whole / file)


class at_once:
    """Ends what waits for ever."""

    def __enter__(self) -> None:
        def stop(*_: object) -> None:
            raise AssertionError("this waits for ever")

        self._before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(20)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self._before)


def test_damage_is_told_with_its_line_and_its_entry(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    path = tmp_path / "run" / "events.jsonl"
    lines = [json.dumps(event) for event in EVENTS]
    lines.insert(2, json.dumps({**EVENTS[1], "losses": [0.5, "x"]}))
    path.write_text("\n".join(lines) + "\n")
    notices = page_of(tmp_path / "run").notices
    assert list(notices) == [
        "1 line of events.jsonl is damaged and left out: line 3: losses[1] must be a number, got "
        "'x'."
    ]


def test_trials_that_are_none_of_the_study_are_left_out(whole: Path) -> None:
    lines = read_lines(whole / "study" / "trials.jsonl", trial_of(study(), 2))
    shape = trial_of(study(), 2)
    assert (
        shape({**lines.entries[0], "arm": "lsgd"}, WHOLE) == "study.toml has no setting 0 of 'lsgd'"
    )
    assert shape({**lines.entries[0], "condition": "x"}, WHOLE) == "study.toml has no condition 'x'"


PLACES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_never_waited_for(place: str, tmp_path: Path) -> None:
    path = tmp_path / "it"
    PLACES[place](path)
    for read in (read_toml, lambda path: read_record(path, table({}))):
        with at_once(), pytest.raises(grawa.UserError, match=r"it can't be read"):
            read(path)


@pytest.mark.parametrize("option", ["--config", "--data"])
@pytest.mark.parametrize("task", ["cifar10", "imagenet"])
def test_a_pipe_as_data_or_configuration_is_refused(
    option: str, task: str, command: Callable[..., Ended]
) -> None:
    os.mkfifo("pipe")
    with at_once():
        done = command("train", task, option, "pipe")
    assert done.code == 2
    assert done.err.startswith("grawa: ")
    assert done.err.count("\n") == 1


def test_lists_that_share_parts_are_read_once_each() -> None:
    shared: list[Any] = [1]
    for _ in range(200):
        shared = [shared, shared]
    with at_once():
        found = load_plain(pickle.dumps(shared, 2))
    assert found[0] is found[1]


def test_tuples_that_share_parts_are_refused() -> None:
    shared: tuple[Any, ...] = (1,)
    for _ in range(60):
        shared = (shared, shared)
    raw = pickle.dumps(shared, 2)
    as_key = b"\x80\x02}" + raw[2:-1] + b"K\x01s."
    with at_once(), pytest.raises(ValueError, match="refer to each other more than data do"):
        load_plain(as_key)
    names = [f"image {i}".encode() for i in range(100)]  # each with a tuple of its own
    assert load_plain(pickle.dumps({b"names": names}, 2)) == {b"names": names}


def test_an_archive_of_something_huge_is_refused(command: Callable[..., Ended]) -> None:
    with tarfile.open("huge.tar", "w") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/other")
        member.size = 10**12
        archive.fileobj.write(member.tobuf())
    done = command("train", "cifar10", "--data", "huge.tar")
    assert (done.code, "holds more than 2 GB" in done.err) == (2, True)


def test_members_that_are_links_are_no_files(command: Callable[..., Ended]) -> None:
    with tarfile.open("links.tar", "w") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    done = command("train", "cifar10", "--data", "links.tar")
    assert (done.code, "does not contain CIFAR-10" in done.err) == (2, True)


HUGE = ("1000000000", "99999999999999999999", "1" + "0" * 400, "9" * 5000)
WRONG = ("nan", "inf", "-inf", "-1", "1e308", "", "x", "true", "\ud800", "a\nb", "\0", "1.2.3", "%")
VALUES = st.sampled_from((*HUGE, *WRONG)) | st.text(max_size=8) | st.floats().map(str)


def refused_or_made(make: Callable[[], object]) -> None:
    """Does something that may end in an error of the user, and in no other."""
    try:
        make()
    except grawa.UserError as error:
        assert str(error)


FAULT_FORMS = (
    "wrong-labels:{}", "noisy-labels={}:1", "lr-x{}:1", "batch-x{}:0", "batch={}:1", "nan:1@{}",
    "scale-x{}:0@1", "mixed:{}", "graded-batch:{}", "speed={}:1", "{}",
)  # fmt: skip
LINK_FORMS = ("{}", "{}mbit", "{}gbit", "1mbit:{}ms", "1mbit:{}s", "1mbit:{}")


@FEW
@given(value=VALUES, form=st.sampled_from(FAULT_FORMS))
def test_faults_are_refused_or_made(value: str, form: str) -> None:
    def make() -> None:
        for fault in faults_of(form.format(value), 2, timed=True):
            assert Fault.parse(str(fault)) == fault

    refused_or_made(make)


@FEW
@given(
    value=VALUES,
    form=st.sampled_from(["{}", "{}mbit", "{}gbit", "1mbit:{}ms", "1mbit:{}s", "1mbit:{}"]),
)
def test_links_and_hosts_are_refused_or_made(value: str, form: str) -> None:
    refused_or_made(lambda: Link.parse(form.format(value)))
    refused_or_made(lambda: parse_hosts(f"{value}x2"))
    refused_or_made(lambda: OptimizerChoice.parse(f"sgd:weight_decay={value}"))


@FEW
@given(
    name=st.sampled_from([name for name in vars(TrainConfig(task="x")) if name != "task"]),
    value=st.sampled_from([
        *(None, True, "", "x", "\ud800", "a\0b", 0, -1, 10**6, 10**30, 10**400, 0.5, 1e308),
        *(float("nan"), float("inf"), [], ["x"], [1], {}, "9" * 400, "1e9", "nan", "inf", "5%"),
    ]),
)  # fmt: skip
def test_a_configuration_is_refused_or_has_settings(name: str, value: Any) -> None:
    refused_or_made(
        lambda: TrainConfig.from_toml(
            {"task": "digits", "clock": "virtual", "link": "1mbit", name: value}, Path("c.toml")
        ).settings()
    )


LINES: dict[str, tuple[tuple[str, ...], str]] = {
    "too many workers": (("--workers", "1000000000"), "workers must be at most 100,000"),
    "too long to stop": (("--stop-within", "1e20"), "stop_within must be at most 1,000,000,000"),
    "a huge number": (("--workers", "1" + "0" * 400), "workers must be at most 100,000"),
    "a huge rate": (("--lr", "1e308"), "lr must be at most 1,000,000"),
    "a huge strategy option": (("--strategy", "lgrawa:power=1e308"), "power"),
    "a huge window": (("--strategy", "lsgd:score.window=1000000000"), "window must be at most"),
    "a null character": (("--strategy", "lgrawa:\0"), "lgrawa"),
    "two lines": (("--strategy", "a\nb"), "there is no strategy"),
    "half a pair": (("--data", "\ud800"), "data"),
    "no data": (("--data", ""), "data"),
}


@pytest.mark.parametrize(("options", "message"), LINES.values(), ids=LINES)
def test_a_value_is_refused_in_one_line(
    options: tuple[str, ...], message: str, command: Callable[..., Ended]
) -> None:
    task = "cifar10" if "--data" in options else "digits"
    done = command("train", task, "--processes", "1", *options)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert message in done.err
    assert not os.listdir()


def test_true_is_no_number(command: Callable[..., Ended]) -> None:
    Path("c.toml").write_text('task = "digits"\nworkers = true\n')
    done = command("train", "--config", "c.toml")
    assert (done.code, "workers = True is invalid: it must be a whole" in done.err) == (2, True)
    done = command("compare", "digits", "--options", "checkpoint_every=true")
    assert done.code == 2


def test_a_run_that_does_not_fit_into_memory_is_refused() -> None:
    model = nn.Linear(1000, 1000)
    check_memory(model, 4, 4, on_cpu=True)
    with pytest.raises(grawa.UserError, match="100000 workers in 1 processes need at least 801"):
        check_memory(model, 100_000, 1, on_cpu=True)
    with pytest.raises(grawa.UserError, match="150 MB for a process"):
        check_memory(model, 100_000, 100_000, on_cpu=False)


OUT = {"in a file": "file/x", "too long": "x" * 300, "nowhere": "/proc/x/y", "null": "a\0b"}
QUICK = ("--strategies", "lgrawa", "--seeds", "1", "--steps", "8", "--axis", "steps", "--quick")
COMMANDS: dict[str, tuple[str, ...]] = {
    "compare": ("compare", "digits", *QUICK, "--out"),
    "ablate": ("ablate", "digits", "prox=0,0.1", *QUICK, "--out"),
    "wells": ("wells", "--steps", "4", "--out"),
    "plan": ("plan", "digits", "--link", "1gbit", "--out"),
    "picture of a plan": ("plan", "digits", "--link", "1gbit", "--picture"),
}


@pytest.mark.parametrize("where", OUT)
@pytest.mark.parametrize("asked", COMMANDS)
def test_an_output_that_can_not_be_written_is_told_before_the_work(
    asked: str, where: str, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("this began to work")

    for work in ("studies.run_study", "wells.walks", "plan.measure"):
        monkeypatch.setattr(f"grawa.lab.cli.{work}", worked)
    Path("file").touch()
    Path("dangling").symlink_to("nowhere")
    done = command(*COMMANDS[asked], OUT[where])
    assert sorted(os.listdir()) == ["dangling", "file"]
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "can't" in done.err


def test_a_study_does_not_replace_a_link(command: Callable[..., Ended]) -> None:
    Path("dangling").symlink_to("nowhere")
    done = command(*COMMANDS["compare"], "dangling")
    assert (done.code, os.listdir()) == (2, ["dangling"])


MARKUP = ("[/red]x", "$\\frac{$", "<b>x</b>")
"""Names that are markup somewhere."""


@pytest.mark.parametrize("name", MARKUP)
def test_a_name_is_no_markup(name: str, tmp_path: Path, command: Callable[..., Ended]) -> None:
    folder = StudyFolder.begin(
        tmp_path / "study",
        study(arms=(arm("mgrawa"), arm(name)), conditions=study().conditions[:1]),
    )
    for method in ("mgrawa", name):
        folder.append(result(method, [0.9, 0.5]))
    assert command("report", str(folder.path)).code == 0
    assert "<b>x" not in (folder.path / "report.html").read_text()


def test_a_study_has_limits_too() -> None:
    with pytest.raises(grawa.UserError, match="flatness must be at most"):
        StudyConfig(task="digits", flatness=10**30).flatness_config()


@pytest.mark.parametrize("place", range(0, 4096, 97))
def test_a_model_with_a_flipped_bit_is_refused(place: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_model({"weight": torch.arange(900.0), "steps": torch.tensor(3)}, path)
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 1 << place % 8
    path.write_bytes(bytes(raw))
    with pytest.raises(grawa.UserError, match=r"model\.safetensors (is not|has changed)"):
        read_model(path)


def test_a_model_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "a": torch.randn(3, 4).t(), "b": torch.tensor(2), "c": torch.zeros(0),
        "d": torch.ones(2) > 0, "e": torch.randn(5).bfloat16(),
    }  # fmt: skip
    write_model(state, tmp_path / "model.safetensors")
    found = read_model(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in state.items())
