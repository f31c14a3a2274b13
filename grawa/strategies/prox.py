"""The proximal pull: between rounds, workers are pulled toward the last center."""

from dataclasses import dataclass

from grawa.errors import UserError
from grawa.math.leaves import Stack
from grawa.math.motion import pull_
from grawa.seeding import derive_seed
from grawa.strategies.checks import check_fraction
from grawa.strategies.protocol import State, Strategy


@dataclass(frozen=True, kw_only=True)
class Proximal(Strategy):
    """A method whose workers are pulled to the last center between rounds.

        x_i <- (1 - prox/sync_every) x_i + (prox/sync_every) c    after each local step

    With a `prox_probability` p below 1, a local step is followed by a pull with probability p only,
    which is then 1/p times as strong: on average the same.

        x_i <- (1 - z prox/(p sync_every)) x_i + z prox/(p sync_every) c,    z ~ Bernoulli(p)

    The draw is independent for each worker and step. It depends on (seed, worker, step) alone, so
    that a resumed run draws the same.

    Args:
        prox: how far workers move to the last center, in total, over the local steps of a round.
        prox_probability: p, in (0, 1]; a pull that would go beyond the center ends there.
        prox_seed: of the draws; `None` means 0, and in `grawa train` the run's seed.

    Source: Naganuma et al. (2025), "Pseudo-Asynchronous Local SGD" (arXiv 2504.18454), for
    `prox_probability`.
    Deviation: from its abstract and reading its public implementation. There the pull replaces the
    gradient step, whose batch is not used, the other steps are 1/(1-p) times as long, and the
    strength is proportional to the learning rate. Here the gradient step is made as well, since the
    optimizer is the user's.
    """

    prox: float = 0.0
    prox_probability: float = 1.0
    prox_seed: int | None = None

    def __post_init__(self) -> None:
        check_fraction("prox", self.prox)
        if not 0.0 < self.prox_probability <= 1.0:
            raise UserError(f"prox_probability must lie in (0, 1], got {self.prox_probability}")

    @property
    def draws(self) -> bool:
        """Whether it is drawn after which local steps there is a pull."""
        return self.prox_probability < 1.0

    def prox_at(self, worker: int, step: int) -> float:
        """The `prox` of one local step of a worker.

        Args:
            worker: its number among all.
            step: how many local steps it has made with this one.

        Returns:
            `prox` / `prox_probability`, or zero where no pull is drawn.
        """
        if not self.draws:
            return self.prox
        drawn = derive_seed(self.prox_seed or 0, "prox", worker, step) / 2.0**63
        return self.prox / self.prox_probability if drawn < self.prox_probability else 0.0

    def drift(self, params: Stack, state: State, share: float) -> None:
        """The pull to the last center, `share` of `prox`."""
        pull_(params, state["center"], self.prox * share)
