"""The parts of a run on one process that a checkpoint holds beside models and the engine."""

from collections.abc import Sequence
from dataclasses import dataclass

from grawa.checkpoints.extras import Extras
from grawa.checkpoints.restore import Restored
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
    """

    workers: Sequence[Worker]
    engine: Engine
    average: ConsensusAverage | None
    ending: Ending

    def extras(self, stepping: Sequence[int], news: Sequence[News]) -> Extras:
        """What a checkpoint holds, after a round.

        Args:
            stepping: the hosted workers that have just made the step at which the round began, so
                that their next learning rate is not set yet.
            news: the round's events, which nobody may have seen yet.

        Returns:
            Plain values and tensors, which are not copied.
        """
        workers = [
            {**worker.streams(), "stepping": k in stepping} for k, worker in enumerate(self.workers)
        ]
        shared = {
            "workers": self.engine.comm.num_workers,
            "average": self.average.state_dict() if self.average else None,
            "ending": self.ending.state_dict(),
            "news": plain_news(news),
        }
        return Extras(workers=workers, shared=shared)

    def restore(self, restored: Restored) -> tuple[list[int], list[News]]:
        """Restores what `extras` returned, when the engine is restored.

        With another number of workers each one's samples are others than then.

        Args:
            restored: the checkpoint.

        Returns:
            What `extras` was given; new workers count as having made the step.
        """
        shared = restored.shared
        was, here = shared["workers"], self.engine.comm.num_workers
        stepping: list[int] = []
        for k, (worker, own) in enumerate(zip(self.workers, restored.workers, strict=True)):
            if own is not None:
                worker.put_streams(own, same_samples=was == here)
            if own is None or own["stepping"]:
                stepping.append(k)
        if self.average:
            self.average.load_state_dict(shared["average"])
        done = self.engine.total_steps / here
        self.ending.load_state_dict(shared["ending"], done, was)
        return stepping, news_from(shared["news"])


def resized(restored: Restored, workers: int) -> str:
    """What is not as it was in a restored run, if its workers or processes are others than then.

    Args:
        restored: the checkpoint.
        workers: N.

    Returns:
        One line; empty if they are the same.
    """
    same_samples = restored.shared["workers"] == workers
    return restored.notice if same_samples else f"{restored.notice}, all samples dealt anew"
