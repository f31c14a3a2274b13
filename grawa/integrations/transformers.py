"""Transformers: a `Trainer` whose workers rarely communicate; needs transformers and accelerate."""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import TrainOutput, get_last_checkpoint

from grawa.averager import Averager
from grawa.integrations.checks import check_processes, restore_workers, unsynced
from grawa.strategies.protocol import Strategy

_FOLDER = "grawa"


class GrawaTrainer(Trainer):
    """A `Trainer` with an `Averager` in place of gradient averaging by DDP.

    Each process is a worker. Evaluation, prediction and saved models are by the consensus, which
    the model has after `train()`. Checkpoints have what each worker needs to go on in `grawa/`, and
    `train(resume_from_checkpoint=...)` goes on bit for bit. Losses are recorded, and norms are
    noted before gradients are clipped. Each worker normalises its loss by its own tokens:
    `average_tokens_across_devices`, which takes a message at every step, is turned off.

    Args:
        strategy: how workers are averaged.
        sync_every: optimizer steps between rounds.
        averager_options: further options of the `Averager`.
        trainer_options: those of `Trainer`, by name.

    Attributes:
        averager: the `Averager`, while it trains.

    Raises:
        UserError: if Transformers does not know of all processes; and as by `Averager`, when
            training begins.
    """

    averager: Averager | None = None

    def __init__(
        self,
        *,
        strategy: Strategy,
        sync_every: int = 32,
        averager_options: dict[str, Any] | None = None,
        **trainer_options: Any,
    ) -> None:
        super().__init__(**trainer_options)
        check_processes(self.args.world_size, "on CPUs, pass TrainingArguments(use_cpu=True)")
        self.args.average_tokens_across_devices = False
        self._strategy = strategy
        self._options = {"sync_every": sync_every, **(averager_options or {})}
        self._block = ExitStack()
        self._loss: Tensor | float = 0.0
        self._resumed: str | None = None
        self.add_callback(_Rounds(self))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Trains; see `Trainer.train`.

        Returns:
            What `Trainer.train` returns.
        """
        found: Any = resume_from_checkpoint or None
        if found is True:
            found = get_last_checkpoint(self.args.output_dir)  # type: ignore[no-untyped-call]
        self._resumed = found
        clip = self.accelerator.clip_grad_norm_
        self.accelerator.clip_grad_norm_ = self._clip
        try:
            with self._block:
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self.accelerator.clip_grad_norm_, self.averager = clip, None

    def _clip(self, parameters: Any, max_norm: float, **_: Any) -> Tensor:
        assert self.averager is not None, "it trains"
        self.accelerator.unscale_gradients()
        return self.averager.clip_grad_norm_(max_norm)

    def training_step(self, model: nn.Module, *args: Any, **options: Any) -> Tensor:
        """A forward and a backward pass, after which DDP averages no gradients.

        Returns:
            The loss.
        """
        with unsynced(model):
            loss = super().training_step(model, *args, **options)
        self._loss = self._loss + loss
        return loss

    def _begin(self) -> None:
        optimizer = cast(Optimizer, self.optimizer)
        self.averager = Averager(self._net, optimizer, self._strategy, **self._options)
        self._loss = 0.0
        if self._resumed:
            restore_workers(self.averager, Path(self._resumed) / _FOLDER)
        self._block.enter_context(self.averager)

    def _before_step(self) -> None:
        assert self.averager is not None, "it trains"
        self.averager.record_loss(self._loss)
        self._loss = 0.0

    def _end(self) -> None:
        """The model gets the consensus, unless it has just got the best one."""
        assert self.averager is not None, "it trains"
        best = {name: value.clone() for name, value in self._net.state_dict().items()}
        self._block.close()
        consensus = self.averager.consensus()
        has_best = self.args.load_best_model_at_end and self.state.best_model_checkpoint
        self._net.load_state_dict(best if has_best else consensus)
        self.averager = None

    @property
    def _net(self) -> nn.Module:
        return cast(nn.Module, self.model)

    @contextmanager
    def _by_consensus(self) -> Generator[None]:
        with nullcontext() if self.averager is None else self.averager.consensus_applied():
            yield

    def evaluation_loop(self, *args: Any, **options: Any) -> Any:
        """Evaluates or predicts by the consensus; see `Trainer.evaluation_loop`.

        Returns:
            What that returns.
        """
        with self._by_consensus():
            return super().evaluation_loop(*args, **options)

    def save_model(self, *args: Any, **options: Any) -> None:
        """Saves the consensus; while it trains, every process must call it."""
        with self._by_consensus():
            super().save_model(*args, **options)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.averager is not None:
            self.averager.save(Path(output_dir) / _FOLDER)


class _Rounds(TrainerCallback):
    """Tells a trainer where its loop is."""

    def __init__(self, trainer: GrawaTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        self._trainer._begin()

    def on_pre_optimizer_step(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        self._trainer._before_step()

    def on_train_end(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        self._trainer._end()
