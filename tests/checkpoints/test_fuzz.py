"""Checkpoints whose values are wrong though their checksums are right: refused, or harmless."""

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import grawa
from grawa.checkpoints.files import write_text
from grawa.saving.part import read_part, write_part
from tests.checkpoints.test_save_and_restore import STOP, Loop
from tests.damage import WRONG_VALUES
from tests.fuzzing import few

Path_ = tuple[Any, ...]


def places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths of all values in nested dicts and lists."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def at(value: Any, path: Path_) -> Any:
    for key in path:
        value = value[key]
    return value


def replaced(value: Any, path: Path_, new: Any) -> Any:
    """A copy with another value at a path."""
    if not path:
        return new
    if isinstance(value, dict):
        return {k: replaced(v, path[1:], new) if k == path[0] else v for k, v in value.items()}
    return type(value)(
        replaced(v, path[1:], new) if k == path[0] else v for k, v in enumerate(value)
    )


def wrongs(value: Any) -> list[Any]:
    """What may stand in place of a value."""
    found = [*WRONG_VALUES, torch.zeros(()), torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)]
    if isinstance(value, Tensor):
        found += [value.flatten()[:1], value.unsqueeze(0), value.to(torch.complex64)]
    if isinstance(value, Tensor) and value.is_floating_point():
        found += [torch.full_like(value, torch.nan), -value, value.double(), value.int()]
    if isinstance(value, dict):
        found += [{**value, "x": 1}, dict(list(value.items())[1:])]
    if isinstance(value, list):
        found += [value[1:], [*value, *value]]
    return found


METHODS: dict[str, dict[str, Any]] = {
    "LGRAWA": {"strategy": grawa.LGRAWA(), "sync_every": 2},
    "DiLoCo, overlapped": {"strategy": grawa.DiLoCo(), "sync_every": 2, "overlap_steps": 1},
    "SlowMo, int8": {"strategy": grawa.SlowMo(), "sync_every": 2, "comm_dtype": "int8"},
    "EASGD, fragments": {"strategy": grawa.EASGD(), "sync_every": 2, "fragments": 2},
    "counted together": {"strategy": grawa.LocalSGD(), "schedule": grawa.SharedCount(4)},
}


def made(name: str, seed: int) -> Loop:
    options = dict(METHODS[name])
    return Loop(copy.deepcopy(options.pop("strategy")), 2, seed, **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each method."""
    found = {}
    for name in METHODS:
        loop = made(name, 1)
        loop.train(0, STOP)
        found[name] = loop.averager.save(tmp_path_factory.mktemp("saved"), loop.extra())
        loop.averager.detach()
    return found


def contents(path: Path) -> Any:
    return json.loads(path.read_text()) if path.suffix == ".json" else read_part(path)


def is_refused(name: str, saved: Path, file: str, place: Path_, wrong: Any, folder: Path) -> bool:
    """Whether a checkpoint with a wrong value is; otherwise training must go on from it."""
    rmtree(folder, ignore_errors=True)
    path = folder / saved.name
    copytree(saved, path)
    content = replaced(contents(path / file), place, wrong)
    if file.endswith(".json"):
        write_text(path / file, json.dumps(content, default=repr))
    else:
        write_part(path / file, content)
    loop = made(name, 7)
    before = loop.everything().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loop.averager.restore(folder)
        except grawa.UserError:
            assert torch.equal(loop.everything(), before)
            return True
        if place[0] in ("optimizers", "extra state"):
            return False  # only they know which values of these types they take
        with suppress(grawa.UserError, grawa.DivergedError):
            loop.train(STOP, STOP + 3)
            loop.averager.detach()
        return False


@few(60)
@given(data=st.data(), name=st.sampled_from(sorted(METHODS)))
def test_a_wrong_value_is_refused_or_training_goes_on(
    data: st.DataObject, name: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    path = saved[name]
    file = data.draw(st.sampled_from([*sorted(p.name for p in path.glob("*.pt")), "manifest.json"]))
    content = contents(path / file)
    place = data.draw(st.sampled_from([p for p in places(content) if p]))
    wrong = wrongs(at(content, place))
    number = data.draw(st.integers(0, len(wrong) - 1))
    is_refused(name, path, file, place, wrong[number], tmp_path)


GROUP = ("optimizers", 1, "state", "param_groups", 0)
TRACKER = ("averager", "runner", "roll_call", "tracker")


@pytest.mark.parametrize(
    ("file", "place", "wrong"),
    [
        ("manifest.json", ("workers",), True),
        ("worker-0.pt", (*GROUP, "lr"), None),
        ("worker-0.pt", (*GROUP, "params", 0), None),
        ("worker-0.pt", ("optimizers", 1, "state", "state", 4, "step"), None),
        ("worker-0.pt", ("buffers", "norm.running_mean"), torch.zeros(1, dtype=torch.float64)),
        ("process-0.pt", ("averager", "origin", "fixed", "workers"), "\ud800"),
        ("process-0.pt", (*TRACKER, "mean"), torch.zeros(1)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_these_are_refused(
    file: str, place: Path_, wrong: Any, saved: dict[str, Path], tmp_path: Path
) -> None:
    assert is_refused("LGRAWA", saved["LGRAWA"], file, place, wrong, tmp_path)
