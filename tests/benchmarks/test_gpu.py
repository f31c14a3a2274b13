"""The benchmark of one GPU: what it counts, and that each part can be left out, fail and resume."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.optim import SGD
from torch.utils._python_dispatch import TorchDispatchMode

import gpu
import gpu_models
import grawa
from common import read_json
from gpu_card import Activity, Event, activity_of
from gpu_config import TOY
from gpu_rounds import passes
from models import ManyTensors
from row_pictures import gpu_picture
from samples import Samples
from tests.benchmarks.toys import said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path)])
    assert ended.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "needs a GPU" in line and "--toy" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"), [(["--parts", "rounds"], "rounds"), (["--sync-every", "1"], "at least 2")]
)
def test_options_that_can_not_be_measured_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--toy", *words])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_a_round_moves_what_its_formula_says() -> None:
    # K workers: norms K, mean K + 1, pull 2 K + 1; a pull of 1 does not read the workers.
    assert passes(1, 0.5) == 1 + 2 + 3
    assert passes(4, 0.5) == 4 + 5 + 9
    assert passes(4, 1.0) == 4 + 5 + 5


def test_activity_is_counted_inside_the_mark_only() -> None:
    events = [
        Event("aten::ones", on_device=False, start=0.0, end=1.0),
        Event("what is measured", on_device=False, start=2.0, end=9.0),
        Event("aten::lerp_", on_device=False, start=3.0, end=5.0),
        Event("aten::empty", on_device=False, start=3.5, end=4.0, inside_operator=True),
        Event("cudaLaunchKernel", on_device=False, start=4.0, end=4.5),
        Event("cudaStreamSynchronize", on_device=False, start=6.0, end=8.0),
        Event("cudaDeviceSynchronize", on_device=False, start=10.0, end=11.0),
        Event("what is measured", on_device=True, start=4.5, end=9.5),
        Event("void lerp_kernel<float>", on_device=True, start=4.5, end=6.5),
        Event("Memset (Device)", on_device=True, start=6.5, end=7.5),
        Event("Memcpy DtoH (Device -> Pageable)", on_device=True, start=7.5, end=8.0),
    ]
    found = activity_of(events)
    assert found._replace(kernel_seconds=0.0) == Activity(
        operators=1, kernels=2, kernel_seconds=0.0, copies=1, waits=1
    )
    assert found.kernel_seconds == pytest.approx(3e-6)


class _Pulls(TorchDispatchMode):
    """Counts pulls."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func.overloadpacket.__name__ == "_foreach_lerp_"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("strategy", "pulls"), [(grawa.LGRAWA(), False), (gpu_models.METHODS["LGRAWA"], True)]
)
def test_a_lone_worker_is_measured_by_a_method_that_moves_it(
    strategy: grawa.Strategy, pulls: bool
) -> None:
    model = ManyTensors(100, 4)
    optimizer = SGD(model.parameters(), lr=0.1)
    averager = grawa.Averager(model, optimizer, strategy)
    averager.attach()
    optimizer.step()
    with _Pulls() as seen:
        averager.synchronize()
    assert (seen.count > 0) == pulls


def _items(_: object, __: object) -> Mapping[str, Any]:
    return {"good": lambda: {"seconds": 1.0}, "bad": _broken}


def _broken() -> dict[str, Any]:
    raise torch.OutOfMemoryError("CUDA out of memory.\nmore")


def test_what_fails_is_said_and_repeated_and_the_rest_is_kept(tmp_path: Path) -> None:
    words = ["--toy", "--out", str(tmp_path), "--parts", "stacked"]
    with patch.dict(gpu.MEASURED, {"stacked": _items}):
        printed = said(gpu, *words)
        assert "FAILED stacked: bad: OutOfMemoryError: CUDA out of memory." in printed
        found = read_json(tmp_path / "gpu.json")
        assert list(found["parts"]["stacked"]) == ["good"]
        with patch(f"{__name__}._broken", lambda: {"seconds": 2.0}):
            said(gpu, *words, "--resume")
    found = read_json(tmp_path / "gpu.json")
    assert found["failed"] == {}
    assert found["parts"]["stacked"] == {"good": {"seconds": 1.0}, "bad": {"seconds": 2.0}}


def test_a_run_goes_on_with_other_parts_and_keeps_what_it_has(tmp_path: Path) -> None:
    words = ["--toy", "--out", str(tmp_path)]
    said(gpu, *words, "--parts", "round", "--resume")  # nothing is there yet
    rounds = read_json(tmp_path / "gpu.json")["parts"]["round"]
    printed = said(gpu, *words, "--parts", "stacked", "round", "--resume")
    assert "round: " not in printed
    found = read_json(tmp_path / "gpu.json")
    assert found["parts"]["round"] == rounds
    assert set(found["parts"]) == {"round", "stacked"}
    assert found["config"]["parts"] == ["round", "stacked"]
    said(gpu, *words, "--parts", "stacked")
    assert list(read_json(tmp_path / "gpu.json")["parts"]) == ["stacked"]


def test_samples_of_other_options_or_another_card_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Samples(tmp_path / "gpu.jsonl")
    words = ["--toy", "--out", str(tmp_path), "--parts", "stacked"]
    said(gpu, *words)
    with pytest.raises(SystemExit) as ended:
        gpu.main([*words, "--fleet", "3", "--resume"])
    assert ended.value.code == 2
    assert "fleet 2, not 3" in capsys.readouterr().err
    text = samples.path.read_text(encoding="utf-8")
    samples.path.write_text(text.replace('"card": "cpu"', '"card": "another"'), encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        gpu.main([*words, "--resume"])
    assert ended.value.code == 2
    assert "of another" in capsys.readouterr().err
    assert len(samples.read()[1]) == 2


def test_targets_in_milliseconds_are_those_of_the_cards_they_were_set_for(tmp_path: Path) -> None:
    activity = {"operators": 9, "kernels": 5, "kernel_seconds": 1e-3, "copies": 1, "waits": 1}
    one = {"method": "LGRAWA", "workers": 1, "seconds": [2.2e-3], "activity": activity}
    one |= {"bytes": 652_000_000, "passes": 6}
    samples = Samples(tmp_path / "gpu.jsonl")
    for card, judged in (("NVIDIA H200", True), ("NVIDIA L4", False)):
        with samples.begin({"config": {"transformer": list(TOY.transformer)}, "environment": {}}):
            samples.add(part="round", item="LGRAWA, 1", card=card, found=one)
            samples.add(part="round", item="copy", card=card, found={"bytes_per_second": 4e12})
        printed = said(gpu, "--tabulate", str(samples.path))
        assert ("ms of a round of LGRAWA, 1: 2.200 MISSES" in printed) == judged
        assert "round of LGRAWA, 1, in its kernels' time: 2.200 meets" in printed
        assert "0.98" in printed  # ms: six times 652 MB at 4 TB/s


def test_a_picture_is_drawn_of_a_gpu_s_results(tmp_path: Path) -> None:
    steps = {"bare": [1.0, 1.1], "LGRAWA": [1.01, 1.1]}
    activity = {"kernel_seconds": 1e-3}
    one = {"seconds": [2e-3], "activity": activity, "passes": 6, "bytes": 10**9}
    parts = {"round": {"LGRAWA, 1": one, "copy": {"bytes_per_second": 4e12}}}
    gpu_picture("a card", parts, tmp_path / "rounds.png")
    gpu_picture(
        "a card", {**parts, "step": {"transformer": {"seconds": steps}}}, tmp_path / "both.png"
    )
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())
