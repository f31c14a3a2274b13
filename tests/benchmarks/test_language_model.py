"""Runs of the benchmark of language models, and what is made of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import language_model
from grawa.errors import UserError
from language_model_config import TOY, Config
from language_model_results import choose, rows_of, weights_by_kind
from language_model_run import Job, run, text_of
from language_model_steps import one_by_one, stacked
from language_model_task import method_options, optimizers_of, task_of
from language_model_workers import streams
from samples import Samples

CPU = torch.device("cpu")


def test_gradients_in_one_pass_are_those_of_each_worker_also_with_a_small_batch() -> None:
    task = task_of(TOY.resolved(), text_of(TOY), CPU, bf16=False)
    shape = TOY.resolved()
    read = streams(
        text_of(TOY),
        ["clean", "small"],
        seed=0,
        steps=1,
        batch=shape.batch,
        context=shape.context,
        device=CPU,
    )
    batches = [stream.batch(0) for stream in read]
    models = [task.model(seed).double() for seed in range(2)]
    expected = one_by_one(task, models)(batches)
    grads = [p.grad for model in models for p in model.parameters()]
    found = stacked(task, models)(batches)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close([p.grad for model in models for p in model.parameters()], grads)


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else() -> None:
    model = task_of(TOY.resolved(), text_of(TOY), CPU, bf16=False).model(0)
    muon, adamw = optimizers_of(model, "muon", 1e-3)
    names = {p: name for name, p in model.named_parameters()}
    inner = {names[p] for group in muon.param_groups for p in group["params"]}
    rest = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert inner == {
        f"blocks.0.{name}.weight" for name in ("queries_keys_values", "mix", "expand", "contract")
    }
    assert inner | rest == set(names.values())
    assert not inner & rest


def test_options_of_methods_reach_the_averager_or_are_refused() -> None:
    shape = {"workers": 2, "steps": 8, "sync_every": 4, "seed": 3}
    options, given = method_options("mgrawa:score=probe:pull=1:comm_dtype=int8", **shape)
    assert (options.strategy, options.score, options.seed) == ("mgrawa:pull=1", "probe", 3)
    assert given["comm_dtype"] == "int8"
    assert given["schedule"].sync_every == 4
    for wrong in ("mgrawa:swa=25%", "dp_sam"):
        with pytest.raises(UserError, match="a method's options are here"):
            method_options(wrong, **shape)


def test_stacked_runs_with_muon_and_mixed_workers_learn() -> None:
    job = Job(what="run", quality="clean+small", sync_every=4, method="local_sgd", seed=0, lr=0.02)
    found = run(replace(TOY, workers=2, optimizer="muon", stack="on"), job)
    assert found["steps"] == [4, 8]
    assert found["bits"][1] < found["bits"][0] < 8.0
    assert found["kinds"] == ("clean", "small")


def test_a_run_that_diverges_is_told_and_has_no_end() -> None:
    job = Job(what="run", quality="clean", sync_every=4, method="local_sgd", seed=0, lr=1e30)
    found = run(replace(TOY, workers=2), job)
    assert found["final"] is None
    assert "finite" in found["failure"]


def _sample(config: Config, job: Job, final: float | None, **more: Any) -> dict[str, Any]:
    kinds = ["clean"] * config.workers
    return {**vars(job), "final": final, "kinds": kinds, "left_out": [0] * 4, "weights": [], **more}


def test_each_method_gets_the_rate_that_is_best_on_tuning_seeds_and_never_diverges() -> None:
    config = replace(TOY, rates=(0.1, 0.2, 0.3), tune=2, quality=("clean",))
    ends = {0.1: (3.0, 3.0), 0.2: (2.5, 2.9), 0.3: (1.0, None)}
    tuned = [
        _sample(config, job, ends[job.lr][job.seed % 1000]) for job in language_model.tuning(config)
    ]
    rates = choose(config, tuned)["clean", 4]
    assert set(rates.values()) == {0.2}
    assert {job.lr for job in language_model.counting(config, tuned)} == {0.2}
    assert not {job.seed for job in language_model.tuning(config)} & set(range(config.seeds))


def test_differences_are_paired_by_seed_and_those_of_one_rate_without_tuning() -> None:
    config = replace(TOY, rates=(0.1, 0.2), tune=0, quality=("clean",), seeds=3)
    gains = {"local_sgd": 0.0, "mgrawa:score=probe:score.size=8": 0.1}
    samples = [
        _sample(config, job, 3.0 + job.seed + job.lr - gains[job.method] * (1 + job.seed))
        for job in language_model.counting(config, [])
    ]
    rows = rows_of(config, samples)
    assert [(row.name, row.lr) for row in rows] == [
        ("local_sgd", 0.1), ("local_sgd", 0.2), ("probe", 0.1), ("probe", 0.2)
    ]  # fmt: skip
    assert rows[0].difference is None
    for row in rows[2:]:
        assert row.difference is not None
        assert row.difference.mean == pytest.approx(-0.2)
        assert row.corrected == pytest.approx(2 * row.difference.p)


def test_weights_are_told_in_parts_of_an_equal_one() -> None:
    config = replace(TOY, tune=0, rates=(0.1,), seeds=1, methods=("mgrawa",))
    (job,) = language_model.counting(config, [])
    more = {
        "kinds": ["clean", "random", "clean", "clean"],
        "weights": [[0.4, 0.1, 0.2, 0.3], None, [0.3, 0.1, 0.3, 0.3]],
        "left_out": [0, 2, 0, 0],
    }
    (row,) = rows_of(config, [{**_sample(config, job, 3.0), **more}])
    found = weights_by_kind(row)
    assert found["random"] == pytest.approx((0.4, 2 / 3))
    assert found["clean"] == pytest.approx((1.2, 0.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "7B"}, "--size must be one of"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"jobs": 0}, "--jobs must be at least 1"),
        ({"bpe": 40_000}, "--bpe must be 0, or lie between 257 and"),
        ({"points": 3}, "--points must divide the 8 steps"),
        ({"sync_every": (9,)}, "--sync-every"),
        ({"rates": (2.0,)}, "--rates"),
        ({"quality": ("bad",)}, "--quality is"),
        ({"methods": ("nothing",)}, "no method 'nothing'"),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        language_model.check(replace(TOY, **changes))


def test_what_is_resumed_may_grow_and_may_not_change() -> None:
    wider = replace(TOY, methods=("diloco",), quality=("clean",), seeds=1)
    both, _ = language_model.resume(wider, TOY, [])
    assert both.methods == (*TOY.methods, "diloco")
    assert both.quality == ("mixed", "clean")
    assert both.seeds == TOY.seeds
    with pytest.raises(UserError, match="other options"):
        language_model.resume(replace(TOY, steps=4), TOY, [])


def test_samples_of_another_text_are_refused(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "language_model.jsonl")
    (job, *_) = language_model.tuning(TOY)
    about = {"text": {"digest": "another"}, "bf16": False, "device": "cpu", "seconds": 1.0}
    with samples.begin({}):
        samples.add(**{**_sample(TOY, job, 3.0), **about})
        with pytest.raises(UserError, match="made with text another"):
            language_model.measure(TOY, samples)


def test_no_run_begins_that_would_not_end_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = Samples(tmp_path / "language_model.jsonl")
    with samples.begin({}):
        assert language_model.measure(replace(TOY, minutes=0.0), samples) is False
    assert samples.read()[1:] == ([], False)
    assert "--resume makes the rest" in capsys.readouterr().out
