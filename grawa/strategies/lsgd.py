"""LSGD: workers are pulled to the worker with the smallest loss."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from grawa.errors import UserError
from grawa.math.leaves import Leaves, Stack
from grawa.math.motion import pull_
from grawa.math.weights import one_hot_smallest
from grawa.scores import TrainingLoss
from grawa.scores.protocol import Score
from grawa.strategies.center import first_center, mean_of_workers, next_center
from grawa.strategies.checks import check_fraction
from grawa.strategies.protocol import Communicator, State
from grawa.strategies.prox import Proximal


@dataclass(frozen=True, kw_only=True)
class LSGD(Proximal):
    """Pull to the leader, the worker with the smallest recent training loss.

        x_i <- (1 - pull) x_i + pull x_leader

    With `team_size`, consecutive workers (those of one machine, for example) form teams, each with
    its own leader. Every round pulls to the team's leader by `team_pull`; every `leader_every`-th
    round pulls to the leader of all workers by `pull` as well. A team's leader is sent within the
    team only, so only every `leader_every`-th round uses the slow link between machines.

    Args:
        pull: how far workers move to the leader of all workers.
        prox: as in GRAWA, toward the last leader of all workers.
        prox_probability, prox_seed: as in GRAWA.
        team_size: workers per team; `None` for one level.
        team_pull: how far workers move to their team's leader.
        leader_every: rounds between pulls to the leader of all workers; needs `team_size`.
        score: which loss, and over how many steps.

    Source: Teng et al. (2019), "Leader Stochastic Gradient Descent for Distributed Training of
    Deep Learning Models", algorithm 1, local and global leaders.
    """

    averages: ClassVar[bool] = False

    pull: float = 0.1
    team_size: int | None = None
    team_pull: float = 0.1
    leader_every: int = 1
    score: Score = field(default_factory=TrainingLoss)

    def __post_init__(self) -> None:
        Proximal.__post_init__(self)
        for name in ("pull", "team_pull"):
            check_fraction(name, getattr(self, name))
        if self.team_size is not None and self.team_size < 2:
            raise UserError(f"team_size must be at least 2, got {self.team_size}")
        if self.leader_every < 1 or (self.leader_every > 1 and self.team_size is None):
            raise UserError(
                "leader_every must be at least 1, and 1 without a team_size, got "
                f"{self.leader_every}"
            )

    def team_sizes(self) -> tuple[int, ...]:
        """`team_size`, if there is one."""
        return () if self.team_size is None else (self.team_size,)

    def init(self, params: Stack) -> State:
        """The common initial parameters count as the first leader's."""
        return first_center(params)

    def sync(
        self, params: Stack, scores: Tensor | None, state: State, comm: Communicator, round: int
    ) -> Tensor | None:
        """See `Strategy.sync`."""
        assert scores is not None, "the driver gathers what `score` asks for"
        weights = one_hot_smallest(scores, comm.active)
        to_leader_of_all = (round + 1) % self.leader_every == 0
        if to_leader_of_all:
            next_center(params, weights, state, comm)
        if self.team_size is not None:
            self._follow_team(params, scores, comm, self.team_size)
        if to_leader_of_all:
            pull_(params, state["center"], self.pull)
        return weights

    def _follow_team(
        self, params: Stack, scores: Tensor, comm: Communicator, team_size: int
    ) -> None:
        for team in comm.split(team_size):
            members = {name: rows[team.hosted] for name, rows in params.items()}
            weights = one_hot_smallest(scores[team.workers], comm.active[team.workers])
            leader = team.comm.weighted_mean(members, weights)
            pull_(members, leader, self.team_pull)

    def consensus(self, params: Stack, state: State, comm: Communicator) -> Leaves:
        """The mean of the workers' current parameters."""
        return mean_of_workers(params, comm)
