"""Checkpoints of one's own loop: all comes back, damage is refused, and nothing is executed."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

import grawa
from grawa.saving.part import seal
from tests.helpers import INPUTS, STRATEGIES, Fleet, batches, mlp
from tests.world import on_ranks

TIMEOUT = timedelta(seconds=20)
STOP, STEPS = 5, 9


class Everything(nn.Module):
    """All kinds of what a model may hold."""

    lost: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.base = nn.Linear(INPUTS, INPUTS).double().requires_grad_(requires_grad=False)
        self.one = nn.Linear(INPUTS, INPUTS).double()
        self.tied = nn.Linear(INPUTS, INPUTS).double()
        self.tied.weight = self.one.weight
        self.norm = nn.BatchNorm1d(INPUTS).double()
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(INPUTS, 2).double()
        self.register_buffer("lost", torch.zeros(2), persistent=False)
        self.register_buffer("phase", torch.tensor(1 + 2j))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.lost += 1.0
        hidden: Tensor = self.tied(self.drop(self.norm(self.one(self.base(x)))))
        return self.last(hidden) * (1.0 + 0.01 * self.calls)  # type: ignore[no-any-return]

    def get_extra_state(self) -> int:
        return self.calls

    def set_extra_state(self, state: int) -> None:
        self.calls = state


def two_optimizers(model: nn.Module) -> list[Optimizer]:
    matrices = [p for p in model.parameters() if p.ndim == 2 and p.requires_grad]
    others = [p for p in model.parameters() if p.ndim < 2 and p.requires_grad]
    return [SGD(matrices, lr=0.05, momentum=0.9), AdamW(others, lr=0.01)]


class Loop:
    """A training loop of hosted workers."""

    def __init__(
        self,
        strategy: grawa.Strategy,
        hosted: int,
        seed: int,
        model: Callable[[int], nn.Module] = Everything,
        **options: Any,
    ) -> None:
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        seeds = range(seed + 100 * self.rank, 10**6)
        self.models = [model(seed) for _, seed in zip(range(hosted), seeds, strict=False)]
        self.optimizers = [two_optimizers(model) for model in self.models]
        self.schedulers = [
            torch.optim.lr_scheduler.MultiStepLR(each, [3, 6], gamma=0.5)
            for own in self.optimizers
            for each in own
        ]
        self.averager = grawa.Averager(
            self.models, self.optimizers, strategy, timeout=TIMEOUT, **options
        )
        torch.manual_seed(1000 + self.rank)

    def train(self, start: int, stop: int) -> None:
        self.averager.attach()
        self.go_on(start, stop)

    def go_on(self, start: int, stop: int) -> None:
        hosted, workers = len(self.models), self.averager.num_workers
        first = self.rank * hosted
        data = batches(STEPS, workers).workers(range(first, first + hosted)).steps(start, stop)
        for inputs, targets in zip(data.inputs, data.targets, strict=True):
            losses = []
            for model, own, x, y in zip(self.models, self.optimizers, inputs, targets, strict=True):
                for optimizer in own:
                    optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                losses.append(loss.detach())
            self.averager.record_loss(torch.stack(losses))
            for own in self.optimizers:
                for optimizer in own:
                    optimizer.step()
            for scheduler in self.schedulers:
                scheduler.step()

    def extra(self) -> dict[str, Any]:
        states = [scheduler.state_dict() for scheduler in self.schedulers]
        return {"rank": self.rank, "schedulers": states}

    def take(self, extra: dict[str, Any] | None) -> None:
        assert extra is not None and extra["rank"] == self.rank
        for scheduler, state in zip(self.schedulers, extra["schedulers"], strict=True):
            scheduler.load_state_dict(state)

    def everything(self) -> Tensor:
        found = [[*m.parameters(), *map(torch.abs, m.buffers())] for m in self.models]
        calls = torch.tensor([getattr(model, "calls", 0) for model in self.models])
        return torch.cat([x.detach().double().flatten() for own in [*found, [calls]] for x in own])


def goes_on(strategy: grawa.Strategy, folder: Path, hosted: int = 1, **options: Any) -> bool:
    """Whether training that was saved and restored ends like the undisturbed one."""
    whole = Loop(strategy, hosted, 1, **options)
    whole.train(0, STOP)
    whole.averager.save(folder, extra=whole.extra())
    whole.go_on(STOP, STEPS)
    whole.averager.detach()
    other = Loop(strategy, hosted, 7, **options)
    other.take(other.averager.restore(folder))
    other.train(STOP, STEPS)
    other.averager.detach()
    same = torch.equal(whole.everything(), other.everything())
    return same and whole.extra() == other.extra()


@pytest.mark.parametrize("name", STRATEGIES)
def test_all_of_hosted_workers_comes_back(name: str, tmp_path: Path) -> None:
    assert goes_on(STRATEGIES[name], tmp_path, 2, sync_every=2)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": grawa.SharedCount(2)},
        {"sync_every": 4, "fragments": 2, "overlap_steps": 1, "comm_dtype": "int8"},
        {"buffers": "local", "guard": None},
    ],
    ids=str,
)
def test_whatever_the_options_and_with_one_worker_too(
    options: dict[str, Any], tmp_path: Path
) -> None:
    assert goes_on(grawa.LGRAWA(), tmp_path / "a", 2, **options)
    assert goes_on(grawa.LGRAWA(), tmp_path / "b", 1, **options)


def processes_go_on(folder: Path) -> list[str]:
    names = "lgrawa with outer Nesterov", "lsgd in teams", "slowmo", "data parallel"
    cases: list[tuple[str, dict[str, Any]]] = [(name, {"sync_every": 2}) for name in names]
    cases += [("lgrawa", {"sync_every": 4, "fragments": 2, "overlap_steps": 1})]
    cases += [("lgrawa", {"sync_every": 3, "hosts": [[0], [1]], "comm_dtype": "int8"})]
    found = [
        (case, goes_on(STRATEGIES[case[0]], folder / str(number), **case[1]))
        for number, case in enumerate(cases)
    ]
    return [str(case) for case, same in found if not same]


@pytest.mark.world
def test_all_of_several_processes_comes_back(tmp_path: Path) -> None:
    assert on_ranks(2, processes_go_on, tmp_path) == [[], []]


def small(hosted: int = 2, steps: int = STOP, **options: Any) -> grawa.Averager:
    """Hosted workers after some steps; between processes one in each."""
    fleet = Fleet(hosted, options.pop("model", mlp), options.pop("optimizer", with_momentum))
    options = {"sync_every": 2, "timeout": TIMEOUT, **options}
    strategy = options.pop("strategy", grawa.LGRAWA())
    averager = grawa.Averager(fleet.models, fleet.optimizers, strategy, **options)
    averager.attach()
    rank = dist.get_rank() if dist.is_initialized() else 0
    own = range(rank * hosted, (rank + 1) * hosted)
    fleet.train(batches(steps, workers=4).workers(own), averager)
    return averager


def with_momentum(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05, momentum=0.9)


def adamw(model: nn.Module) -> Optimizer:
    return AdamW(model.parameters())


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(grawa.UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_saved_yet_is_a_fresh_start_and_an_extra_may_be_left_out(tmp_path: Path) -> None:
    averager = small()
    assert averager.restore(tmp_path / "none") is None
    averager.save(tmp_path / "a" / "b")
    assert small(steps=0).restore(str(tmp_path / "a" / "b")) == {}


def test_the_last_ones_are_kept_and_any_of_them_can_be_taken(tmp_path: Path) -> None:
    averager = small(steps=2)
    (tmp_path / ".save-000000-round-00000001.new").mkdir()  # an interrupted one
    saved = [averager.save(tmp_path, {"number": number}, keep=2) for number in range(4)]
    assert sorted(tmp_path.iterdir()) == saved[2:]
    assert small().restore(tmp_path) == {"number": 3}
    assert small().restore(saved[2]) == {"number": 2}
    assert averager.save(tmp_path, keep=1).name == "save-000005-round-00000001"
    assert "keep must be" in refused(lambda: averager.save(tmp_path, keep=0))
    assert "there is no checkpoint" in refused(lambda: averager.restore(saved[2]))


def test_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    saved = small().save(tmp_path)
    names = [path.name for path in saved.glob("*.sha256")]
    done = subprocess.run(["sha256sum", "-c", *names], cwd=saved, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 5


def damages(saved: Path, other: Path) -> Iterator[None]:
    """Does to each file of a checkpoint, one after another, what may happen to it."""
    for path in sorted(saved.iterdir()):
        data = path.read_bytes()
        for place in range(0, len(data), max(1, len(data) // 4)):
            flipped = bytearray(data)
            flipped[place] ^= 1 << place % 8
            path.write_bytes(flipped)
            yield
        for changed in (data[: len(data) // 2], b"", (other / path.name).read_bytes()):
            path.write_bytes(changed)
            yield
        path.unlink()
        yield
        os.mkfifo(path)
        yield
        path.unlink()
        path.mkdir()
        yield
        path.rmdir()
        path.write_bytes(data)


def test_whatever_is_damaged_is_refused_by_name_with_the_sound_one_before(tmp_path: Path) -> None:
    averager = small()
    first, saved = averager.save(tmp_path), averager.save(tmp_path)
    other = small(steps=4).save(tmp_path / "other")
    fresh = small(steps=3)
    before = str(fresh.state_dict()["runner"])
    for _ in damages(saved, other):
        told = refused(lambda: fresh.restore(tmp_path))
        assert str(saved) in told and f"restore({str(first)!r}) takes it" in told
    assert str(fresh.state_dict()["runner"]) == before
    assert fresh.restore(tmp_path) == {}
    (first / "worker-0.pt").unlink()
    (saved / "worker-0.pt").unlink()
    assert "There is no sound one before it" in refused(lambda: fresh.restore(tmp_path))


def forge(saved: Path, name: str, content: bytes) -> None:
    """Replaces a file, and its checksum too."""
    (saved / name).write_bytes(content)
    seal(saved / name, hashlib.sha256(content).hexdigest())


class Hostile:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def test_what_a_stranger_puts_there_is_refused_and_never_executed(tmp_path: Path) -> None:
    averager = small()
    saved, other = averager.save(tmp_path), small().save(tmp_path / "other")
    manifest = json.loads((saved / "manifest.json").read_text())
    mark = tmp_path / "executed"
    hostile = [pickle.dumps(Hostile(mark)), zipped(Hostile(mark), tmp_path)]
    parts = "worker-0.pt", "process-0.pt", "shared.pt"
    changes = {"format": 99}, {"format": None}, {"workers": 3}, {"processes": "two"}
    contents: list[Any] = [3, [], {}, *(manifest | change for change in changes)]
    forged: list[tuple[str, bytes]] = [
        *((name, data) for name in parts for data in hostile),
        ("worker-0.pt", (other / "worker-0.pt").read_bytes()),
        ("worker-1.pt", (saved / "worker-0.pt").read_bytes()),
        ("worker-0.pt", zipped([1, 2], tmp_path)),
        *(
            (name, zipped({"id": manifest["id"], "file": name, "averager": 3}, tmp_path))
            for name in parts
        ),
        *(("manifest.json", json.dumps(content).encode()) for content in contents),
        ("manifest.json", b"[" * 100_000),
        ("manifest.json", b"\xff\xfe"),
    ]  # fmt: skip
    whole = tmp_path / "whole"
    shutil.copytree(saved, whole)
    for name, data in forged:
        forge(saved, name, data)
        assert str(saved) in refused(lambda: averager.restore(tmp_path))
        shutil.rmtree(saved)
        shutil.copytree(whole, saved)
    assert not mark.exists()
    assert averager.restore(tmp_path) == {}


def zipped(value: object, folder: Path) -> bytes:
    torch.save(value, folder / "value")
    return (folder / "value").read_bytes()


@pytest.mark.parametrize(
    ("told", "here"),
    [
        ("2 workers in 1 process, and this one has 3 w.* resize=True", {"hosted": 3}),
        ("parameter 'weight' is in the model only", {"model": lambda: nn.Linear(3, 2).double()}),
        (r"'0.weight' is \(8, 3\) torch.float64 there and", {"model": lambda: mlp(torch.float32)}),
        ("optimizers \\['SGD'\\], and here are \\['AdamW'\\]", {"optimizer": adamw}),
        ("strategy: GRAWA saved, DiLoCo here|strategy: LGRAWA saved", {"strategy": grawa.DiLoCo()}),
        ("schedule: Every saved, SharedCount here", {"schedule": grawa.SharedCount(2)}),
        ("sync_every: 2 saved, 3 here.*strict=False", {"sync_every": 3}),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_job_is_refused_by_name(
    told: str, here: dict[str, Any], tmp_path: Path
) -> None:
    small().save(tmp_path)
    averager = small(steps=0, **here)
    assert re.search(told, refused(lambda: averager.restore(tmp_path)))


@pytest.mark.parametrize("broken", ["open", "write", "fsync", "rename"])
def test_a_full_disk_ends_in_one_line_and_what_was_saved_stays(broken: str, tmp_path: Path) -> None:
    averager = small()
    saved = averager.save(tmp_path)
    full = OSError(28, "No space left on device")

    def fails(*_: object) -> NoReturn:
        raise full

    targets = {
        "open": "grawa.saving.part.Path.open",
        "write": "grawa.saving.part.Path.open",
        "fsync": "grawa.saving.whole.os.fsync",
        "rename": "grawa.checkpoints.writing.Path.rename",
    }
    device = io.BytesIO()
    device.write = fails  # type: ignore[method-assign]
    with patch(targets[broken], (lambda *_: device) if broken == "write" else fails):
        told = refused(lambda: averager.save(tmp_path))
    assert "No space left on device" in told and f"{saved} is complete and untouched" in told
    assert list(tmp_path.iterdir()) == [saved]
    assert averager.save(tmp_path) > saved
    assert small().restore(tmp_path) == {}


def test_what_could_not_be_read_again_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    averager = small()
    told = refused(lambda: averager.save(tmp_path, {"a": [1, {"b": Path("x")}]}))
    assert "extra['a'][1]['b'] is a pathlib" in told
    assert "could not be saved" in refused(lambda: averager.save(tmp_path, {"a": lambda: 0}))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    averager = small()
    file = tmp_path / "file"
    file.write_text("x")
    assert str(file) in refused(lambda: averager.save(file))
    assert str(file) in refused(lambda: averager.restore(file))
