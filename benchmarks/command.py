"""A benchmark as a command: its options, its samples as they come, and what is made of them."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tyro

from common import PACKAGES, write_results
from grawa.errors import UserError
from grawa.lab.experiments.environment import environment
from grawa.lab.files import read_json
from samples import Sample, Samples

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
Results = dict[str, Any]

RESULTS = Path("benchmarks/results")
TOYS = Path("runs/toy-benchmarks")


@dataclass(frozen=True, kw_only=True)
class Files:
    """What every benchmark can be told."""

    toy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Go the whole way at toy size, in seconds, to see that it works; the figures mean nothing."""
    out: Path | None = None
    """Folder of what is written; benchmarks/results by default, with --toy runs/toy-benchmarks."""
    tabulate: Path | None = None
    """Measure nothing: make tables and results of this file of samples."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        beside = self.tabulate.parent if self.tabulate else TOYS if self.toy else RESULTS
        return self.out or beside


@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[Config]):
    """A benchmark.

    Attributes:
        name: of its files.
        text: what it measures, for `--help`.
        takes: how long, in words.
        config: its options and their defaults.
        toy: the same at toy size.
        measure: takes samples and adds them.
        merge: results, as far as the samples go.
        show: prints them.
        draw: makes pictures of the whole results, in a folder.
        check: raises `UserError` where it can't be measured as it is asked, or here.
        join: the results of an earlier run, with those of this one.
    """

    name: str
    text: str
    takes: str
    config: Config
    toy: Config
    measure: Callable[[Config, Samples], object]
    merge: Callable[[Config, Sequence[Sample]], Results]
    show: Callable[[Config, Results], object]
    draw: Callable[[Config, Results, Path], object] = lambda *_: None
    check: Callable[[Config], object] = lambda _: None
    join: Callable[[Results, Results], Results] = field(default=lambda _, found: found)

    def parse(self, words: Sequence[str] | None = None) -> tuple[Config, Files]:
        """The options on a command line, by default this program's.

        Raises:
            SystemExit: 2 if they can't be understood, 0 after `--help`.
        """
        words = sys.argv[1:] if words is None else words
        usual = self.toy if "--toy" in words else self.config
        options = make_dataclass(
            "Options",
            [
                ("config", tyro.conf.OmitArgPrefixes[type(usual)], field(default=usual)),  # type: ignore[misc]
                ("files", tyro.conf.OmitArgPrefixes[Files], field(default=Files())),
            ],
        )
        program = f"python benchmarks/{self.name}.py"
        found: Any = tyro.cli(options, prog=program, description=self._help(), args=words)
        return found.config, found.files

    def _help(self) -> str:
        name = self.name
        return (
            f"{self.text.strip()}\n\nTakes {self.takes}. Samples are added to {name}.jsonl as they "
            f"come; at the end {name}.json and the pictures are made from them, and tables are "
            f"printed. After Ctrl-C or an error, {name}.interrupted.json holds what there is, and "
            f"what the last whole run has left stays. If even that was impossible, `--tabulate "
            f"{name}.jsonl` makes it up. The next run begins {name}.jsonl anew."
        )

    def run(self, words: Sequence[str] | None = None) -> None:
        """Measures, or takes earlier samples, and tabulates.

        Raises:
            SystemExit: 2 if something is wrong that can be mended, 130 after Ctrl-C.
        """
        config, files = self.parse(words)
        try:
            if files.tabulate is not None:
                self._tabulate(Samples(files.tabulate), files.folder)
            else:
                self._measure(config, files.folder)
        except UserError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            sys.exit(2)

    def _measure(self, config: Config, folder: Path) -> None:
        self.check(config)
        samples = Samples(folder / f"{self.name}.jsonl")
        samples.begin({"config": asdict(config), "environment": environment(PACKAGES)})
        try:
            self.measure(config, samples)
        except BaseException as error:
            _, found, _ = samples.read()
            print(f"{self.name}: stopped; the {len(found)} samples so far are in {samples.path}")
            if found:
                self._tabulate(samples, folder)
            if isinstance(error, KeyboardInterrupt):
                sys.exit(130)
            raise
        samples.end()
        self._tabulate(samples, folder)

    def _tabulate(self, samples: Samples, folder: Path) -> None:
        """Makes results, tables and pictures of the samples."""
        asked, found, whole = samples.read()
        config = self._config(asked["config"])
        results = self.merge(config, found)
        path = folder / (f"{self.name}.json" if whole else f"{self.name}.interrupted.json")
        if whole:
            results = self.join(read_json(path), results)
        write_results(path, {"config": asked["config"], **results}, asked["environment"])
        self.show(config, results)
        if whole:
            self.draw(config, results, folder)
        if config == self.toy:
            print("this was toy size: the figures mean nothing")
        print(f"the results are in {path}, the samples in {samples.path}")

    def _config(self, plain: Mapping[str, Any]) -> Config:
        unknown = set(plain) - {each.name for each in fields(self.config)}
        if unknown:
            raise UserError(f"the samples were asked with an option that is gone: {min(unknown)}")
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return replace(self.config, **values)
