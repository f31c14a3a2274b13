"""The local steps of the workers in a process, all in one batched pass."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.lab.tasks import Data, Task
from grawa.lab.train.hosted import Hosted, Looped
from grawa.lab.train.settings import Settings
from grawa.lab.train.stackable import trained_names
from grawa.lab.train.stacked_gradient import StackedGradient
from grawa.lab.train.stacked_optimizer import StackedOptimizer
from grawa.lab.train.worker import Worker
from grawa.workers.replicas import Replicas


class Stacked:
    """Hosted workers that step together, in one batched pass over their stacked parameters.

    Parameters are not copied, because they are stacked in memory already; each parameter's `.grad`
    is a row of the gradients that the pass returns.

    Args:
        task: the task.
        data: the task's data, on the device.
        workers: the K hosted workers.
        replicas: the same workers' models, whose parameters are stacked.
        names: of the parameters that have a gradient.
    """

    def __init__(
        self,
        task: Task,
        data: Data,
        workers: Sequence[Worker],
        replicas: Replicas,
        names: Sequence[str],
    ) -> None:
        frozen = dict(replicas.params)
        trained = {name: frozen.pop(name) for name in names}
        buffers = dict(replicas.buffers.rows())
        tables = [dict(worker.model.named_parameters()) for worker in workers]
        self._params = [[table[name] for name in names] for table in tables]
        self._workers, self._inputs = workers, data.train_inputs
        self._gradient = StackedGradient(task, workers[0].model, trained, frozen, buffers)
        self._gradients: list[Tensor] = []
        self._optimizer = StackedOptimizer(
            list(trained.values()), self._params, [worker.optimizer for worker in workers]
        )
        targets = {id(worker.targets): worker.targets for worker in workers}
        self._targets = torch.stack(list(targets.values()))
        rows = [list(targets).index(id(worker.targets)) for worker in workers]
        self._target_rows = torch.tensor(rows, device=self._targets.device).unsqueeze(1)

    def backward(self, chosen: slice, steps: Sequence[int]) -> Tensor:
        """See `Hosted.backward`; all must step."""
        pairs = zip(self._workers, steps, strict=True)
        batches = torch.stack([worker.next_batch(step) for worker, step in pairs])
        batches = batches.to(self._inputs.device)  # (K, B)
        self._forget_gradients()
        pairs_of_inputs = zip(self._workers, self._inputs[batches], strict=True)
        inputs = torch.stack([worker.augment(rows) for worker, rows in pairs_of_inputs])
        gradients, losses = self._gradient(inputs, self._targets[self._target_rows, batches])
        self._gradients = list(gradients.values())
        rows = zip(*(gradient.unbind() for gradient in self._gradients), strict=True)
        for params, row in zip(self._params, rows, strict=True):
            for parameter, gradient in zip(params, row, strict=True):
                parameter.grad = gradient
        return losses

    def _forget_gradients(self) -> None:
        """Frees the last gradients' memory, which the next ones can use."""
        self._gradients = []
        for params in self._params:
            for parameter in params:
                parameter.grad = None

    def move(self, chosen: slice) -> None:
        """See `Hosted.move`; all must step."""
        self._optimizer.step(self._gradients)


def host(
    task: Task,
    data: Data,
    workers: Sequence[Worker],
    replicas: Replicas,
    settings: Settings,
    *,
    stacked: bool,
) -> Hosted:
    """Makes what makes the local steps of the workers in this process.

    Args:
        task: the task.
        data: the task's data, on the device.
        workers: the K hosted workers.
        replicas: the same workers' models, whose parameters are stacked.
        settings: of the run.
        stacked: whether in one batched pass; otherwise one by one.

    Returns:
        The workers that step so; a `UserError` if the model can't be stacked.
    """
    if not stacked:
        return Looped(workers)
    return Stacked(task, data, workers, replicas, trained_names(task, data, settings))
