"""A strategy's state in the CPU's memory, while no round needs it."""

from collections.abc import Mapping

import torch
from torch import Tensor

from grawa.math.leaves import Leaves
from grawa.strategies.protocol import State


def is_elsewhere(device: torch.device) -> bool:
    """Whether tensors on this device take other memory than the CPU's."""
    return device.type != "cpu"


class Stowed:
    """Keeps a state on the CPU between rounds.

    It is brought to the device for a round, and goes back beside the local steps after it, so that
    its memory is free for them.

    Args:
        state: on the device; what is on the CPU already stays there.
    """

    def __init__(self, state: State) -> None:
        self._devices = {key: [x.device for x in leaves.flats] for key, leaves in state.items()}
        gpus = [d for own in self._devices.values() for d in own if d.type == "cuda"]
        self._device = gpus[0] if gpus else None
        self._side = torch.cuda.Stream(self._device) if gpus else None
        self._kept = {
            key: Leaves([_like(flat) for flat in leaves.flats], leaves.places)
            for key, leaves in state.items()
        }
        self.put(state)

    def fetch(self, *keys: str) -> State:
        """The state where it was: copies, for as long as somebody refers to them.

        Args:
            keys: of the entries that are needed; all by default.

        Returns:
            These entries.
        """
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        return {
            key: Leaves(
                list(map(_copied_to, self._kept[key].flats, self._devices[key])),
                self._kept[key].places,
            )
            for key in keys or self._kept
        }

    def put(self, state: State) -> None:
        """Copies a state to the CPU; on a GPU, behind what comes next."""
        if self._side is None:
            self._copy(state)
            return
        self._side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._side):
            self._copy(state)
        for leaves in state.values():
            for flat in filter(lambda flat: flat.is_cuda, leaves.flats):
                flat.record_stream(self._side)

    def _copy(self, state: State) -> None:
        for key, leaves in state.items():
            for kept, flat in zip(self._kept[key].flats, leaves.flats, strict=True):
                kept.copy_(flat, non_blocking=True)

    def kept(self) -> Mapping[str, Leaves]:
        """The state on the CPU itself."""
        if self._side is not None:
            self._side.synchronize()
        return self._kept


def _copied_to(flat: Tensor, device: torch.device) -> Tensor:
    return torch.empty_like(flat, device=device).copy_(flat, non_blocking=True)


def _like(flat: Tensor) -> Tensor:
    """A tensor on the CPU; pinned beside a GPU's, so that copies need not wait."""
    return torch.empty_like(flat, device="cpu", pin_memory=flat.is_cuda)
