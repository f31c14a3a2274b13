"""A fragment: a part of the model that is synchronised at once, and its state between rounds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from grawa.comm.compression import Compression
from grawa.comm.participants import Participants
from grawa.comm.protocol import Transport
from grawa.errors import UserError
from grawa.math.leaves import Leaves, Rows, copied, copy_
from grawa.math.norms import Norms, norms_over_shards, row_norms, tensor_distances
from grawa.rounds.measured import Measured, measured
from grawa.rounds.moves import Moves
from grawa.rounds.plan import RoundPlan
from grawa.rounds.shadow import Shadow
from grawa.rounds.stowed import Stowed, is_elsewhere
from grawa.strategies.protocol import State, first_state


class Fragment:
    """A part of the model, with its state between rounds.

    Args:
        params: the hosted workers' parameters in it, name -> (K, *shape); equal on all workers.
        groups: the group of each of them in the whole model.
        plan: how rounds are run.
        comm: connects all workers.
        norms: computes the norms of whole workers, also where this process has only a shard.

    Attributes:
        params: the hosted workers' parameters, as views.
        rounds: how many it has had.
        seen: the strategy's state that `drift` uses.
        watchers: called before a round moves parameters, with the hosted workers' and (N,), who
            takes part; a round that fails on elastic workers is run again.
        shadow: the copy on which its rounds run; `None` if they run on the parameters themselves.

    A round that is run on elastic workers has no effect on the state before `commit`.
    """

    def __init__(
        self,
        params: Rows,
        groups: Sequence[int],
        plan: RoundPlan,
        comm: Transport,
        norms: Norms = row_norms,
    ) -> None:
        self._names = list(params)
        self._columns = columns_of(groups, plan.strategy.groups(self._names))
        self._strategy, self._comm, self._norms = plan.strategy, comm, norms
        self._measure_distance = plan.measure_distance
        self._compression = None
        if plan.comm_dtype is not None:  # all workers are equal now: the first reference
            pull = plan.strategy.pull_of_round(comm.num_workers)
            self._compression = Compression(plan.comm_dtype, Leaves.copy_of(params), pull)
        self.rounds = 0
        self.watchers: list[Callable[[Rows, Tensor], None]] = []
        self._is_elastic = plan.elastic
        self.shadow: Shadow | None = None
        if plan.overlap_steps or plan.elastic:
            self.shadow = Shadow(params, plan.alpha, overlaps=plan.overlap_steps > 0)
        # What elastic workers were after their last round, to know what they have learnt since.
        self._base = copied(params) if plan.elastic else Rows()
        self._made: State = {}
        for size in plan.strategy.team_sizes():
            comm.split(size)
        self._state = first_state(plan.strategy, params, comm.num_workers)
        drifts = plan.strategy.drifts
        # A round in the background changes the state, while drift still needs the old one.
        self.seen = self._state
        if self.shadow is not None:
            self.seen = {k: v.clone() for k, v in self._state.items()} if drifts else {}
        narrow = {n: x for n, x in params.items() if x.itemsize < 4 and drifts}
        self._moves: Moves | None = None
        center = self._state.get("center")
        if plan.measure_distance and center is not None and list(center) == self._names:
            self._moves = Moves(center, norms)
        device = next(iter(params.values())).device
        self._stowed: Stowed | None = None
        if plan.center == "cpu" and self._state and is_elsewhere(device):
            self._stowed, self._state, self.seen = Stowed(self._state), {}, {}
        self._lost = {n: torch.zeros_like(x, dtype=torch.float32) for n, x in narrow.items()}
        self.bind(params)

    def bind(self, params: Rows) -> None:
        """Uses these views of the whole model's parameters, which may have moved in memory."""
        self.params = params.part(self._names)
        self.params.lost = self._lost

    def run(
        self,
        params: Rows,
        scores: Tensor | None,
        active: Tensor,
        amounts: Tensor | None = None,
    ) -> tuple[Tensor | None, Measured]:
        """One round, which moves the parameters in place; collective.

        Args:
            params: the workers' parameters, or a copy of them.
            scores: of the whole model's groups, (N, G).
            active: which workers take part, (N,).
            amounts: by which their weights are multiplied, (N,).

        Returns:
            The weights of the fragment's groups, and what is measured.
        """
        workers = Participants(
            self._comm,
            active,
            compression=self._compression,
            amounts=amounts,
            measure=self._measure_distance,
            norms=self._norms,
        )
        own = None if scores is None else scores[:, self._columns]
        self._made = self._state_here()
        if self._is_elastic and self._stowed is None:
            self._made = {key: leaves.clone() for key, leaves in self._state.items()}
        for watch in self.watchers:
            watch(params, active)
        if self._moves is not None:
            self._moves.begin(params, self._made)
        weights = self._strategy.sync(params, own, self._made, workers, self.rounds)
        moves = None if self._moves is None else self._moves.end(self._made)
        return workers.reported(weights), measured(self._comm, active, workers.distances, moves)

    def commit(self) -> None:
        """Keeps the state as the last round has left it."""
        self._put_state(self._made)
        self._made = {}
        if self._moves is not None:
            self._moves.commit()
        self.rounds += 1

    def _put_state(self, state: State) -> None:
        if self._stowed is not None:
            self._stowed.put(state)
        elif state is not self._state:
            for key, leaves in self._state.items():
                torch._foreach_copy_(leaves.flats, state[key].flats)

    def _state_here(self) -> State:
        """The state where the parameters are."""
        return self._state if self._stowed is None else self._stowed.fetch()

    @property
    def has_center(self) -> bool:
        """Whether the strategy keeps a center."""
        return "center" in self._kept

    def displacement_norms(self) -> Tensor:
        """L2 norms of the hosted workers' parameters minus the center, (K, L of the fragment)."""
        center = self._state if self._stowed is None else self._stowed.fetch("center")
        return norms_over_shards(tensor_distances(self.params, center["center"]), self._norms)

    @property
    def _kept(self) -> Mapping[str, Leaves]:
        """The state, wherever it is between rounds."""
        return self._state if self._stowed is None else self._stowed.kept()

    def _forget_moves(self) -> None:
        if self._moves is not None:
            self._moves.forget()

    def publish(self) -> None:
        """Lets `drift` use the state of the last round from now on."""
        if self.seen is not self._state:
            for key, leaves in self.seen.items():
                torch._foreach_copy_(leaves.flats, self._state[key].flats)

    def settled(self, *, late: bool) -> None:
        """Called when a round has been applied to elastic workers."""
        assert self.shadow is not None, "it ran there"
        if late:
            self.shadow.result(self._base)
        else:
            copy_(self._base, self.params)

    def consensus(
        self, active: Tensor, *, params: Rows | None = None, state: State | None = None
    ) -> Leaves:
        """The strategy's consensus; collective.

        Args:
            active: the workers that count, (N,).
            params: the hosted workers', as they will be; as they are by default.
            state: of the strategy, if it is not the one that is kept.

        Returns:
            It, the same on every process.
        """
        workers = Participants(self._comm, active)
        state = self._state_here() if state is None else state
        return self._strategy.consensus(self.params if params is None else params, state, workers)

    def consensus_after(self, active: Tensor, params: Rows) -> Leaves:
        """The consensus as it will be when the round that has been run is committed."""
        return self.consensus(active, params=params, state=self._made)

    def state_of(self, worker: int) -> State:
        """Another worker's state, bit for bit, on every process; collective."""
        chosen = torch.zeros(self._comm.num_workers, 1, dtype=torch.float64, device="cpu")
        chosen[worker] = 1.0
        return {
            key: self._comm.weighted_mean(dict(zip(leaves, leaves.rows, strict=True)), chosen)
            for key, leaves in self._state_here().items()
        }

    def take(self, state: State, consensus: Leaves, *, keep: bool) -> None:
        """Takes over another worker's state, and starts from the consensus.

        Args:
            state: of the strategy.
            consensus: where the parameters start from.
            keep: whether what they have learnt since their last round is added to it.
        """
        self._put_state(state)
        self._forget_moves()
        self.publish()
        for name, leaf in consensus.items():
            live, base = self.params[name], self._base[name]
            live.copy_(leaf + (live - base) if keep else leaf.expand_as(live))
            base.copy_(leaf)

    def state_dict(self) -> dict[str, Any]:
        """What must be saved so that training resumes bit for bit, copied."""
        state = {key: {n: x.clone() for n, x in v.items()} for key, v in self._kept.items()}
        compression = self._compression.state_dict() if self._compression else None
        lost = {name: rows.clone() for name, rows in self._lost.items()}
        return {"state": state, "rounds": self.rounds, "compression": compression, "lost": lost}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restores what `state_dict` returned, of the same strategy and parameters."""
        for key, leaves in self._kept.items():
            for name, leaf in leaves.items():
                leaf.copy_(saved["state"][key][name])
        self._forget_moves()
        self.rounds = saved["rounds"]
        for name, rows in self._lost.items():
            rows.copy_(saved["lost"][name])
        if self._compression is not None:
            self._compression.load_state_dict(saved["compression"])
        self.publish()


def columns_of(groups: Sequence[int], own_groups: Sequence[int]) -> list[int]:
    """Maps a fragment's groups to the model's.

    Args:
        groups: the group in the model of each of the fragment's leaves.
        own_groups: the group in the fragment of each.

    Returns:
        For each group of the fragment, the model's.

    Raises:
        UserError: if a group of the fragment belongs to several of the model.

    >>> columns_of([2, 2, 3], [0, 0, 1])
    [2, 3]
    """
    columns = dict(zip(own_groups, groups, strict=True))
    if any(columns[own] != group for own, group in zip(own_groups, groups, strict=True)):
        raise UserError(
            "group_by puts parameters of a fragment into one group that are in different groups of "
            "the whole model; use fragments=1, or a group_by that depends on names only"
        )
    return [columns[own] for own in range(len(columns))]
