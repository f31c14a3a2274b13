"""Text, workers and runs of the benchmark of language models."""

import math
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import language_model
import language_model_data
from grawa.errors import UserError
from language_model_config import TOY, Config
from language_model_data import Asked, Corpus, texts
from language_model_results import choose, rows_of, weights_by_kind
from language_model_run import Job, run, text_of
from language_model_steps import one_by_one, stacked
from language_model_task import method_options, optimizers_of, task_of
from language_model_workers import KINDS, Stream, population, streams
from samples import Samples

CPU = torch.device("cpu")


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for all sources on this machine."""
    for number in range(60):
        (tmp_path / f"file{number}.py").write_text(f"# {number:05}\n" * 40, encoding="utf-8")
        (tmp_path / f"file{number}.h").write_text(f"/* {number:03} */\n" * 40, encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: dict.fromkeys(
        ("stdlib", "purelib", "platlib"), str(tmp_path)
    ))  # fmt: skip
    return tmp_path


def _read(**changes: int) -> Corpus:
    asked = {"train_bytes": 6_000, "test_bytes": 100, "context": 8, "bpe": 0, **changes}
    return language_model_data.corpus.__wrapped__(Asked(**asked))


def test_equal_files_and_files_that_are_no_text_are_left_out(tmp_path: Path) -> None:
    contents = {"a": b"x = 1\n", "b": b"\xff\xfe", "c": b"x = 1\n", "d": b"", "e": b"y = 2\n"}
    files = [tmp_path / name for name in (*contents, "missing")]
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert list(texts(files)) == [b"x = 1\n", b"y = 2\n"]


def test_a_file_is_read_up_to_the_end_of_a_line(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("é = 1\n" * 3_000, encoding="utf-8")
    (text,) = texts([tmp_path / "long.py"])
    assert 19_990 < len(text) <= 20_000
    assert text.endswith(b"= 1\n")


@pytest.mark.usefixtures("sources")
def test_no_file_is_in_two_parts_and_the_same_sources_are_the_same_text() -> None:
    text = _read()
    parts = [text.train, text.probe[0].flatten(), text.test[0].flatten()]
    numbers = [
        {bytes(part.tolist())[i : i + 8] for i in range(len(part) - 8) if part[i] == ord("#")}
        for part in parts
    ]
    assert all(numbers)
    assert not numbers[0] & numbers[2]
    assert set(bytes(text.other.tolist())) <= set(b"/* 0123456789\n")
    assert _read().about == text.about
    assert _read(train_bytes=5_000).about["digest"] != text.about["digest"]


def test_too_little_text_is_said(sources: Path) -> None:
    for path in sources.glob("*.h"):
        path.unlink()
    with pytest.raises(UserError, match="too little text for other"):
        _read()


@pytest.mark.usefixtures("sources")
def test_byte_pairs_have_the_bytes_of_their_text() -> None:
    pytest.importorskip("tokenizers")
    text = _read(bpe=300)
    assert 256 < text.symbols <= 300
    assert int(text.lengths[text.train.long()].sum()) == text.about["bytes"]["train"]
    assert text.bytes_per_symbol > 1.5


@pytest.mark.usefixtures("sources")
@pytest.mark.parametrize("bpe", [0, 300])
def test_guessing_costs_the_entropy_of_a_symbol_in_bits_per_byte(bpe: int) -> None:
    if bpe:
        pytest.importorskip("tokenizers")
    text = _read(bpe=bpe)
    task = task_of(TOY.resolved(), text, CPU, bf16=False)
    model = task.model(0)
    for parameter in model.parameters():
        parameter.data.zero_()
    expected = math.log2(text.symbols) / text.bytes_per_symbol
    assert task.measure(model, task.data(0)) == pytest.approx(expected)


def test_mixed_populations_have_clean_workers_and_others() -> None:
    drawn = {population("mixed", 4, seed) for seed in range(200)}
    assert all(1 <= kinds.count("clean") < 4 for kinds in drawn)
    assert {kind for kinds in drawn for kind in kinds} == set(KINDS)
    assert population("mixed", 4, 7) == population("mixed", 4, 7)


def test_qualities_can_be_named_one_by_one() -> None:
    assert population("clean", 2, 0) == ("clean", "clean")
    assert population("clean+random", 2, 0) == ("clean", "random")
    for wrong in ("clean+random+small", "dirty+clean", ""):
        with pytest.raises(UserError, match="--quality is"):
            population(wrong, 2, 0)
    with pytest.raises(UserError, match="at least 2 workers"):
        population("mixed", 1, 0)


def _streams(kinds: Sequence[str], seed: int = 0) -> list[Stream]:
    return streams(text_of(TOY), kinds, seed=seed, steps=400, batch=4, context=8, device=CPU)


def test_workers_read_what_they_are_named_after() -> None:
    clean, random, small, repeated, other = _streams(KINDS)
    own = text_of(TOY).train.tensor_split(len(KINDS))
    assert torch.equal(clean.symbols, own[0])
    changed = (random.symbols != own[1]).double().mean()
    assert changed == pytest.approx(0.5, abs=0.05)
    assert [len(stream.batch(0)[0]) for stream in (clean, small)] == [4, 1]
    assert len(repeated.symbols) == 400 * 4 * 8 // 20
    assert not torch.equal(repeated.batch(0)[0], repeated.batch(0)[0]), "other symbols each time"
    assert torch.equal(other.symbols, text_of(TOY).other.tensor_split(len(KINDS))[4])


def test_targets_are_the_next_symbols_and_batches_depend_on_the_seed_alone() -> None:
    (first,), (again,), (other,) = (_streams(["clean"], seed) for seed in (0, 0, 1))
    inputs, targets = first.batch(3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, again.batch(3)[0])
    assert not torch.equal(inputs, other.batch(3)[0])


def test_gradients_in_one_pass_are_those_of_each_worker_also_with_a_small_batch() -> None:
    task = task_of(TOY.resolved(), text_of(TOY), CPU, bf16=False)
    batches = [stream.batch(0) for stream in _streams(["clean", "small"])]
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
    about = {"text": {"digest": "another"}, "bf16": False}
    with samples.begin({}):
        samples.add(**{**_sample(TOY, job, 3.0), **about})
        with pytest.raises(UserError, match="made with text another"):
            language_model.measure(TOY, samples)


def test_no_run_begins_that_would_not_end_in_time(tmp_path: Path) -> None:
    samples = Samples(tmp_path / "language_model.jsonl")
    with samples.begin({}):
        assert language_model.measure(replace(TOY, minutes=0.0), samples) is False
    assert samples.read()[1:] == ([], False)
