"""Who takes part, who is given the state, and that a result is applied by all or by none."""

import random
from dataclasses import replace
from typing import Any

import pytest

from grawa.comm.quorum import Decision, Member, decide


def member(worker: int, **said: Any) -> Member:
    return Member(worker=worker, **{"incarnation": f"i{worker}", "store": "", **said})


def in_job(worker: int, meeting: int = 3, **said: Any) -> Member:
    return member(worker, **{"job": "j", "meeting": meeting, "last": f"m{meeting}", **said})


def numbers(members: tuple[Member, ...]) -> list[int]:
    return [m.worker for m in members]


def test_a_job_starts_with_all_workers_from_the_first_ones_parameters() -> None:
    assert decide("q", [member(0), member(1)], 3, 1).leading == ()
    found = decide("q", [member(2), member(0), member(1)], 3, 1)
    assert (numbers(found.leading), numbers(found.joining), found.job) == ([0], [1, 2], "q")


def test_an_impatient_worker_starts_with_as_many_as_are_needed() -> None:
    waiting = member(1, impatient=True)
    assert decide("q", [waiting], 3, 2).leading == ()
    assert numbers(decide("q", [waiting, member(2)], 3, 2).leading) == [1]


def test_a_job_goes_on_from_the_latest_checkpoint() -> None:
    rounds = {0: 0, 1: 8, 2: 8}
    come = [member(i, status={"round": rounds[i]}) for i in rounds]
    found = decide("q", come, 3, 1)
    assert (numbers(found.leading), numbers(found.joining)) == ([1, 2], [0])


@pytest.mark.parametrize("new", [1, 2, 3])
def test_new_workers_never_lead_while_anybody_has_the_state(new: int) -> None:
    come = [member(i, status={"round": 99}, impatient=True) for i in range(new)]
    found = decide("q", [*come, in_job(3)], 4, 1)
    assert (numbers(found.leading), numbers(found.joining)) == ([3], list(range(new)))


def test_one_that_has_missed_a_meeting_is_given_the_state_if_it_waits() -> None:
    come = [in_job(0), in_job(1), in_job(2, meeting=2), in_job(3, meeting=2, waits=False)]
    found = decide("q", come, 4, 1)
    assert (numbers(found.leading), numbers(found.joining)) == ([0, 1], [2])


def test_one_that_knows_that_it_lags_never_leads() -> None:
    assert decide("q", [in_job(0, lags=True), member(1)], 2, 1).leading == ()
    found = decide("q", [in_job(0, lags=True, meeting=5), in_job(1)], 2, 1)
    assert (numbers(found.leading), numbers(found.joining)) == ([1], [0])


def test_a_worker_of_another_form_is_left_out() -> None:
    found = decide("q", [in_job(0), in_job(1), member(2, form="other")], 3, 1)
    assert numbers(tuple(found.present)) == [0, 1]


def test_of_two_processes_for_one_worker_the_one_that_is_further_stays() -> None:
    come = [in_job(0), in_job(1, incarnation="old", meeting=2), in_job(1, incarnation="new")]
    found = decide("q", come, 2, 1)
    assert found.replaced == ("old",)
    assert [m.incarnation for m in found.present] == ["i0", "new"]


def test_an_open_result_counts_if_somebody_has_applied_it() -> None:
    holds = in_job(1, held="m4", party=["i0", "i1"])
    assert decide("q", [in_job(0, meeting=4), holds], 2, 1).decided == "m4"


def test_an_open_result_counts_if_all_who_are_left_hold_it() -> None:
    hold = [in_job(i, held="m4", party=["i0", "i1", "i2"]) for i in (0, 1)]
    assert decide("q", hold, 3, 1).decided == "m4"
    assert decide("q", [*hold, in_job(2, incarnation="born later")], 3, 1).decided == "m4"


def test_an_open_result_is_forgotten_if_one_of_them_does_not_hold_it() -> None:
    party = ["i0", "i1"]
    found = decide("q", [in_job(0, held="m4", party=party), in_job(1)], 2, 1)
    assert (found.decided, numbers(found.leading)) == ("", [0, 1])


def test_below_the_least_nothing_is_done_but_at_the_end() -> None:
    assert not decide("q", [in_job(0)], 3, 2).is_enough(2)
    assert decide("q", [in_job(0, ending=True)], 3, 2).is_enough(2)
    assert decide("q", [in_job(0), member(1)], 3, 2).is_enough(2)


def test_at_the_end_those_who_are_late_are_waited_for() -> None:
    waits = in_job(0, ending=True, expects=[0, 1, 2])
    other = in_job(1, ending=True, expects=[0, 1])
    assert not decide("q", [waits, other], 3, 1).is_enough(1)
    assert decide("q", [waits, other, in_job(2, ending=True)], 3, 1).is_enough(1)
    assert decide("q", [waits, other, in_job(2, meeting=1)], 3, 1).is_enough(1)


class Job:
    """Workers that hold meetings, lose messages, die and come back, as chance has it."""

    def __init__(self, size: int, chance: random.Random) -> None:
        self.size, self.chance = size, chance
        self.workers = [member(i, status={"round": 0}) for i in range(size)]
        self.applied: list[list[str]] = [[] for _ in range(size)]
        """What is in each one's state."""
        self.quorums = 0
        self.completed = 0

    def apply(self, worker: int, name: str) -> None:
        """Every worker that is alive and applies the n-th result of the job applies the same."""
        me, own = self.workers[worker], [*self.applied[worker], name]
        others = [self.applied[m.worker] for m in self.workers if m.job == me.job]
        assert all(its[: len(own)] == own[: len(its)] for its in others)
        self.applied[worker] = own
        self.workers[worker] = replace(me, meeting=len(own), last=name, held="", party=())
        self.completed += 1

    def meet(self) -> None:
        """A quorum of more than half of those who are alive; some don't hear of it.

        One of those who are furthest is in it, since the lighthouse waits for all who are alive.
        """
        self.quorums += 1
        most = self.chance.randint(self.size // 2 + 1, self.size)
        come = self.chance.sample(range(self.size), most)
        if max(m.meeting for m in self.workers) > max(self.workers[i].meeting for i in come):
            return
        said = [replace(self.workers[i], waits=self.chance.random() < 0.8) for i in come]
        decision = decide(f"q{self.quorums:06d}", said, self.size, 1)
        hear = [m for m in said if self.chance.random() < 0.9]
        if not decision.leading:
            return
        for me in hear:
            self.follow(me, decision)
        if not decision.decided and not decision.joining:
            self.vote([m for m in hear if m in decision.present], decision)

    def follow(self, me: Member, decision: Decision) -> None:
        leads = me in decision.leading
        if decision.decided:
            if me.held == decision.decided:
                self.apply(me.worker, decision.decided)
            return
        self.workers[me.worker] = replace(self.workers[me.worker], held="", party=())
        if decision.joining and (leads or me in decision.joining) and self.chance.random() < 0.8:
            if not leads:
                self.applied[me.worker] = list(self.applied[decision.source.worker])
            self.workers[me.worker] = replace(
                self.workers[me.worker],
                job=decision.job,
                meeting=decision.meeting,
                last=decision.last,
            )

    def vote(self, hear: list[Member], decision: Decision) -> None:
        party = [m.incarnation for m in decision.present]
        holders = [m.worker for m in hear if self.chance.random() < 0.9]
        for i in holders:
            self.workers[i] = replace(self.workers[i], held=decision.name, party=party)
        if len(holders) == len(party):  # some get everybody's word, others lose their neighbours
            for i in holders:
                if self.chance.random() < 0.6:
                    self.apply(i, decision.name)

    def lose(self) -> None:
        """A worker dies, and is started again; never all of them."""
        i = self.chance.randrange(self.size)
        top = max(m.meeting for m in self.workers)
        if any(m.worker != i and m.job and m.meeting == top for m in self.workers):
            name = f"i{i} after {self.quorums}"
            self.workers[i] = member(i, incarnation=name, status={"round": 0})
            self.applied[i] = []


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_whatever_is_lost_every_result_is_applied_by_all_or_by_none(size: int) -> None:
    completed = 0
    for seed in range(15):
        chance = random.Random(1000 * size + seed)
        job = Job(size, chance)
        for _ in range(150):
            job.meet()
            if chance.random() < 0.05:
                job.lose()
        completed += job.completed
    assert completed > 15 * 20 * size
