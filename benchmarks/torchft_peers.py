"""torchft's `LocalSGD`, with each process as its own replica group."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer


def torchft_local_sgd(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    sync_every: int,
    host: str,
    first_host: str,
    timeout: timedelta,
) -> tuple[Any, Callable[[], None]]:
    """Makes a `LocalSGD` for this process; all processes of the default group must call it.

    Args:
        model: the model to average.
        optimizer: its optimizer.
        sync_every: local steps between rounds.
        host: this process's address.
        first_host: the address of rank 0, which runs the lighthouse.
        timeout: of all messages.

    Returns:
        The `LocalSGD`, and a function that closes it, which all must call.
    """
    from torchft import Manager, ProcessGroupGloo
    from torchft.coordination import LighthouseServer
    from torchft.local_sgd import LocalSGD

    size, rank = dist.get_world_size(), dist.get_rank()
    lighthouse = LighthouseServer("[::]:0", size, join_timeout_ms=10_000) if rank == 0 else None
    port = [lighthouse.address().rpartition(":")[2] if lighthouse else ""]
    dist.broadcast_object_list(port)
    store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    manager = Manager(
        pg=ProcessGroupGloo(timeout=timeout),
        load_state_dict=model.load_state_dict,
        state_dict=model.state_dict,
        min_replica_size=size,
        timeout=timeout,
        rank=0,
        world_size=1,
        store_addr=host,
        store_port=store.port,
        lighthouse_addr=f"http://{first_host}:{port[0]}",
        replica_id=str(rank),
        hostname=host,
        init_sync=False,
    )

    def close() -> None:
        manager.shutdown(wait=False)
        dist.barrier()
        if lighthouse is not None:
            lighthouse.shutdown()
        assert store.port, "the store must live as long as its manager"

    return LocalSGD(manager, model, optimizer, sync_every=sync_every), close
