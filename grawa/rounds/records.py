"""What a loop records of its local steps, and must have recorded before the first one."""

from grawa.errors import UserError
from grawa.rounds.engine import Engine
from grawa.workers.checks import check_losses, check_samples


class Records:
    """Takes losses and numbers of samples; refuses a first step without those that are needed.

    Args:
        engine: with the hosted workers.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, self._missing = engine, dict[str, str]()
        strategy = engine.plan.strategy
        if strategy.score is not None and strategy.score.needs_losses:
            self._missing["loss"] = (
                f"{type(strategy).__name__} ranks workers by their training loss: call "
                "averager.record_loss(loss) before optimizer.step()"
            )
        if engine.plan.weigh_by == "samples":
            self._missing["samples"] = (
                'weigh_by="samples" weights workers by the samples they have trained on: call '
                "averager.record_samples(len(batch)) before optimizer.step()"
            )

    def loss(self, loss: object) -> None:
        """Records losses: see `Averager.record_loss`."""
        self._engine.note_losses(check_losses(loss, self._engine.comm.num_hosted))
        self._missing.pop("loss", None)

    def samples(self, samples: object) -> None:
        """Records numbers of samples: see `Averager.record_samples`."""
        self._engine.note_samples(check_samples(samples, self._engine.comm.num_hosted))
        self._missing.pop("samples", None)

    def check(self) -> None:
        """Refuses a first step, or round, before which something is missing.

        Raises:
            UserError: saying what to call.
        """
        if self._missing and self._engine.step == 0:
            raise UserError(next(iter(self._missing.values())))
