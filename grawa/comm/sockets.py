"""The carrier of processes that send each other messages: over sockets, or by NCCL."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from grawa.comm.group import Group
from grawa.comm.plan import Run

_ALIGNMENT = 16  # bytes; of the widest element that is averaged, and more


class Sockets:
    """Sends each run as one message, and receives rows into a buffer that is used again.

    What leaves is staged in the result's own memory, where the sections of others are not yet in
    use; so a mean takes the memory of its result, and of the sections that arrive.

    Where the group can't send from the device of the parameters, messages go by way of the CPU's
    memory, pinned beside a GPU.

    Args:
        group: the processes.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._wire = group.device
        self._buffer = torch.empty(0, dtype=torch.uint8, device=self._wire)

    most_bytes = None
    """Every chunk would cost the link's latency twice."""

    @property
    def name(self) -> str:
        """The backend that sends."""
        return self._group.backend

    @property
    def num_processes(self) -> int:
        """P."""
        return len(self._group.members)

    @property
    def process(self) -> int:
        """Which of them this is."""
        return self._group.process

    def gather(self, own: Tensor) -> Callable[[], Tensor]:
        """See `Carrier.gather`."""
        own = own.to(self._wire, non_blocking=True)  # so small that it is copied at once
        everyone = own.new_empty(self.num_processes, len(own))
        everyone[self.process] = own
        messages = self._group.messages("gather rows")
        for peer in self._group.peers():
            messages.send(own, peer)
            messages.receive(everyone[peer], peer)
        messages.start()

        def wait() -> Tensor:
            messages.wait()
            return everyone

        return wait

    def staging(self, spare: Sequence[Tensor]) -> list[Tensor]:
        """See `Carrier.staging`."""
        return list(spare)

    def rows(
        self,
        staged: Sequence[Tensor],
        leaving: Sequence[Sequence[Run]],
        arriving: Sequence[Sequence[Run]],
    ) -> list[list[Tensor]]:
        """See `Carrier.rows`."""
        me = self.process
        messages = self._group.messages("average parameters")
        arrived = self._places(staged, arriving)
        peers = self._group.peers()
        sent = iter(self._on_wire([run.of(staged) for peer in peers for run in leaving[peer]]))
        for peer in peers:
            for _ in leaving[peer]:
                messages.send(next(sent), peer)
            for place in arrived[peer]:
                messages.receive(place, peer)
        messages.run()
        arrived[me] = [run.of(staged) for run in arriving[me]]
        return arrived

    def _places(
        self, staged: Sequence[Tensor], arriving: Sequence[Sequence[Run]]
    ) -> list[list[Tensor]]:
        """Where the others' runs wait, in the buffer."""
        sizes = [
            [(run.stop - run.start) * staged[run.flat].element_size() for run in runs]
            if peer != self.process
            else []
            for peer, runs in enumerate(arriving)
        ]
        room = sum(_aligned(size) for own in sizes for size in own)
        if room > self._buffer.numel():
            self._buffer = self._place(staged[0], room, torch.uint8)
        found: list[list[Tensor]] = []
        at = 0
        for runs, own in zip(arriving, sizes, strict=True):
            found.append([])
            for run, size in zip(runs, own, strict=False):
                place = self._buffer[at : at + size].view(staged[run.flat].dtype)
                found[-1].append(place)
                at += _aligned(size)
        return found

    def sections(
        self, flats: Sequence[Tensor], runs: Sequence[Sequence[Run]], receivers: Sequence[int]
    ) -> None:
        """See `Carrier.sections`."""
        messages = self._group.messages("share the average")
        received: list[tuple[Tensor, Tensor]] = []
        sent = self._on_wire([run.of(flats) for run in runs[self.process]])
        for peer in self._group.peers():
            if peer in receivers:
                for values in sent:
                    messages.send(values, peer)
            if self.process in receivers:
                for run in runs[peer]:
                    place = run.of(flats)
                    arriving = place
                    if place.device != self._wire:
                        arriving = self._place(place, place.numel(), place.dtype)
                    messages.receive(arriving, peer)
                    received.append((place, arriving))
        messages.run()
        for place, arriving in received:
            if arriving is not place:
                place.copy_(arriving, non_blocking=True)

    def _place(self, like: Tensor, length: int, dtype: torch.dtype) -> Tensor:
        """A flat tensor to send from or to receive in; pinned if it is beside a GPU's tensor."""
        pinned = like.is_cuda and self._wire.type == "cpu"
        return torch.empty(length, dtype=dtype, device=self._wire, pin_memory=pinned)

    def _on_wire(self, values: list[Tensor]) -> list[Tensor]:
        """What is to be sent, where the group can send it; the host waits for the device once."""
        if all(tensor.device == self._wire for tensor in values):
            return values
        found = [self._place(tensor, tensor.numel(), tensor.dtype) for tensor in values]
        for copy, tensor in zip(found, values, strict=True):
            copy.copy_(tensor, non_blocking=True)
        torch.accelerator.current_stream(values[0].device).synchronize()
        return found

    def wait_for_all(self) -> None:
        """See `Carrier.wait_for_all`; what was sent has been copied already."""

    def close(self) -> None:
        """See `Carrier.close`; the end of the group's sockets tells them."""


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
