"""The start: connects the processes, and gives all workers equal models and values."""

import ctypes
import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from grawa.comm import DistributedCommunicator, InProcessCommunicator
from grawa.comm.pool import ranks_of
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.leaves import Rows
from grawa.workers.changes import has_means
from grawa.workers.checks import check_launched_alone
from grawa.workers.identity import fingerprint
from grawa.workers.overwritten import Overwritten
from grawa.workers.replicas import Replicas
from grawa.workers.stack import is_strided

_DIGITS = 12  # of a hex digest: 48 bits, which float64 holds exactly


class _HasReplicas(Protocol):
    @property
    def replicas(self) -> Replicas: ...


Built = TypeVar("Built", bound=_HasReplicas)


def connect(
    group: dist.ProcessGroup | None,
    num_hosted: int,
    timeout: timedelta,
    *,
    device: torch.device,
    shared_memory: bool = True,
    hosts: Sequence[Sequence[int]] | None = None,
    between_hosts: str | None = None,
) -> Transport:
    """Connects to the processes of a group; without any process group, only the hosted workers.

    Args:
        group: the processes that take part; `None` for all.
        num_hosted: workers per process.
        timeout: how long a message may wait for the others.
        device: where the parameters live.
        shared_memory: whether processes of one machine may exchange messages in shared memory.
        hosts: the ranks of each host; found out by default.
        between_hosts: the backend that sends from one host to another.

    Returns:
        The connection.
    """
    if not (dist.is_available() and dist.is_initialized()):
        check_launched_alone()
        return InProcessCommunicator(num_hosted)
    return DistributedCommunicator(
        ranks_of(group),
        num_hosted,
        timeout,
        device=device,
        shared_memory=shared_memory,
        hosts=hosts,
        between_hosts=between_hosts,
    )


def build_equal(comm: Transport, build: Callable[[], Built], options: str) -> Built:
    """Builds the hosted workers and checks that all processes have built the same.

    Args:
        comm: connects all workers.
        build: makes the hosted workers.
        options: everything else that must be the same on every process, as text.

    Returns:
        What was built.

    Raises:
        UserError: on every process, if `build` failed on one, or models or options differ.
    """
    built: Built | None = None
    failure: UserError | None = None
    row = [0.0, 0.0, 0.0, _number(options)]
    try:
        built = build()
        replicas = built.replicas
        form, packed = form_of(replicas)
        row = [1.0, _number(form), _number(packed), row[3]]
    except UserError as error:
        failure = error
    rows = comm.gather(torch.tensor([row] * comm.num_hosted, dtype=torch.float64))()
    if failure is not None:
        raise failure
    for column, what in enumerate(_DIFFERENCES):
        wanted = 1.0 if column == 0 else float(rows[0, column])
        different = torch.where(rows[:, column] != wanted)[0]
        if len(different):
            raise UserError(
                f"worker {int(different[0])} {what}; every process must make the same model "
                "(names, shapes, dtypes), optimizer, strategy and options before the Averager"
            )
    assert built is not None
    return built


_DIFFERENCES = (
    "could not be set up; its own error message says why",
    "has a different model from worker 0, or its optimizer holds different parameters",
    "has different values from worker 0 in frozen parameters or buffers of a packed or sparse "
    "format, which can't be sent",
    "has different options from worker 0",
)


def form_of(replicas: Replicas) -> tuple[str, str]:
    """Digests of the model's form, and of what can't be sent; the same on all workers."""
    return fingerprint(replicas.models[0], replicas.names), _packed(replicas)


def _packed(replicas: Replicas) -> str:
    """A digest of frozen parameters and buffers that can't be sent as plain numbers."""
    model = replicas.models[0]
    named: dict[str, Tensor] = dict(model.named_parameters())
    packed = {n: p for n, p in named.items() if not is_strided(p) or p.itemsize == 1}
    kept = set(model.state_dict())
    packed.update((n, b) for n, b in model.named_buffers() if n in kept and not is_strided(b))
    return " ".join(f"{n} {_digest(tensor)}" for n, tensor in packed.items())


def start_equal(replicas: Replicas, comm: Transport) -> Overwritten:
    """Copies worker 0's parameters, frozen ones too, and buffers to all workers; collective.

    Tensors that are equal on all workers already, after the same seed or checkpoint, are not sent.

    Returns:
        What the hosted workers had in their place.
    """
    overwritten = Overwritten(replicas)
    if comm.num_workers == 1:
        return overwritten
    stacks = replicas.params, replicas.frozen(), replicas.buffers.rows()
    digests = [[_digest(row) for row in rows] for stack in stacks for rows in stack.values()]
    numbers = torch.tensor([[_number(d) for d in of] for of in digests], dtype=torch.float64)
    everyone = comm.gather(numbers.T.contiguous())() if digests else numbers.T
    different = (everyone != everyone[:1]).any(dim=0).tolist()
    names = iter(different)
    unequal = [{n: rows for n, rows in stack.items() if next(names)} for stack in stacks]
    if comm.process or comm.num_hosted > 1:  # worker 0 itself does not change
        overwritten.keep(unequal)
    for stack in unequal:
        _send_first(stack, comm)
    overwritten.replaced()
    replicas.buffers.remember()
    return overwritten


def _send_first(stack: Mapping[str, Tensor], comm: Transport) -> None:
    """Copies worker 0's row of a stack to all workers."""
    for name, value in rows_of(stack, comm, worker=0).items():
        stack[name].copy_(value)


def rows_of(stack: Mapping[str, Tensor], comm: Transport, worker: int) -> dict[str, Tensor]:
    """One worker's row of a stack, bit for bit; collective.

    Args:
        stack: name -> (K, *shape).
        comm: connects all workers.
        worker: whose.

    Returns:
        name -> (*shape).
    """
    floats = Rows((n, rows) for n, rows in stack.items() if has_means(rows))
    found: dict[str, Tensor] = {}
    if floats:
        chosen = torch.zeros(comm.num_workers, 1, dtype=torch.float64, device="cpu")
        chosen[worker] = 1.0
        found.update(comm.weighted_mean(floats, chosen))
    for name, rows in stack.items():
        if name not in floats:
            everyone = comm.gather(rows.reshape(len(rows), -1))()
            found[name] = everyone[worker].view(rows.shape[1:])
    return found


def _digest(tensor: Tensor) -> str:
    """A digest of a tensor's bits, the same on every machine."""
    if not is_strided(tensor):
        return hashlib.sha256(repr(_parts_of(tensor)).encode()).hexdigest()
    plain = tensor.detach().cpu().contiguous()
    if not plain.numel():
        return "empty"
    memory = (ctypes.c_char * plain.nbytes).from_address(plain.data_ptr())
    return hashlib.sha256(memory).hexdigest()


def _parts_of(tensor: Tensor) -> Sequence[str]:
    """The digests of the plain tensors that a sparse tensor or a tensor subclass is made of."""
    if tensor.layout == torch.sparse_coo:
        whole = tensor.detach().coalesce()
        return [_digest(whole.indices()), _digest(whole.values())]
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        parts = tensor.crow_indices(), tensor.col_indices(), tensor.values()
        return [_digest(part.detach()) for part in parts]
    if tensor.is_quantized:
        return [_digest(tensor.int_repr()), str(tensor.qscheme())]
    names, _ = tensor.__tensor_flatten__() if hasattr(tensor, "__tensor_flatten__") else ([], None)
    return [f"{name} {_digest(getattr(tensor, name))}" for name in names]


def _number(text: str) -> float:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return float(int(digest[:_DIGITS], 16))
