"""torchft's `LocalSGD`, where each process is a replica group of its own."""

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
    """Has this process take part; all of the default process group must.

    Args:
        model: to be averaged.
        optimizer: of the model.
        sync_every: local steps between rounds.
        host: this process's address.
        first_host: that of rank 0, which runs the lighthouse.
        timeout: of everything.

    Returns:
        The `LocalSGD`, and what ends it, to be called by all.
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
        assert store.port, "the store has to live as long as its manager"

    return LocalSGD(manager, model, optimizer, sync_every=sync_every), close
