"""The seams of the library: who talks, how workers are averaged, what they report."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from grawa.stack import Leaves, Stack

State = dict[str, Leaves]
"""What a strategy carries from round to round, the same on every process: "center" and the like."""


class Team(NamedTuple):
    """Some of all workers, with a communicator of their own."""

    workers: slice
    """Which of the N workers."""
    hosted: slice
    """Which of the K hosted workers."""
    comm: "Communicator"


class Communicator(Protocol):
    """All traffic between N workers, K of which are hosted by this process.

    Every method is collective: each process calls it, in the same order. A call that can't be
    finished within the communicator's timeout raises `CommunicationError`.
    """

    @property
    def num_workers(self) -> int:
        """N."""
        ...

    @property
    def num_hosted(self) -> int:
        """K."""
        ...

    @property
    def num_processes(self) -> int:
        """P = N / K."""
        ...

    @property
    def process(self) -> int:
        """Which of them this is; it hosts workers K process to K process + K - 1."""
        ...

    @property
    def bytes_sent(self) -> int:
        """Bytes of payload that have been sent, per hosted worker."""
        ...

    def allocate(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Makes a flat tensor for what is to be averaged, where that is fastest; uninitialised.

        Args:
            size: in elements; each process asks for as many, in the same order.
            dtype: of the elements.
            device: where it is to be.

        Returns:
            (size,).
        """
        ...

    def gather(self, rows: Tensor) -> Callable[[], Tensor]:
        """Starts to bring every worker's row to every process.

        Args:
            rows: (K, C).

        Returns:
            A function that waits for the rows and returns them: (N, C), float64, on the CPU.
        """
        ...

    def hosted(self, rows: Tensor) -> Tensor:
        """The hosted workers' part of what was gathered: (N, C) -> (K, C)."""
        ...

    def weighted_mean(self, rows: Stack, weights: Tensor, out: Leaves | None = None) -> Leaves:
        """Sum over all N workers of weight times row, divided by the sum of the weights.

        A row with weight zero contributes exactly nothing, also when it holds NaN; equal rows
        give that row bit for bit; every process ends with the same bits.

        Args:
            rows: name -> (K, *shape).
            weights: (N, L) for L leaves or (N, 1) for all of them, float64, on the CPU, the same
                on every process; not negative, each column with a positive sum.
            out: where to put the mean, overwritten; may not share memory with `rows`.

        Returns:
            `out`, or new leaves.
        """
        ...

    def exchange(
        self, outgoing: Sequence[Tensor], incoming: Sequence[Tensor], sent: int, most: int
    ) -> None:
        """Sends a buffer to each process, and receives one from each.

        Args:
            outgoing: P buffers, uint8, contiguous; the own one stays.
            incoming: P buffers of the sizes that the others send; the own one is left alone.
            sent: bytes to count for it, of all hosted workers together.
            most: bytes that the busiest of all workers sends, which decide how long it takes.
        """
        ...

    def count(self, steps: int) -> int:
        """Adds to a count that all processes share. Not collective: nobody waits.

        Args:
            steps: how many local steps to add.

        Returns:
            The count, with everything that was added until now.
        """
        ...

    def split(self, size: int) -> Sequence[Team]:
        """The teams of `size` consecutive workers in which this process hosts workers.

        The communicators are made by the first call for a size, which is collective, and kept.

        Raises:
            UserError: if the workers can't be split so.
        """
        ...


class Tracker(Protocol):
    """What the hosted workers' scores are made of, gathered while they train. No device sync."""

    def note_gradients(self, norms: Tensor) -> None:
        """Takes the L2 norms of a local step's gradients, (K, L); NaN for who made none."""
        ...

    def note_losses(self, losses: Tensor) -> None:
        """Takes the losses of a local step, (K,); NaN for who made none, infinite if not finite."""
        ...

    def read(self, anew: bool = True) -> Tensor:
        """The scores for the round that is due.

        Args:
            anew: whether local steps were made since the last one; if not, what takes a pass of its
                own to find out may stay as it was.

        Returns:
            (K, G).
        """
        ...

    def restart(self) -> None:
        """Called after each round."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave."""
        ...


class Score(Protocol):
    """What a worker reports about itself before a round; smaller is better."""

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm, whose inverse is a weight: near zero it draws all of it."""
        ...

    @property
    def needs_gradients(self) -> bool:
        """Whether gradient norms must be noted at every local step."""
        ...

    @property
    def needs_losses(self) -> bool:
        """Whether losses must be noted at every local step."""
        ...

    def tracker(self, groups: Sequence[int], num_hosted: int) -> Tracker:
        """A tracker for hosted workers whose L leaves belong to these groups."""
        ...


class Round(NamedTuple):
    """What a round did."""

    state: State
    weights: Tensor | None
    """(N, G), columns sum to 1; `None` where the workers count equally."""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):
    """How workers are pulled together. A value: what changes is passed in and returned."""

    @property
    def score(self) -> Score | None:
        """What the workers must report before a round, if anything."""
        return None

    def groups(self, names: Sequence[str]) -> tuple[int, ...]:
        """The group of each leaf; leaves of a group share one score and one weight."""
        return (0,) * len(names)

    def shares_gradients(self, step: int) -> bool:
        """Whether local step `step` (from 0) uses the mean of all workers' gradients."""
        return False

    def init(self, params: Stack, comm: Communicator) -> State:
        """The state before the first round; all workers have the same parameters."""
        return {}

    @abstractmethod
    def sync(self, params: Stack, scores: Tensor | None, state: State, comm: Communicator) -> Round:
        """One round: moves the hosted workers' parameters in place.

        Args:
            params: name -> (K, *shape).
            scores: (N, G), positive or zero, float64, on the CPU; infinite for a worker that is
                left out; `None` if the strategy has no score.
            state: what the last round returned; it may be updated in place.
            comm: the other workers. A worker that is left out has weight zero in its means,
                whatever weight it is given.
        """

    def drift(self, params: Stack, state: State, share: float) -> None:  # ruff: ignore[empty-method-without-abstract-decorator] - a hook
        """Moves the parameters in place after a local step that makes up `share` of a round."""

    @abstractmethod
    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The one model to evaluate, save and serve."""
