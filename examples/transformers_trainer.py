"""GRAWA under Transformers' `Trainer`: a small language model on bytes of this file.

    torchrun --standalone --nproc-per-node=2 examples/transformers_trainer.py

Evaluation and saved models are by the consensus; a checkpoint also keeps each worker, so that
`train(resume_from_checkpoint=True)` goes on bit for bit.
"""

import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

import grawa
from grawa.integrations.transformers import GrawaTrainer

CONTEXT = 64


class Bytes(Dataset[dict[str, Tensor]]):
    """Pieces of a text."""

    def __init__(self, text: bytes) -> None:
        self._numbers = torch.tensor(list(text))

    def __len__(self) -> int:
        return len(self._numbers) - CONTEXT

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        piece = self._numbers[index : index + CONTEXT]
        return {"input_ids": piece, "labels": piece}


def main() -> None:
    """Trains, and prints the consensus's loss."""
    text = Path(__file__).read_bytes()
    data = Bytes(text[:-300]), Bytes(text[-300:])
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=256, n_positions=CONTEXT, n_embd=32, n_layer=1, n_head=2)
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=60, per_device_train_batch_size=16, learning_rate=1e-2,
            max_grad_norm=1.0, save_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),  # or several processes on CPUs stay apart
        )  # fmt: skip
        trainer = GrawaTrainer(
            model=model, args=arguments, train_dataset=data[0], eval_dataset=data[1],
            strategy=grawa.LGRAWA(), sync_every=16,
        )  # fmt: skip
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        print(f"bits per byte {loss / math.log(2):.2f}")


if __name__ == "__main__":
    main()
