"""Each benchmark goes its whole way at toy size, and any beginning of its samples is of use."""

import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

import fewer_bits
import gpu_models
import gpu_tables
import guard
import hosts
import hosts_worker
import local_step
import methods
import network_methods
import outer_momentum
import outer_steps
import paired
import scale
import stragglers
import theory
import time_to_loss
import time_to_loss_methods
from common import read_json
from exchange import WAYS
from grawa.errors import UserError
from samples import Sample, Samples
from tests.benchmarks.toys import NAMES, Toy, assert_positive, rows, said, toy
from theory_problems import TASKS
from theory_results import CONDITIONS, METHODS

pytestmark = pytest.mark.world

PICTURES = {
    "hosts": {"hosts.png"},
    "network": {"network.png"},
    "outer_momentum": {"outer_momentum.png"},
    "scale": {"scale.png"},
    "stragglers": {"stragglers.png"},
    "sync": {"sync.png"},
    "theory": {"theory_convex.png", "theory_nonconvex.png"},
    "time_to_loss": {"time_to_loss_digits-cnn.png"},
}


@pytest.mark.parametrize("name", NAMES)
def test_leaves_results_samples_and_pictures_and_nothing_else(name: str) -> None:
    run = toy(name)
    files = {f"{name}.json", f"{name}.jsonl"} | PICTURES.get(name, set())
    assert {path.name for path in run.folder.iterdir()} == files
    assert run.results()["config"] == run.samples.read()[0]["config"]
    assert run.results()["environment"]["versions"]["torch"]
    assert f"{name}.jsonl" in run.printed


def _ratios(run: Toy, seconds: dict[str, list[float]], baseline: str) -> None:
    """All methods have as many samples as the baseline, and ratios to it that mean something."""
    of = seconds[baseline]
    assert_positive(s / b for own in seconds.values() for s, b in zip(own, of, strict=True))


def test_sync_has_a_turn_of_every_method_and_the_parts_of_a_round() -> None:
    run = toy("sync")
    installed = [name for name in methods.METHODS if methods.is_installed(name)]
    turns = [line for line in run.lines() if line["what"] == "turn"]
    assert len(turns) == run.module.TOY.rounds
    assert len(run.lines()) == len(installed) + 2 * len(turns)
    assert rows(run.printed) >= set(methods.METHODS)
    found = run.results()
    assert list(found["seconds"]) == installed
    _ratios(run, found["seconds"], methods.BASELINE)
    _ratios(run, found["processor_seconds"], methods.BASELINE)
    assert {"comm.mailboxes", "rounds.engine"} <= set(found["breakdown"])
    assert_positive([sum(map(sum, found["breakdown"].values()))])


def test_sync_counts_a_fragments_bytes_as_its_share() -> None:
    sent = toy("sync").results()["bytes_sent"]
    whole, part = sent["grawa LGRAWA"][0], sent["LGRAWA, one of 4 fragments"][0]
    overhead = 2_000  # the roll call of a round
    assert part < whole / 4 + overhead


def test_hosts_has_every_method_at_every_rate() -> None:
    run = toy("hosts")
    (arrangement,), (rate,) = run.module.TOY.arrangements, run.module.TOY.rates
    found = run.results()["found"]
    assert list(found) == [arrangement]
    assert list(found[arrangement]) == [rate]
    methods = found[arrangement][rate]
    expected = {name + suffix for name, suffix in product(hosts_worker.OURS, hosts_worker.VARIANTS)}
    assert set(methods) >= expected | {"bare all_reduce", "PyTorch hierarchical"}
    assert rows(run.printed) == set(methods)
    assert_positive(s for own in methods.values() for s in own["seconds"])
    assert_positive(n for own in methods.values() for n in own["models_sent"])


def test_a_turn_of_hosts_that_was_interrupted_is_left_out() -> None:
    at = {"arrangement": "2x2", "rate": "1gbit"}
    measured = {"seconds": 1.0, "models_sent": 1.0}
    samples: list[Sample] = [
        {**at, "method": "LSGD", "planned": 2.0},
        *({**at, **measured, "method": name, "turn": 1} for name in ("LSGD", "LocalSGD")),
        {**at, **measured, "method": "LSGD", "turn": 2},
        {**at, "rate": "100mbit", "method": "LSGD", "planned": 2.0},
    ]
    found = hosts.merge(hosts.TOY, samples)["found"]
    once = {"seconds": [1.0], "models_sent": [1.0]}
    assert found == {
        "2x2": {"1gbit": {"LSGD": {**once, "planned": [2.0]}, "LocalSGD": {**once, "planned": []}}}
    }


def test_two_hosts_send_no_more_than_they_must() -> None:
    methods = toy("hosts").results()["found"]["2x2"]["1gbit"]
    sent = {name: own["models_sent"][0] for name, own in methods.items()}
    for name in ("LocalSGD", "MGRAWA", "LGRAWA", "DiLoCo", "LGRAWA, overlap"):
        assert 0.99 < sent[name] < 1.06
    assert sent["LSGD"] < 1.06
    assert sent["LGRAWA, int8"] < 0.3


def test_time_to_loss_has_a_curve_of_every_method() -> None:
    run = toy("time_to_loss")
    config = run.module.TOY
    methods = run.results()["found"]["digits-cnn"]["2x2"]
    assert list(methods) == list(time_to_loss_methods.METHODS)
    assert rows(run.printed) == set(methods)
    for name, runs in methods.items():
        (curve,) = runs
        assert len(curve["seconds"]) == len(curve["errors"]) == config.points
        assert sorted(curve["seconds"]) == curve["seconds"]
        assert curve["steps"][-1] == 4 * (1 if name == "DDP" else config.longer)
        assert_positive([*curve["seconds"], *curve["errors"]])


def test_a_loss_is_reached_between_two_measurements() -> None:
    curve = {"seconds": [10.0, 20.0, 30.0], "errors": [0.9, 0.5, 0.4]}
    assert time_to_loss.reached(curve, 0.7) == pytest.approx(15.0)
    assert time_to_loss.reached(curve, 0.95) == pytest.approx(10.0)
    assert time_to_loss.reached(curve, 0.3) is None
    assert time_to_loss.reached({**curve, "errors": [0.9, None, 0.4]}, 0.5) is None


def test_the_learning_rate_is_chosen_by_the_mean_over_seeds_without_one_that_diverged() -> None:
    ends = {0.0125: (0.4, 0.1), 0.025: (0.3, 0.3), 0.05: (0.1, 0.2), 0.1: (0.05, None)}
    tuned = [
        {
            "what": "tune",
            "task": "digits-cnn",
            "method": "DDP",
            "learning_rate": rate,
            "errors": [] if end is None else [0.9, end],
        }
        for rate, own in ends.items()
        for end in own
    ]
    assert time_to_loss.choose(time_to_loss.TOY, tuned)["digits-cnn"]["DDP"] == pytest.approx(0.05)


def test_time_to_loss_is_resumed_with_the_same_options_only() -> None:
    config = time_to_loss.TOY
    assert time_to_loss.resume(config, config, [{"seed": 1}]) == (config, [{"seed": 1}])
    with pytest.raises(UserError, match="other options"):
        time_to_loss.resume(config, replace(config, seeds=2), [])


def test_language_model_tunes_and_compares_every_method() -> None:
    run = toy("language_model")
    config, found = run.module.TOY, run.results()
    assert len(run.lines()) == len(config.methods) * (
        len(config.rates) * config.tune + config.seeds
    )
    assert rows(run.printed) == {row["name"] for row in found["rows"]} == {"local_sgd", "probe"}
    base, other = found["rows"]
    assert base["difference"] is None
    ends = [[sample["final"] for sample in row["runs"]] for row in (base, other)]
    assert other["difference"] == pytest.approx(sum(ends[1]) / 2 - sum(ends[0]) / 2)
    assert all(len(sample["weights"]) == 2 for sample in other["runs"])
    assert [s["kinds"] for s in base["runs"]] == [s["kinds"] for s in other["runs"]]


def test_a_resumed_language_model_ends_as_if_it_had_not_been_interrupted(tmp_path: Path) -> None:
    whole = toy("language_model")
    lines = whole.samples.path.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "language_model.jsonl").write_text("".join(lines[:-3]) + lines[-3][:50])
    printed = said(whole.module, "--toy", "--resume", "--out", str(tmp_path))
    assert printed.count("; 0 left, ") == 1
    again = Samples(tmp_path / "language_model.jsonl").read()[1]
    assert [sample["bits"] for sample in again] == [line["bits"] for line in whole.lines()]


def test_local_step_has_a_turn_of_every_variant() -> None:
    run = toy("local_step")
    toy_size = local_step.TOY
    alone = 2 * len(local_step.OPTIMIZERS) * toy_size.cycles
    assert len(run.lines()) == toy_size.training_cycles + alone
    seconds = run.results()["seconds"]
    assert rows(run.printed) == set(seconds)
    for step, variants in seconds.items():
        expected = set(local_step.VARIANTS)
        assert set(variants) == (expected if step != "ResNet-20" else {"bare", "norms and pull"})
        _ratios(run, variants, "bare")


def test_medians_are_measured_in_every_arrangement() -> None:
    run = toy("medians")
    config, seconds = run.module.TOY, run.results()["seconds"]
    assert len(seconds) == len(config.workers) + 2 * len(config.processes)
    assert len(run.lines()) == len(seconds) * config.repetitions
    assert rows(run.printed) == set(run.module.WAYS)
    for own in seconds.values():
        _ratios(run, own, run.module.BASELINE)


def test_gpu_measures_every_part() -> None:
    run = toy("gpu")
    config, found = run.module.TOY, run.results()
    assert found["failed"] == {}
    assert found["card"] == "cpu"
    parts = found["parts"]
    assert list(parts) == list(config.parts)
    assert len(parts["round"]) == len(config.workers) * len(gpu_models.METHODS) + 1
    rounds = [one for name, one in parts["round"].items() if name != "copy"]
    assert_positive(seconds for one in rounds for seconds in one["seconds"])
    assert_positive(one["activity"]["operators"] for one in rounds)
    for model in ("transformer", config.resnet):
        assert set(parts["step"][model]["seconds"]) == {"bare", *gpu_models.METHODS}
        _ratios(run, parts["step"][model]["seconds"], "bare")
    assert_positive(parts["stacked"][how]["seconds"] for how in ("looped", "stacked"))
    assert set(parts["resume"]) == set(gpu_models.RESUMED)
    for one in parts["resume"].values():
        assert set(one["seconds"]) == set(one["of_model"]) == set(gpu_tables.STAGES)
    resumed = {f"{m}: {what}" for m in parts["resume"] for what, _ in gpu_tables.STAGES.values()}
    assert rows(run.printed) == {*gpu_models.METHODS, *parts["step"], *parts["stacked"], *resumed}


def test_paired_has_an_error_of_every_variant_and_seed() -> None:
    run = toy("paired")
    assert len(run.lines()) == len(paired.VARIANTS) * paired.TOY.seeds
    assert rows(run.printed) == set(paired.VARIANTS)
    errors = run.results()["errors"]
    assert all(len(own) == paired.TOY.seeds for own in errors.values())
    assert_positive(error for own in errors.values() for error in own)
    assert max(error for own in errors.values() for error in own) <= 100.0


def test_paired_compares_the_variants_that_are_asked_for() -> None:
    paired.check(replace(paired.TOY, only=("int8",)))
    with pytest.raises(UserError, match=r"there is no variant 'int9'; there are 'blocking"):
        paired.check(replace(paired.TOY, only=("int8", "int9")))


def test_fewer_bits_are_measured_beside_int8() -> None:
    run = toy("fewer_bits")
    (seconds,) = run.results()["seconds"].values()
    assert rows(run.printed) == set(seconds) == set(fewer_bits.WAYS)
    _ratios(run, seconds, fewer_bits.BASELINE)


def test_outer_momentum_compares_every_outer_optimizer_with_local_sgd_by_seed() -> None:
    run = toy("outer_momentum")
    assert len(run.lines()) == len(outer_momentum.jobs(outer_momentum.TOY))
    known = outer_momentum.outers(outer_momentum.TOY, "digits")
    assert rows(run.printed) == set(known)
    errors = run.results()["errors"]["digits"]["4"]
    assert list(errors) == known
    assert all(len(own) == outer_momentum.TOY.seeds for own in errors.values())
    assert_positive(error for own in errors.values() for error in own)


def test_outer_momentum_is_resumed_where_it_was_interrupted(tmp_path: Path) -> None:
    run = toy("outer_momentum")
    lines = run.samples.path.read_text(encoding="utf-8").splitlines()
    part = tmp_path / run.samples.path.name
    part.write_text("\n".join(lines[:-2]) + "\n", encoding="utf-8")
    said(run.module, "--toy", "--resume", "--out", str(tmp_path))
    again = read_json(tmp_path / "outer_momentum.json")
    assert again["errors"] == run.results()["errors"]


def test_outer_steps_choose_learning_rates_on_seeds_of_their_own() -> None:
    run = toy("outer_steps")
    config, lines = outer_steps.TOY, run.lines()
    tuned = [line for line in lines if line["what"] == "tune"]
    assert {line["seed"] for line in tuned} == {100}
    assert len(tuned) == len(config.outer) * len(outer_steps.LRS["Muon"])
    assert len(lines) - len(tuned) == len(config.outer) * config.seeds
    found = run.results()["found"]["Muon"]
    assert rows(run.printed) == set(found) == set(config.outer)
    for own in found.values():
        assert own["lr"] in outer_steps.LRS["Muon"]
        assert_positive(own["bits"])


def test_guard_runs_every_condition_with_and_without_it() -> None:
    run = toy("guard")
    assert len(run.lines()) == len(guard.jobs(guard.TOY))
    assert rows(run.printed) == set(guard.CONDITIONS)
    found = run.results()["runs"]
    poisoned = [one for one in found if one["condition"] == "NaN, once"]
    assert all((one["error"] is not None) == one["guarded"] for one in poisoned)
    assert all(one["error"] is not None for one in found if one["condition"] != "NaN, once")


def test_stragglers_run_by_both_clocks() -> None:
    run = toy("stragglers")
    kinds = stragglers.kinds(stragglers.TOY)
    assert len(run.lines()) == 2 * len(kinds)
    assert len(rows(run.printed)) == len(kinds)
    found = run.results()
    for clock in ("real", "virtual"):
        assert_positive(one["samples"] for one in found[clock])
        assert all(0.0 <= one["error"] <= 1.0 for one in found[clock])
    every, shared = (found["virtual"][i]["samples"] for i in (1, 3))
    assert shared > every, "a slow worker holds up less when steps are counted together"


def test_scale_measures_every_model_and_predicts_for_every_number_of_machines() -> None:
    run = toy("scale")
    jobs = scale.jobs(scale.TOY)
    assert len(run.lines()) == len(jobs) * scale.TOY.turns + 1
    found = run.results()
    assert_positive(one["found"][0]["seconds"] for one in found["samples"])
    assert len(found["samples"]) == len(jobs)
    assert set(found["predictions"]) == set(scale.TOY.links)
    for methods_of in found["predictions"].values():
        assert set(methods_of) == set(scale.VARIANTS)
        assert_positive(ms for steps in methods_of.values() for ms in steps.values())
    assert rows(run.printed) == {"1", "2", *scale.VARIANTS}


def test_theory_trains_every_method_under_every_condition() -> None:
    run = toy("theory")
    assert len(run.lines()) == len(theory.jobs(theory.TOY))
    found = run.results()
    conditions = [", ".join(condition) for condition in CONDITIONS]
    for task, condition, method in product(TASKS, conditions, METHODS):
        assert_positive(found["convex"][task][condition][method]["mean"])
    assert "expected" in found["convex"]["quadratic"]["iid, decaying"]
    assert set(found["nonconvex"]) == set(METHODS)
    assert rows(run.printed) == {*METHODS.values(), "expected"}


def test_exchange_takes_a_mean_by_every_way() -> None:
    run = toy("exchange")
    assert len(run.lines()) == run.module.TOY.turns
    assert rows(run.printed) == set(WAYS)
    _ratios(run, run.results()["seconds"], "whole messages at once")


def test_network_trains_by_every_method() -> None:
    run = toy("network")
    assert len(run.lines()) == 1 + len(network_methods.METHODS)
    assert rows(run.printed) == set(network_methods.METHODS)
    found = run.results()["rates"]["1gbit"]
    assert set(found["planned"]["shares"]) == set(network_methods.PLANNED)
    measured = {name: one for name, one in found["found"].items() if "failed" not in one}
    refused = {"DDP, bf16 hook"} | {
        name for name in network_methods.METHODS if not network_methods.is_installed(name)
    }
    assert set(found["found"]) - set(measured) == refused
    assert_positive(one["share_of_limit"] for one in measured.values())
    assert measured["DDP"]["bytes_per_step"] > 3 * measured["LocalSGD"]["bytes_per_step"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 0.5], ids=["one sample", "half of them"])
def test_any_beginning_of_the_samples_can_be_tabulated(
    name: str, share: float, tmp_path: Path
) -> None:
    run = toy(name)
    lines = run.samples.path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = 1 + max(1, round(share * (len(lines) - 2)))
    cut = tmp_path / f"{name}.jsonl"
    cut.write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2], encoding="utf-8")
    assert "│" in said(run.module, "--tabulate", str(cut)) or name in {"network", "scale", "sync"}
    found = read_json(tmp_path / f"{name}.interrupted.json")
    assert set(found) <= set(run.results())
    assert len(list(tmp_path.iterdir())) == 2


def test_pictures_are_drawn_again_from_results_with_an_option_of_the_past(tmp_path: Path) -> None:
    run = toy("stragglers")
    results = run.results()
    results["config"]["output"] = "elsewhere.json"
    (tmp_path / "stragglers.json").write_text(json.dumps(results), encoding="utf-8")
    said(run.module, "--redraw", "--out", str(tmp_path))
    name = "stragglers.png"
    assert (tmp_path / name).read_bytes() == (run.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("module", "words", "reason"),
    [
        (theory, (), "no results in"),
        (paired, (), "no pictures"),
        (theory, ("--tabulate", "theory.jsonl"), "leave out --tabulate"),
    ],
)
def test_it_is_said_why_no_picture_can_be_drawn(
    module: ModuleType,
    words: tuple[str, ...],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--redraw", "--out", str(tmp_path), *words])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_whole_samples_make_the_same_results_again(tmp_path: Path) -> None:
    run = toy("theory")
    again = Path(shutil.copy(run.samples.path, tmp_path))
    said(run.module, "--tabulate", str(again))
    assert read_json(tmp_path / "theory.json") == run.results()
