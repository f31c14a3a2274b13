"""Which of several processes is said to have failed."""

import json
import signal
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from grawa.lab.train.launch import _first_cause

LOST = "CommunicationError: rank 0 lost contact"
CASES: dict[str, tuple[list[str | signal.Signals], tuple[int, str]]] = {
    "an error of its own": ([LOST, "ValueError: x"], (1, "ValueError: x")),
    "killed": ([LOST, signal.SIGKILL], (1, "killed by SIGKILL")),
    "ended by the launcher": ([LOST, signal.SIGTERM], (0, LOST)),
    "ended from outside": ([signal.SIGTERM, signal.SIGTERM], (0, "killed by SIGTERM")),
    "the first of several": ([LOST, "ValueError: x", "ValueError: y"], (1, "ValueError: x")),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_and_not_what_follows_from_it(case: str, tmp_path: Path) -> None:
    ends, expected = CASES[case]
    failures = {}
    for rank, end in enumerate(ends):
        file = tmp_path / f"{rank}.json"
        if isinstance(end, str):
            message = {"message": end, "extraInfo": {"timestamp": 100 + rank}}
            file.write_text(json.dumps({"message": message}))
        code = 1 if isinstance(end, str) else -end
        failures[rank] = ProcessFailure(rank, 1234 + rank, code, str(file))
    assert _first_cause(failures) == expected
