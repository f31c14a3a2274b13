"""Accelerate: a drop-in for its `LocalSGD`; needs accelerate 1.0 or later."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer

from grawa.averager import Averager
from grawa.errors import UserError
from grawa.integrations.checks import check_processes, restore_workers, unsynced
from grawa.strategies.protocol import Strategy
from grawa.workers.unwrapped import inner_model

_OTHERS = {
    DistributedType.DEEPSPEED, DistributedType.FSDP, DistributedType.MEGATRON_LM,
    DistributedType.XLA,
}  # fmt: skip

_FOLDER = "grawa"


class GrawaSGD:
    """Trains a prepared model with an `Averager`, in place of `accelerate.local_sgd.LocalSGD`.

    DDP does not average gradients in the block. At its end the model has the consensus, on every
    process. `accelerator.save_state` saves the consensus as the model, and beside it, in `grawa/`,
    what each worker needs to go on, which `load_state` restores.

    Args:
        accelerator: has prepared the model and the optimizer.
        model: what `accelerator.prepare` has returned for it.
        optimizer: likewise; or several of one model.
        strategy: how workers are averaged.
        options: of the `Averager`, such as `sync_every`.

    Attributes:
        averager: the `Averager`.

    Raises:
        UserError: with DeepSpeed, FSDP, Megatron-LM or XLA, or if Accelerate does not know of all
            processes; else as by `Averager`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        strategy: Strategy,
        **options: Any,
    ) -> None:
        if accelerator.distributed_type in _OTHERS:
            raise UserError(f"GrawaSGD can't train with {accelerator.distributed_type}")
        check_processes(accelerator.num_processes, "on CPUs, pass Accelerator(cpu=True)")
        self._accelerator, self._model = accelerator, model
        self.averager = Averager(inner_model(model), optimizer, strategy, **options)
        self._block = ExitStack()
        self._folder = Path()
        accelerator.register_save_state_pre_hook(self._save)
        accelerator.register_load_state_pre_hook(self._note_folder)
        accelerator.register_for_checkpointing(self)  # is loaded last

    def __enter__(self) -> Self:
        self._block.enter_context(unsynced(self._model))
        self._block.enter_context(self.averager)
        return self

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)
        if error[0] is None:
            inner_model(self._model).load_state_dict(self.averager.consensus())

    def step(self) -> None:
        """Does nothing, since optimizer steps count themselves; for loops made for `LocalSGD`."""

    def clip_grad_norm_(self, max_norm: float) -> Tensor | None:
        """Clips gradients in place of `accelerator.clip_grad_norm_`, and notes their norms before.

        Returns:
            The norm before clipping; `None` while gradients are accumulated.
        """
        if not self._accelerator.sync_gradients:
            return None
        self._accelerator.unscale_gradients()
        return self.averager.clip_grad_norm_(max_norm)

    def _save(self, models: list[nn.Module], weights: list[dict[str, Tensor]], folder: str) -> None:
        with self.averager.consensus_applied():
            for place, model in enumerate(models):
                if inner_model(model) is inner_model(self._model):
                    weights[place] = {k: v.clone() for k, v in model.state_dict().items()}
        self.averager.save(Path(folder) / _FOLDER)

    def _note_folder(self, models: list[nn.Module], folder: str) -> None:
        self._folder = Path(folder)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what is saved is in files of its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called by `accelerator.load_state` at its end: restores each worker."""
        restore_workers(self.averager, self._folder / _FOLDER)
