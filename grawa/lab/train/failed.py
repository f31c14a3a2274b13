"""What a launcher raises when a process of a run has failed."""


class WorkerFailedError(RuntimeError):
    """A process of the run failed, and all others were ended.

    Args:
        text: which one, and why.
        comes_again: whether it would fail in the same way if it were started again.
    """

    def __init__(self, text: str, *, comes_again: bool = False) -> None:
        super().__init__(text)
        self.comes_again = comes_again
