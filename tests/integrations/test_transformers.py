"""Transformers' `Trainer` trains as a plain loop does, and goes on from a checkpoint."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import grawa
from tests.integrations.trainers import (
    SYNC_EVERY,
    Batches,
    Recording,
    Samples,
    State,
    adamw,
    assert_as_plain,
    assert_same,
    copied,
)
from tests.world import launched, results

pytest.importorskip("transformers")
pytestmark = pytest.mark.world

LGRAWA = grawa.LGRAWA()
STEPS = 12


def trained(
    folder: str,
    *,
    clip: float = 0.0,
    dropout: float = 0.0,
    resume: str | None = None,
    strategy: grawa.Strategy = LGRAWA,
) -> tuple[State, Batches, list[list[float]]]:
    """The model after training, what it has seen, and the losses that rounds report."""
    transformers: Any = importlib.import_module("transformers")
    integration: Any = importlib.import_module("grawa.integrations.transformers")
    state: Any = importlib.import_module("accelerate.state")
    losses: list[list[float]] = []
    arguments = transformers.TrainingArguments(
        folder, max_steps=STEPS, per_device_train_batch_size=4, max_grad_norm=clip, save_steps=6,
        eval_strategy="steps", eval_steps=6, use_cpu=True, report_to=[], disable_tqdm=True,
        lr_scheduler_type="constant", remove_unused_columns=False, save_only_model=False,
    )  # fmt: skip
    model = Recording(dropout)
    try:
        trainer = integration.GrawaTrainer(
            model=model, args=arguments, train_dataset=Samples(32), eval_dataset=Samples(16),
            optimizers=(adamw(model), None), strategy=strategy, sync_every=SYNC_EVERY,
            averager_options={"on_round": lambda report: losses.append(report.losses.tolist())},
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return copied(model), model.seen, losses
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_it_trains_as_a_plain_loop_does(tmp_path: Path, clip: float) -> None:
    found = results(launched(2, trained, str(tmp_path), clip=clip))
    pairs = [(state, seen) for state, seen, _ in found]
    assert_as_plain(pairs, grawa.LGRAWA(), clip or None)
    assert len(found[0][1]) == STEPS
    assert all(loss > 0.0 for _, _, losses in found for row in losses for loss in row)


def test_saved_and_evaluated_is_the_consensus_and_training_goes_on_bit_for_bit(
    tmp_path: Path,
) -> None:
    safetensors: Any = importlib.import_module("safetensors.torch")
    whole = results(launched(2, trained, str(tmp_path / "a"), dropout=0.2))
    half = tmp_path / "a" / "checkpoint-6"
    last = tmp_path / "a" / f"checkpoint-{STEPS}"
    resumed = results(launched(2, trained, str(tmp_path / "b"), dropout=0.2, resume=str(half)))
    assert_same([state for state, *_ in whole], [state for state, *_ in resumed])
    saved = safetensors.load_file(last / "model.safetensors")
    told = json.loads((last / "trainer_state.json").read_text())["log_history"]
    evaluated = [entry["eval_loss"] for entry in told if "eval_loss" in entry][-1]
    model = Recording(0.2)
    model.load_state_dict(saved)
    model.eval()
    samples = Samples(16)
    with torch.no_grad():
        rows = [samples[i] for i in range(16)]
        x, labels = (torch.stack([row[key] for row in rows]) for key in ("x", "labels"))
        loss = float(model(x, labels)["loss"])
    assert loss == pytest.approx(evaluated, abs=1e-6)


def test_a_checkpoint_of_another_trainer_starts_all_workers_from_its_model(tmp_path: Path) -> None:
    results(launched(2, trained, str(tmp_path)))
    half = tmp_path / "checkpoint-6"
    (half / "grawa").rename(half / "away")
    found = launched(2, trained, str(tmp_path / "b"), resume=str(half))
    assert all("has no states of workers" in str(error) for error in found)  # warnings are errors
