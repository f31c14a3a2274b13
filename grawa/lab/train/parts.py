"""The parts of a run on one process that a checkpoint holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grawa.lab.train.averaged import ConsensusAverage
from grawa.lab.train.checkpoint import News, news_from, plain_news
from grawa.lab.train.ending import Ending
from grawa.lab.train.worker import Worker
from grawa.rounds.engine import Engine


@dataclass(frozen=True)
class Parts:
    """All that is needed to continue bit for bit.

    Args:
        workers: of this process.
        engine: its engine.
        average: of the last consensuses, if they are averaged.
        ending: decides when training ends.
        stacked: whether the workers' local steps are stacked.
    """

    workers: Sequence[Worker]
    engine: Engine
    average: ConsensusAverage | None
    ending: Ending
    stacked: bool

    def state_dict(self, stepping: Sequence[int], news: Sequence[News]) -> dict[str, Any]:
        """What a checkpoint holds, after a round.

        Args:
            stepping: the hosted workers that have just made the step at which the round began, so
                that their next learning rate is not set yet.
            news: the round's events, which nobody may have seen yet.

        Returns:
            Plain values and tensors, which are not copied.
        """
        return {
            "workers": [worker.state_dict() for worker in self.workers],
            "engine": self.engine.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "stacked": self.stacked,
            "ending": self.ending.state_dict(),
            "stepping": list(stepping),
            "news": plain_news(news),
        }

    def load_state_dict(self, state: dict[str, Any]) -> tuple[list[int], list[News]]:
        """Restores what `state_dict` returned.

        Returns:
            What it was given.
        """
        for worker, saved in zip(self.workers, state["workers"], strict=True):
            worker.load_state_dict(saved)
        self.engine.load_state_dict(state["engine"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.ending.load_state_dict(state["ending"])
        return list(state["stepping"]), news_from(state["news"])
