"""Who takes part in a meeting, who must be given the state, and what became of an open vote."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Member:
    """What a worker says of itself when it comes to a meeting.

    Attributes:
        worker: its number.
        incarnation: of its process, unlike that of any other.
        store: where its store is, "host:port".
        form: a digest of what must be the same on all workers.
        job: that it belongs to; "" before it has the state of any.
        meeting: how many meetings it has completed.
        last: the name of the last one.
        held: the name of a meeting whose result it has, but not yet the word of all others that
            they have it too; "" if there is none.
        party: the incarnations of those who were in that meeting.
        open: the name of the connections that it has open; "" if there are none.
        lags: whether it knows that others are further.
        waits: whether it can be given the state now, since it makes no local steps meanwhile.
        ending: whether it has made its last step.
        expects: the workers that it has met lately, and for which it waits with the end.
        impatient: whether it would start a new job without the workers that are missing.
        status: what one that is given the state must know, as plain numbers.
    """

    worker: int
    incarnation: str
    store: str
    form: str = ""
    job: str = ""
    meeting: int = 0
    last: str = ""
    held: str = ""
    party: Sequence[str] = ()
    open: str = ""
    lags: bool = False
    waits: bool = True
    ending: bool = False
    expects: Sequence[int] = ()
    impatient: bool = False
    status: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which the member can be made again."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What all who have come to a meeting do; the same for each of them.

    Attributes:
        name: of the meeting.
        job: in which it is.
        meeting: how many meetings the leading workers have completed.
        last: the name of the last one.
        leading: those who have the state of the job.
        joining: those who are given it before anything else.
        replaced: incarnations of workers whose place another process has taken.
        decided: the name of an earlier meeting whose result counts. Those who hold it apply it,
            and so have had their meeting; the others come again.
    """

    name: str
    job: str
    meeting: int = 0
    last: str = ""
    leading: tuple[Member, ...] = ()
    joining: tuple[Member, ...] = ()
    replaced: tuple[str, ...] = ()
    decided: str = ""

    @property
    def present(self) -> list[Member]:
        """Those who are connected, by number."""
        return sorted((*self.leading, *self.joining), key=lambda member: member.worker)

    @property
    def source(self) -> Member:
        """Who gives the state to those who join."""
        return self.leading[0]

    def is_enough(self, min_workers: int) -> bool:
        """Whether there are enough workers; at the end, whether nobody is waited for."""
        if self.decided:
            return True
        if self.leading and all(member.ending for member in self.present):
            there = {member.worker for member in self.present}
            return not any(set(member.expects) - there for member in self.present)
        return len(self.present) >= min_workers


def decide(name: str, come: Iterable[Member], num_workers: int, min_workers: int) -> Decision:
    """What those do who have come to a meeting.

    A meeting has two phases: all compute its result, without applying it; then each tells all
    that it has it, and applies it when all have said so. If somebody is lost in between, the
    others decide at the next meeting: the result counts if somebody has applied it, or if all
    who were in that meeting and are here now hold it. Otherwise nobody can have applied it, since
    one of them never said that it had it, and all forget it. So it is applied by all or by none.

    The state of the job is with those who have completed most of its meetings. A process that has
    never had it can't be among them, unless nobody who has come has it and all N are here; nor can
    one that knows that others are further. If all who are further are silent at once, those who are
    left go on from the latest state that is left.

    Args:
        name: of the meeting.
        come: those who have come.
        num_workers: N.
        min_workers: with how many an impatient worker starts a job.

    Returns:
        The same for the same arguments, in whatever order members come.
    """
    members, replaced = _one_each(come)
    jobs = [member for member in members if member.job]
    if not jobs:
        return replace(_start(name, members, num_workers, min_workers), replaced=replaced)
    able = [member for member in jobs if not member.lags]
    if not able:
        return Decision(name=name, job="", replaced=replaced)
    newest = max(able, key=lambda member: (member.meeting, member.job))
    ours = [member for member in able if member.job == newest.job]
    ahead = [member for member in ours if member.meeting == newest.meeting]
    last = Counter(member.last for member in ahead).most_common(1)[0][0]
    leading = tuple(member for member in ahead if member.last == last)
    return Decision(
        name=name,
        job=newest.job,
        meeting=newest.meeting,
        last=last,
        leading=leading,
        joining=tuple(
            m for m in members if m not in leading and m.waits and m.form == leading[0].form
        ),
        replaced=replaced,
        decided=_decided(members, ours, newest.meeting, last),
    )


def _decided(members: Sequence[Member], ours: Sequence[Member], meeting: int, last: str) -> str:
    """The name of an earlier meeting whose result counts and that somebody still holds."""
    if any(member.held == last and member.meeting == meeting - 1 for member in ours):
        return last
    held = {m.held: m.party for m in ours if m.held and m.meeting == meeting}
    for name in sorted(held, reverse=True):
        if all(m.held == name for m in members if m.incarnation in held[name]):
            return name
    return ""


def _start(name: str, members: Sequence[Member], num_workers: int, min_workers: int) -> Decision:
    """A new job, if enough have come; those that have loaded the latest checkpoint have its state.

    Without a checkpoint the first worker has it, so that all start from its parameters.

    Returns:
        The decision; nobody leads if they are not enough.
    """
    impatient = any(member.impatient for member in members) and len(members) >= min_workers
    if len(members) < num_workers and not impatient:
        return Decision(name=name, job="")
    latest = max(_round(member) for member in members)
    leading = [member for member in members if _round(member) == latest]
    leading = leading if latest else leading[:1]
    joining = tuple(m for m in members if m not in leading and m.form == leading[0].form)
    return Decision(name=name, job=name, leading=tuple(leading), joining=joining)


def _round(member: Member) -> int:
    found: int = member.status.get("round", 0)
    return found


def _one_each(come: Iterable[Member]) -> tuple[list[Member], tuple[str, ...]]:
    """One process for each worker: the one that is furthest; and the others' incarnations."""
    found: dict[int, Member] = {}
    others: list[str] = []
    order = sorted(come, key=lambda m: (m.worker, not m.job, -m.meeting, m.incarnation))
    for member in order:
        if found.setdefault(member.worker, member) is not member:
            others.append(member.incarnation)
    return list(found.values()), tuple(others)
