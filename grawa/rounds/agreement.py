"""Calls that every process must make together, and that all refuse if one of them can't go on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.rounds.meetings import Meetings
from grawa.rounds.purposes import Purpose

_LONGEST = 4096
"""Bytes of UTF-8 that a process may tell the others at once."""

_REFUSED, _GRANTED = "-", "+"
"""First characters of what a process tells the others."""


class Agreement:
    """Lets processes tell each other a line of text, and fail together.

    Args:
        meetings: brings all processes to the same call.
        comm: connects all workers.
        worker: connects the processes that the one hosted worker consists of, if they are several.
        alone: whether each process decides for itself, since workers come and go.
    """

    def __init__(
        self, meetings: Meetings, comm: Transport, worker: Transport | None, *, alone: bool
    ) -> None:
        self._meetings, self._comm, self._worker = meetings, comm, worker
        self._alone = alone

    @property
    def is_alone(self) -> bool:
        """Whether no other process must agree."""
        return self._alone or self.num_processes == 1

    @property
    def parts(self) -> int:
        """Of how many processes a worker consists."""
        return 1 if self._worker is None else self._worker.num_processes

    @property
    def part(self) -> int:
        """Which of them this is."""
        return 0 if self._worker is None else self._worker.process

    @property
    def first_worker(self) -> int:
        """The first worker of this process."""
        return self._comm.process * self._comm.num_hosted

    @property
    def num_processes(self) -> int:
        """How many there are, of all workers."""
        return self._comm.num_processes * self.parts

    @property
    def process(self) -> int:
        """Which of them this is, in the order of their workers."""
        return self._comm.process * self.parts + self.part

    def come(self, purpose: Purpose) -> None:
        """Waits until all processes have come for the same; joins their rounds until then.

        `UserError` on all of them if they came for different things.
        """
        if not self._alone:
            self._meetings.meet(purpose)

    def settle(self, failure: UserError | None, line: str = "") -> list[str]:
        """Exchanges a line of text; or an error, which all processes then raise.

        Args:
            failure: why this process can't go on; `None` if it can.
            line: for the others, of at most 4,095 bytes.

        Returns:
            The lines of all processes, in the order of their workers.

        Raises:
            UserError: the first process's error, on every process.
        """
        text = _GRANTED + line if failure is None else _REFUSED + str(failure)
        everyone = [_text(row) for row in self._gathered(_row(text))]
        refused = next((text[1:] for text in everyone if text.startswith(_REFUSED)), None)
        if refused is not None:
            raise UserError(refused) from failure
        return [text[1:] for text in everyone]

    def _gathered(self, row: Tensor) -> Sequence[Tensor]:
        """The row, (1, C), of each process that must agree."""
        if self._alone:
            return list(row)
        if self._worker is not None:
            row = self._worker.gather(row)().reshape(1, -1)
        hosted = self._comm.num_hosted
        everyone = self._comm.gather(row.expand(hosted, -1).contiguous())()[::hosted]
        return list(everyone.reshape(-1, _LONGEST))


def _row(text: str) -> Tensor:
    """A text as a row of bytes, (1, _LONGEST), that ends in zeros."""
    data = text.encode(errors="backslashreplace")[:_LONGEST]
    row = torch.zeros(1, _LONGEST, dtype=torch.uint8, device="cpu")
    row[0, : len(data)] = torch.tensor(list(data), dtype=torch.uint8, device="cpu")
    return row


def _text(row: Tensor) -> str:
    return bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore")
