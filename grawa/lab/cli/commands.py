"""All commands: what each can be asked, and its help; what it does is imported when it runs."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from rich.console import Console

from grawa.lab.cli.chaos_config import ChaosConfig
from grawa.lab.cli.early import raise_interrupts
from grawa.lab.cli.plan_config import PlanConfig
from grawa.lab.cli.study_config import AblateConfig, StudyConfig
from grawa.lab.cli.wells_config import WellsConfig
from grawa.lab.experiments.config import TrainConfig
from grawa.lab.experiments.flatness_config import FlatnessConfig
from grawa.lab.report.console import say
from grawa.lab.train.stop import StoppedError

Declared = TypeVar("Declared", bound=Callable[..., None])


def runs(place: str, says: str = "", after: str = "") -> Callable[[Declared], Declared]:
    """Makes a function that only declares a command call the one that does the work.

    Args:
        place: where that is, as "module:function"; it is imported when the command runs.
        says: what is printed at once, since the import of torch takes seconds; with the command's
            arguments in braces.
        after: what Ctrl-C leaves, in the same way, where the command itself does not tell it.

    Returns:
        The decorator.
    """

    def decorate(declared: Declared) -> Declared:
        @wraps(declared)
        def call(**asked: Any) -> None:
            console, (module, _, name) = Console(markup=False), place.partition(":")
            if says and os.environ.get("RANK", "0") == "0":
                say(console, says.format(**asked))
            with console.status("importing torch"):
                run = getattr(import_module(f"grawa.lab.cli.{module}"), name)
            raise_interrupts()
            try:
                run(**asked)
            except KeyboardInterrupt:
                text = f"interrupted; {after.format(**asked)}" if after else "interrupted"
                raise StoppedError(signal.SIGINT, saved=False, text=text) from None

        return call  # type: ignore[return-value]

    return decorate


@runs("run:train_command", "starting {config.workers} workers...", "nothing was begun")
def train(
    config: TrainConfig,
    from_file: Annotated[Path | None, "--config", "FILE"] = None,
    out: Annotated[Path | None, "FOLDER"] = None,
    overwrite: bool = False,
) -> None:
    """Train a task on several workers.

    By default each worker is a process of its own on this machine; under torchrun, torchrun's
    processes are used. The run writes a folder with its configuration, its events and
    model.safetensors; `grawa evaluate RUN` measures that model.

    Example:
        grawa train digits --strategy lgrawa --workers 4

    Args:
        config: the run.
        from_file: A file with the format of a run's config.toml, such as those in recipes/, for
            options that are not given on the command line; TASK may then be left out.
        out: The run's folder, which must not exist yet; by default a new one in runs/.
        overwrite: Replace a finished run in that folder; it comes back if this one can't begin.
    """


@runs("run:resume_command", "continuing the run...", "`grawa resume {run}` continues")
def resume(
    run: Annotated[Path, "RUN"],
    from_checkpoint: Annotated[str | None, "--from", "CHECKPOINT"] = None,
    workers: int | None = None,
    processes: int | None = None,
    donors: bool = False,
) -> None:
    """Continue a run from its last checkpoint, as if it had not been interrupted.

    With other numbers of workers or processes, workers that were there go on as they were, except
    that samples are dealt anew to another number of workers; new ones start at the center.

    Example:
        grawa resume runs/digits

    Args:
        run: The run's folder.
        from_checkpoint: Another checkpoint than the last one, such as save-000002-round-00000020.
        workers: Another number of workers than until now.
        processes: Another number of processes.
        donors: Give new workers the optimizer state of those that were there, in turn; by default
            it is fresh.
    """


@runs("evaluate:evaluate_command")
def evaluate(run: Annotated[Path, "RUN"]) -> None:
    """Measure a run's saved model on the run's test data.

    Example:
        grawa evaluate runs/digits

    Args:
        run: The run's folder.
    """


@runs(
    "compare:compare_command",
    "comparing methods...",
    "the same command continues where it stopped",
)
def compare(asked: StudyConfig) -> None:
    """Compare methods on a task, tuned with the same effort, on the same seeds, at equal cost.

    For each seed, all methods have the same data, order of data and initial weights. Each method is
    first tuned, on separate seeds, over the same number of settings; where the best learning rate
    is at the edge of those, further ones are tried, for every method by the same rule. Runs are
    executed in parallel, one per core; after an interruption, the same command continues where it
    stopped. The result is an answer in a few sentences, a table, and a page with pictures.

    Example:
        grawa compare digits --strategies lgrawa,local_sgd,dp_sgd --quick

    Args:
        asked: the study.
    """


@runs(
    "ablate:ablate_command",
    "comparing values...",
    "the same command continues where it stopped",
)
def ablate(asked: AblateConfig) -> None:
    """Measure the effect of one option: the same task, seeds and steps, with several values of it.

    Example:
        grawa ablate digits sync_every=4,16,64 --quick

    Args:
        asked: the study.
    """


@runs("plan:plan_command")
def plan(asked: PlanConfig) -> None:
    """Predict how often workers can synchronise over a network, and how fast they train then.

    For a task, a local step and each method's round are timed on this machine, and how long
    messages take is computed from the link. Under torchrun, without --link, the links are measured
    too: that between hosts, and that between the processes of a host. Without a task, the model is
    given in numbers, and the answer comes at once.

    Example:
        grawa plan --parameters 124M --step-time 300ms --link 1gbit:1ms

    Args:
        asked: the options.
    """


@runs("report:report_command")
def report(
    folders: Annotated[tuple[Path, ...], "FOLDER..."],
    out: Annotated[Path | None, "FILE"] = None,
    pictures: Annotated[Path | None, "FOLDER"] = None,
    figures: Annotated[Path | None, "FOLDER"] = None,
    tables: Annotated[Path | None, "FOLDER"] = None,
) -> None:
    """Make a page of runs and studies: an answer, tables, pictures and tested claims in one file.

    Example:
        grawa report runs/digits --pictures pictures

    Args:
        folders: Folders of runs or studies, finished or interrupted.
        out: One page for all of them; by default each gets report.html in its own folder.
        pictures: A folder in which to write the pictures as PNG files too.
        figures: A folder in which to write the pictures for a paper: as SVG and PDF files, as wide
            as a column (3.25 inches).
        tables: A folder in which to write the tables as CSV files, with all digits, and as LaTeX.
    """


@runs("flatness:flatness_command", after="nothing was written")
def flatness(
    run: Annotated[Path, "RUN"],
    config: FlatnessConfig,
    pictures: bool = False,
    device: str = "auto",
) -> None:
    """Measure how flat the training loss is around a run's consensus, and around its workers.

    Workers are measured if the run was made with --keep-workers, and in which directions they
    differed before rounds if it was made with --keep-rounds. Everything is computed in
    float64 and eval mode, with BatchNorm's statistics computed anew from the samples. Writes
    flatness.json in the run's folder.

    Example:
        grawa flatness runs/digits --pictures

    Args:
        run: The run's folder.
        config: what to measure.
        pictures: Also write flatness.png and, if workers were kept, line.png and plane.png.
        device: cpu, cuda, or auto for a GPU if there is one.
    """


@runs("wells:wells_command", after="nothing was written")
def wells(asked: WellsConfig) -> None:
    """Watch methods on a two-dimensional loss with flat and sharp minima.

    Trains a point in the plane with each method, draws the workers' paths in paths.png and
    paths.gif, and counts over many seeds in which kind of minimum each method's consensus ends. All
    workers start at the same point at the edge of the landscape. By default there is no guard,
    because it compares the workers' losses, and here a batch's loss is mostly noise.

    Example:
        grawa wells --strategies mgrawa,local_sgd --seeds 5

    Args:
        asked: the options.
    """


@runs(
    "chaos:chaos_command",
    "trying a job under faults...",
    "its folder keeps the logs, and can't be continued: the next command needs another --out",
)
def chaos(asked: ChaosConfig) -> None:
    """Try how a job stands what happens on clusters: kills, stops, cuts, full disks, bad workers.

    Starts a real job, on hosts made of namespaces of this machine (as root, or where users may make
    namespaces). It is run once undisturbed, then under faults that come one after another, at
    random moments, when the job has recovered from the one before. Where the job ends, it is
    continued with `grawa resume`, as a scheduler would. A table says for each fault how soon it was
    noticed, how soon the job made rounds again, and what was lost. Ends with exit code 1 if
    something is not as it must be: a hang, an orphan, a leftover, a record or model that is wrong.

    Example:
        grawa chaos digits --faults 5 --kinds kill,stop

    Args:
        asked: the options.
    """


@runs("lists:strategies_command")
def strategies() -> None:
    """List the averaging strategies, with their options, defaults and sources.

    Example:
        grawa strategies
    """


@runs("lists:tasks_command")
def tasks() -> None:
    """List the tasks, with their options, defaults and sources.

    Example:
        grawa tasks
    """


@runs("completion:completion_command")
def completion(shell: Annotated[Literal["bash", "zsh", "fish"], "SHELL"]) -> None:
    """Print a script that completes commands, options, tasks and strategies in a shell.

    Example:
        grawa completion bash > ~/.local/share/bash-completion/completions/grawa
        grawa completion zsh > ~/.zfunc/_grawa
        grawa completion fish > ~/.config/fish/completions/grawa.fish

    Args:
        shell: bash, zsh (in a folder of $fpath) or fish.
    """


COMMANDS: Mapping[str, Sequence[Callable[..., None]]] = {
    "train": (train, resume, evaluate),
    "compare and plan": (compare, ablate, plan),
    "look at results and methods": (report, flatness, wells, strategies, tasks),
    "test and set up": (chaos, completion),
}
"""Heading in the help -> commands."""


ALL: Mapping[str, Callable[..., None]] = {
    command.__name__: command for several in COMMANDS.values() for command in several
}
"""Name -> command."""


def named(name: str) -> Callable[..., None] | None:
    """The command with this name, if there is one."""
    return ALL.get(name)
