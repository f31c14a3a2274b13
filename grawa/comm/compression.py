"""What a mean in fewer bits keeps from round to round."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grawa.comm.plan import Run
from grawa.errors import UserError
from grawa.math.codec import Precision, codec_of
from grawa.math.leaves import Leaves, Stack


class Seat(NamedTuple):
    """Which part of which mean a process has; what rounding lost belongs to it."""

    num_workers: int
    num_hosted: int
    process: int


class Compression:
    """Sends means as differences from the last one, in fewer bits.

    The last mean is the reference, the same bits on every process. Each worker sends its
    difference from it, the owner of a section takes the weighted mean of what it reads, and sends
    it in as few bits to all, who add it to the reference: that is the mean, and the next
    reference. With "int8" each piece of a leaf, of 65,536 numbers at most, has a scale, and what
    rounding loses is added to the next difference, of a worker as well as of an owner; so is what
    `TopK` does not send.

    Where most numbers are not sent, what is lost is not small. A worker that moves only a part of
    the way to the mean still has the rest of what was not sent in its own parameters, and its next
    difference has it again. So only the part that it moves, `pull`, is kept.

    It is made for one mean a round, of the same rows; others travel as they are. It keeps the
    reference, one copy of the parameters in float32 or wider, and with "int8" or `TopK` what was
    lost, one more in float32.

    Args:
        precision: in what differences travel.
        reference: what all processes know already, such as the common initial parameters, copied;
            without it the first mean travels as it is.
        pull: how far workers move to the mean in a round.

    Attributes:
        most_bytes: what the worker that sends most has sent for the last mean.

    Source: Seide et al. (2014), "1-Bit Stochastic Gradient Descent", and Karimireddy et al.
    (2019), "Error Feedback Fixes SignSGD", for the feedback; the part of it that is kept is ours.
    """

    def __init__(
        self, precision: Precision, reference: Leaves | None = None, pull: float = 1.0
    ) -> None:
        self.precision = precision
        self.codec = codec_of(precision)
        self._pull = pull if self.codec.is_sparse else 1.0
        self.most_bytes = 0
        self.reference: Leaves | None = None
        if reference is not None:
            self.start(reference)
        self._saved: dict[str, Tensor] = {}
        self._seat: Seat | None = None
        self._lost: dict[int, list[Tensor]] = {}
        self._lost_by_owner: dict[int, list[Tensor]] = {}
        self._teams: dict[int, dict[int, Compression]] = {}

    def start(self, mean: Leaves) -> None:
        """Takes a mean that travelled as it is for the reference."""
        self.reference = mean.wide_like()
        torch._foreach_copy_(self.reference.flats, mean.flats)

    def knows(self, rows: Stack) -> bool:
        """Whether there is a reference for rows of this form."""
        if self._saved and _fits(rows, self._saved):
            self.reference = Leaves.like(rows).wide_like()
            known = [self._saved[name] for name in rows]
            torch._foreach_copy_(list(self.reference.values()), known)
            self._saved = {}
        return self.reference is not None and _fits(rows, self.reference)

    def sit(self, seat: Seat) -> None:
        """Says for which part of a mean it is used; what another part has lost is forgotten."""
        if seat != self._seat:
            self._lost, self._lost_by_owner, self._seat = {}, {}, seat

    def lost_by_worker(self, k: int, reference: Leaves) -> list[Tensor]:
        """What rounding has lost of a hosted worker's row, as one tensor for each flat one."""
        if k not in self._lost:
            self._lost[k] = [torch.zeros_like(x, dtype=torch.float32) for x in reference.flats]
        self._lost[k] = _like(self._lost[k], reference.flats)
        return self._lost[k]

    def lost_by_owner(self, k: int, forms: list[Tensor]) -> list[Tensor]:
        """What rounding has lost of a hosted worker's section of means, in tensors like these."""
        if k not in self._lost_by_owner:
            self._lost_by_owner[k] = [torch.zeros_like(x, dtype=torch.float32) for x in forms]
        self._lost_by_owner[k] = _like(self._lost_by_owner[k], forms)
        return self._lost_by_owner[k]

    def keep(self, lost: Sequence[Tensor], rest: Sequence[Tensor]) -> None:
        """Keeps what has not been sent of some values and of what was lost before.

        Args:
            lost: what was lost before, overwritten.
            rest: what has not been sent.
        """
        if self._pull < 1.0:
            torch._foreach_lerp_(list(lost), list(rest), self._pull)
        else:
            torch._foreach_copy_(list(lost), list(rest))

    def team(self, size: int, first: int) -> "Compression":
        """The compression of a team's means, which has a reference of its own.

        Args:
            size: workers in the team.
            first: the first of them.

        Returns:
            The same object each time.
        """
        teams = self._teams.setdefault(size, {})
        return teams.setdefault(first, Compression(self.precision, pull=self._pull))

    def section(self, runs: Sequence[Run], form: Leaves) -> "Compression":
        """The compression of a section's means, if hosts exchange sections.

        Args:
            runs: where the section lies in the flat tensors of the whole.
            form: leaves of the form of the section.

        Returns:
            The same object each time. The first call moves the reference of this section into it,
            and drops that of the other sections.
        """
        own = self.team(0, runs[0].start)  # no team has that size
        if self.reference is not None:
            flats = [run.of(self.reference.flats) for run in runs]
            own.start(Leaves(flats, form.places))
            self.reference = None
        return own

    def of_rows(self, rows: Stack) -> "Compression | None":
        """The compression of what is made of these rows by other functions than a mean.

        It has a reference of its own, since a mean of the same rows may be taken as well.

        Returns:
            The same object each time. The first call moves the reference into it, if there is one
            for these rows: a method that takes no mean needs it once. `None` where most numbers are
            not sent, of which other functions would make nothing: a median of zeros is zero.
        """
        if self.codec.is_sparse:
            return None
        own = self.team(-1, 0)  # no team has that size
        if own.reference is None and not own._saved and self.knows(rows):
            own.reference, self.reference = self.reference, None
        return own

    def state_dict(self) -> dict[str, Any]:
        """What this process must save so that training resumes bit for bit, copied."""
        known: Stack = self._saved if self.reference is None else self.reference
        return {
            "precision": str(self.precision),
            "seat": None if self._seat is None else tuple(self._seat),
            "reference": {name: leaf.clone() for name, leaf in known.items()},
            "lost": _copies(self._lost),
            "lost_by_owner": _copies(self._lost_by_owner),
            "teams": {
                size: {first: team.state_dict() for first, team in teams.items()}
                for size, teams in self._teams.items()
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what `state_dict` gave.

        If it was saved at another precision, or by another process or number of workers, what
        rounding lost starts from zero; the reference is kept.
        """
        self.reference = None
        self._saved = {name: leaf.clone() for name, leaf in state["reference"].items()}
        same = state["precision"] == str(self.precision) and state["seat"] is not None
        self._seat = Seat(*state["seat"]) if same else None
        self._lost = _copies(state["lost"]) if same else {}
        self._lost_by_owner = _copies(state["lost_by_owner"]) if same else {}
        self._teams = {}
        for size, teams in state["teams"].items():
            for first, saved in teams.items():
                self.team(size, first).load_state_dict(saved)


def _like(lost: Sequence[Tensor], forms: Sequence[Tensor]) -> list[Tensor]:
    """What was lost, where these tensors are; a `UserError` if it was saved for others."""
    if [x.shape for x in lost] != [x.shape for x in forms]:
        raise UserError(
            "what rounding had lost when the state was saved does not fit the model: it is damaged"
        )
    return [own.to(form.device) for own, form in zip(lost, forms, strict=True)]


def _copies(lost: dict[int, list[Tensor]]) -> dict[int, list[Tensor]]:
    return {k: [own.clone() for own in owns] for k, owns in lost.items()}


def _fits(rows: Stack, leaves: Stack) -> bool:
    return rows.keys() == leaves.keys() and all(
        row.shape[1:] == leaves[name].shape for name, row in rows.items()
    )
