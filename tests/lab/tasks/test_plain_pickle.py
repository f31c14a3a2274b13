"""The plain unpickler reads data and runs nothing."""

import collections
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grawa.lab.tasks.plain_pickle import load_plain
from tests.lab.tasks.archives import pickle_of_python_2

PLAIN: dict[str, Any] = {
    "numbers": {"a": 1, "b": [2.5, -3, 10**20], "c": None, "d": True},
    "bytes and text": [b"caf\xe9", "café", (b"0", "")],
    "nested": {b"labels": [{b"x": [[]]}]},
}


@pytest.mark.parametrize("value", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_as_they_were(value: Any, protocol: int) -> None:
    assert load_plain(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(2, 5))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_bytes_come_as_they_were(protocol: int, order: Any) -> None:
    array = np.asarray(np.arange(60, dtype=np.uint8).reshape(3, 20), order=order)
    found = load_plain(pickle.dumps({b"data": array}, protocol))[b"data"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, array)


def test_what_python_2_wrote_can_be_read() -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = load_plain(pickle_of_python_2({b"data": array, b"labels": [7, 0, 9]}))
    assert list(found) == [b"data", b"labels"]
    assert found[b"labels"] == [7, 0, 9]
    np.testing.assert_array_equal(found[b"data"], array)


class Runs:
    """Runs a command when it is unpickled by an ordinary unpickler."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", range(5))
def test_no_function_that_a_file_names_is_run(protocol: int, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    raw = pickle.dumps({b"data": Runs(f"touch {proof}")}, protocol)
    with pytest.raises(ValueError, match=r"it names (posix|nt)\.system"):
        load_plain(raw)
    assert not proof.exists()
    pickle.loads(raw)  # the attack is a real one
    assert proof.exists()


def persistent() -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return "elsewhere" if obj == "x" else None

    file = io.BytesIO()
    Pickler(file, 2).dump(["x"])
    return file.getvalue()


REFUSED = {
    "another class": pickle.dumps(collections.OrderedDict(a=1), 2),
    "a builtin": pickle.dumps(eval, 2),
    "a set": pickle.dumps({1, 2}, 2),
    "an array of floats": pickle.dumps(np.zeros(3), 2),
    "an array of objects": pickle.dumps(np.array([1, "a"], dtype=object), 2),
    "an array of records": pickle.dumps(np.zeros(2, dtype=[("a", "u1")]), 2),
    "a number of numpy": pickle.dumps(np.float64(1.0), 2),
    "another encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R.",
    "a name in two lines": b"\x80\x04\x8c\x03a\nb\x8c\x03c\nd\x93.",
    "something elsewhere": persistent(),
    "nothing": b"",
    "no pickle": b"\x1f\x8b\x08\x00 is something else",
    "text": b"<!DOCTYPE html>",
    "half": pickle.dumps({b"data": np.zeros((10, 3072), dtype=np.uint8)}, 2)[:9000],
}


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        load_plain(raw)
    assert "\n" not in str(error.value)


def test_an_array_that_does_not_fill_its_shape_is_refused() -> None:
    raw = pickle.dumps(np.zeros((2, 3), dtype=np.uint8), 2)
    assert raw.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(ValueError, match="contents don't fill it"):
        load_plain(raw.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"))
