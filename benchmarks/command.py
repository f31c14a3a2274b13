"""A benchmark as a command: its options, its samples, and the results made from them."""

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tyro

from common import PACKAGES, read_json, write_results
from grawa.errors import UserError
from grawa.lab.experiments.environment import environment
from samples import Revise, Sample, Samples

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
Results = dict[str, Any]

RESULTS = Path("benchmarks/results")
PICTURES = Path("docs/pictures")
TOYS = Path("runs/toy-benchmarks")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The options that all benchmarks share."""

    toy: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run everything at toy size, in seconds, to test that it works; the figures mean nothing."""
    out: Path | None = None
    """Folder for the results; benchmarks/results by default, runs/toy-benchmarks with --toy.
    Pictures are drawn there too, but by default in docs/pictures."""
    tabulate: Path | None = None
    """Measure nothing: make tables and results from this file of samples."""
    redraw: tyro.conf.FlagCreatePairsOff[bool] = False
    """Measure nothing: draw the pictures anew from the results in the folder."""
    resume: tyro.conf.FlagCreatePairsOff[bool] = False
    """Keep the samples that are there, and measure what is missing; not every benchmark can."""

    @property
    def folder(self) -> Path:
        """The folder for all files."""
        beside = self.tabulate.parent if self.tabulate else TOYS if self.toy else RESULTS
        return self.out or beside


@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[Config]):
    """A benchmark.

    Attributes:
        name: of its files.
        text: what it measures, for `--help`.
        takes: how long it takes, as text.
        config: its options and their defaults.
        toy: the options at toy size.
        measure: measures, and adds samples; returns `False` if it has stopped before the end.
        merge: makes results from the samples, which may be incomplete.
        show: prints the results.
        draw: draws pictures of complete results in a folder; `None` if there are none.
        check: raises `UserError` if options are invalid, or it can't be measured on this machine.
        join: merges the results of an earlier run with those of this one.
        resume: from the options, those of an earlier run, and its samples: the options of both
            runs together, and the samples to keep; `None` if every run starts anew. Then `measure`
            must leave out what there are samples of.
    """

    name: str
    text: str
    takes: str
    config: Config
    toy: Config
    measure: Callable[[Config, Samples], object]
    merge: Callable[[Config, Sequence[Sample]], Results]
    show: Callable[[Config, Results], object]
    draw: Callable[[Config, Results, Path], object] | None = None
    check: Callable[[Config], object] = lambda _: None
    join: Callable[[Results, Results], Results] = field(default=lambda _, found: found)
    resume: Callable[[Config, Config, Sequence[Sample]], tuple[Config, Sequence[Sample]]] | None = (
        None
    )

    def parse(self, words: Sequence[str] | None = None) -> tuple[Config, Files]:
        """The options on a command line, by default this program's.

        Raises:
            SystemExit: 2 if they can't be parsed, 0 after `--help`.
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
        anew = "starts it anew" if self.resume is None else "starts it anew, unless with `--resume`"
        return (
            f"{self.text.strip()}\n\nTakes {self.takes}. Each sample is added to {name}.jsonl at "
            f"once; at the end {name}.json and the pictures are made from the samples, and tables "
            f"are printed. After Ctrl-C or an error, the results so far are in "
            f"{name}.interrupted.json, and those of the last complete run are kept. If even that "
            f"failed, `--tabulate {name}.jsonl` makes them later. The next run {anew}."
        )

    def run(self, words: Sequence[str] | None = None) -> None:
        """Measures, or reads earlier samples, and makes results.

        Raises:
            SystemExit: 2 after a `UserError`, 130 after Ctrl-C or SIGTERM.
        """
        config, files = self.parse(words)
        # As Ctrl-C, so that processes end, hosts are removed and samples are tabulated.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            if files.redraw:
                self._redraw(files)
            elif files.tabulate is not None:
                self._tabulate(Samples(files.tabulate), files.folder)
            else:
                self._measure(config, files.folder, self._revise(config, resume=files.resume))
        except UserError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            sys.exit(2)
        finally:
            signal.signal(signal.SIGTERM, before)

    def _revise(self, config: Config, *, resume: bool) -> Revise | None:
        """What is kept of earlier samples: nothing, unless asked for."""
        if not resume:
            return None
        joined = self.resume
        if joined is None:
            raise UserError("it can't be resumed: leave out --resume")

        def revise(
            earlier: Sample, found: Sequence[Sample]
        ) -> tuple[dict[str, Any], Sequence[Sample]]:
            both, kept = joined(config, self._config(earlier["config"]), found)
            return _asked(both), kept

        return revise

    def _measure(self, config: Config, folder: Path, revise: Revise | None) -> None:
        self.check(config)
        samples = Samples(folder / f"{self.name}.jsonl")
        with samples.begin(_asked(config), revise):
            try:
                is_whole = self.measure(config, samples) is not False
            except BaseException as error:
                _, found, _ = samples.read()
                print(
                    f"{self.name}: stopped; the {len(found)} samples so far are in {samples.path}"
                )
                if found:
                    self._tabulate(samples, folder)
                if isinstance(error, KeyboardInterrupt):
                    sys.exit(130)
                raise
            if is_whole:
                samples.end()
        self._tabulate(samples, folder)

    def _tabulate(self, samples: Samples, folder: Path) -> None:
        """Makes results, tables and pictures from the samples."""
        asked, found, whole = samples.read()
        config = self._config(asked["config"])
        results = self.merge(config, found)
        path = folder / (f"{self.name}.json" if whole else f"{self.name}.interrupted.json")
        if whole:
            results = self.join(read_json(path), results)
        write_results(path, {"config": asked["config"], **results}, asked["environment"])
        self.show(config, results)
        if whole and self.draw is not None:
            self.draw(config, results, _pictures(folder))
        if config == self.toy:
            print("this was toy size: the figures mean nothing")
        print(f"the results are in {path}, the samples in {samples.path}")

    def _redraw(self, files: Files) -> None:
        """Draws the pictures anew from the stored results, whose options may be of an older kind.

        Raises:
            UserError: if there is nothing to draw, or another option asks for something else.
        """
        if files.tabulate is not None or files.resume:
            raise UserError("--redraw reads results, no samples: leave out --tabulate and --resume")
        if self.draw is None:
            raise UserError("it has no pictures: leave out --redraw")
        path = files.folder / f"{self.name}.json"
        results = read_json(path)
        if not results:
            raise UserError(f"there are no results in {path}: run it without --redraw")
        known = {each.name for each in fields(self.config)}
        plain = {k: v for k, v in results.get("config", {}).items() if k in known}
        folder = _pictures(files.folder)
        self.draw(self._config(plain), results, folder)
        print(f"the pictures of {path} are in {folder}")

    def _config(self, plain: Mapping[str, Any]) -> Config:
        unknown = set(plain) - {each.name for each in fields(self.config)}
        if unknown:
            raise UserError(
                f"the samples were measured with an option that no longer exists: {min(unknown)}"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return replace(self.config, **values)


def _pictures(folder: Path) -> Path:
    """The folder for the pictures of results in a folder."""
    return PICTURES if folder == RESULTS else folder


def _asked(config: "DataclassInstance") -> dict[str, Any]:
    return {"config": asdict(config), "environment": environment(PACKAGES)}


def check_same_options(
    config: "DataclassInstance", earlier: "DataclassInstance", but: Sequence[str] = ()
) -> None:
    """Refuses to resume a run that had other options.

    Args:
        config: the options.
        earlier: those of the run that is to be resumed.
        but: options that may differ.

    Raises:
        UserError: naming an option.
    """
    asked, before = asdict(config), asdict(earlier)
    for name in asked:
        if name not in but and asked[name] != before[name]:
            raise UserError(
                f"the samples were measured with other options ({name} {before[name]}, not "
                f"{asked[name]}): give the same ones, or leave out --resume"
            )
