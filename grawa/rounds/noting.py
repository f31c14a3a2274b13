"""Of which local steps gradient norms are noted: of those that count in the next round's scores."""


class Noting:
    """Decides of which local steps norms are noted.

    A pass over the gradients at each step would be for nothing where the average forgets them
    before the round. Of earlier steps a few are noted, so that there are norms whenever a round
    comes unforeseen, as when other workers' data end or `synchronize` is called.

    Args:
        norm_steps: W, of how many local steps before a round; `None` for all.
        num_hosted: K.

    >>> noting = Noting(2, num_hosted=1)
    >>> [noting.steps(slice(0, 1), step, left=6 - step) for step in range(1, 7)]
    [1, 0, 2, 0, 2, 1]
    """

    def __init__(self, norm_steps: int | None, num_hosted: int) -> None:
        self._norm_steps = norm_steps
        self._noted = [0] * num_hosted
        """The last local step of each hosted worker whose norms were noted."""

    def steps(self, workers: slice, step: int, left: float) -> int:
        """For how many local steps the norms of this one stand; zero if they aren't noted.

        Args:
            workers: the hosted workers that make it.
            step: its number, from 1.
            left: how many more there will be before the next round, as far as is known.

        Returns:
            The number of steps since the last one that was noted.
        """
        every = self._norm_steps
        if every is not None and left >= every and (step - 1) % every:
            return 0
        since = step - self._noted[workers][0]
        self._noted[workers] = [step] * len(self._noted[workers])
        return max(1, since)

    def state_dict(self) -> dict[str, list[int]]:
        """What must be saved so that training resumes bit for bit."""
        return {"noted": list(self._noted)}

    def load_state_dict(self, state: dict[str, list[int]]) -> None:
        """Restores what `state_dict` returned."""
        self._noted = list(state["noted"])
