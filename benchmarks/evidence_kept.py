"""Results of studies, stored in the repository as small files from which all tables are made.

Studies take hours. With these files, tables, pictures and tested claims can be made again, or in
another way, without running the studies.
"""

import json
import lzma
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grawa.errors import UserError
from grawa.lab.experiments.older import current_text, saved_text
from grawa.lab.experiments.study import Study
from grawa.lab.experiments.study_folder import StudyFolder
from grawa.lab.experiments.study_toml import OTHER_DEFAULTS, as_toml, from_toml
from grawa.lab.experiments.trial import Result
from grawa.saving.whole import replacing


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A study and its results.

    Attributes:
        study: the study.
        tested: results of the runs that are compared, without what no table uses: the workers'
            weights, and losses and distances during training.
        runs: number of runs, including those for tuning.
        seconds: total time of all runs, each on one core.
        environment: at the start of the study.
    """

    study: Study
    tested: Sequence[Result]
    runs: int
    seconds: float
    environment: dict[str, Any]

    @classmethod
    def of(cls, folder: StudyFolder) -> "Kept":
        """Reads a study's folder, which may be incomplete."""
        results = folder.found().results
        tested = [
            replace(
                result,
                weights=None,
                group_names=[],
                curve=replace(result.curve, loss=[], distance=[]),
            )
            for result in sorted(results, key=lambda result: result.key)
            if result.role == "test"
        ]
        return cls(
            study=folder.study(),
            tested=tested,
            runs=len(results),
            seconds=sum(result.seconds for result in results),
            environment=folder.about(),
        )

    def asked(self, words: Sequence[str]) -> bool:
        """Whether it is the study of this command, and not of an older definition."""
        command: str = self.environment["command"]
        return current_text(command).partition(" --out ")[0] == shlex.join(words)

    def save(self, path: Path) -> None:
        """Writes the file, with numbers rounded to seven digits."""
        plain = vars(self) | {
            "study": as_toml(self.study),
            "tested": [result.as_json() for result in self.tested],
        }
        text = json.dumps(rounded(plain, 7), allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(lzma.compress(text.encode()))

    @classmethod
    def load(cls, path: Path) -> "Kept":
        """Reads the file.

        Raises:
            UserError: if it is missing or incomplete.
        """
        try:
            plain = json.loads(lzma.decompress(path.read_bytes()))
        except (OSError, ValueError, lzma.LZMAError, EOFError) as error:
            raise UserError(f"{path} can't be read: {error}") from None
        has_other_defaults = plain["study"].get("schema") == OTHER_DEFAULTS
        study = from_toml(plain.pop("study"), path)
        if has_other_defaults:
            plain["environment"]["command"] = _with_saved_defaults(plain["environment"]["command"])
        tested = [Result.from_json(line) for line in plain.pop("tested")]
        return cls(study=study, tested=tested, **plain)


def _with_saved_defaults(command: str) -> str:
    """The command of an older study, in which methods name the defaults that they had.

    >>> _with_saved_defaults("grawa compare digits --strategies lgrawa:pull=1,diloco")
    'grawa compare digits --strategies lgrawa:score=training:pull=1,diloco:outer.momentum=0.9'
    """
    words = shlex.split(command)
    place = words.index("--strategies") + 1
    methods = current_text(words[place]).split(",")
    words[place] = ",".join(
        each if ":score=" in each else saved_text(each, {"strategy": each}) for each in methods
    )
    return shlex.join(words)


def rounded(values: Any, digits: int) -> Any:
    """Plain values with all numbers rounded to so many digits."""
    if isinstance(values, float):
        return float(f"{values:.{digits}g}")
    if isinstance(values, dict):
        return {name: rounded(value, digits) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [rounded(value, digits) for value in values]
    return values
