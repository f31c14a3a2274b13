"""How many local steps, and samples, the hosted workers have made."""

from typing import Any

import torch
from torch import Tensor


class Counts:
    """Local steps in all, and local steps and samples since the last round of each fragment.

    Args:
        num_hosted: K.
        num_fragments: P.
        with_samples: whether samples are counted.

    Attributes:
        steps: local steps of each hosted worker in all.
    """

    def __init__(self, num_hosted: int, num_fragments: int, *, with_samples: bool) -> None:
        self.steps = [0] * num_hosted
        kinds = 1 + with_samples
        self._new = torch.zeros(kinds, num_fragments, num_hosted, dtype=torch.float64, device="cpu")

    @property
    def with_samples(self) -> bool:
        """Whether samples are counted."""
        return len(self._new) > 1

    def add_step(self, workers: slice) -> None:
        """Counts a local step of these hosted workers."""
        self._new[0, :, workers] += 1
        self.steps[workers] = [step + 1 for step in self.steps[workers]]

    def add_samples(self, samples: Tensor, workers: slice) -> None:
        """Counts samples of these hosted workers, one number each, if samples are counted."""
        self._new[1:, :, workers] += samples

    def subtract_steps(self, skipped: Tensor) -> None:
        """Subtracts steps that turned out to have been skipped: (K,), how many each."""
        self._new[0] -= skipped
        self.steps = [made - int(s) for made, s in zip(self.steps, skipped, strict=True)]

    def new_steps(self, fragment: int) -> Tensor:
        """Local steps since the fragment's last round, (K,)."""
        return self._new[0, fragment]

    def new_samples(self, fragment: int) -> Tensor:
        """Samples since the fragment's last round, (K,); zero if they are not counted."""
        return self._new[1:, fragment].sum(dim=0)

    def restart(self, fragment: int) -> Tensor:
        """Called after each round of a fragment.

        Returns:
            What was made since the one before, for `take_back`.
        """
        made = self._new[:, fragment].clone()
        self._new[:, fragment] = 0
        return made

    def take_back(self, fragment: int, made: Tensor) -> None:
        """Counts again what `restart` returned, since its round came to nothing."""
        self._new[:, fragment] += made

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        new = dict(zip(("new_steps", "new_samples"), self._new.unbind(), strict=False))
        return {**{name: rows.clone() for name, rows in new.items()}, "steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, rows in zip(("new_steps", "new_samples"), self._new.unbind(), strict=False):
            rows.copy_(state[name])
        self.steps = list(state["steps"])
