"""A whole `grawa chaos`: the undisturbed job, the job under faults, and what is left of it."""

import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from grawa.errors import UserError
from grawa.lab.chaos.campaign import Campaign, HungError, to_its_end
from grawa.lab.chaos.faults import Arena
from grawa.lab.chaos.hosts import Cluster, address
from grawa.lab.chaos.job import PATIENCE, Launched, Place
from grawa.lab.chaos.outcome import Outcome
from grawa.lab.chaos.places import ThisMachine, left_in_folders, left_in_memory
from grawa.lab.chaos.plan import Planned
from grawa.lab.chaos.singly import Singly
from grawa.lab.chaos.subject import Subject
from grawa.lab.chaos.surroundings import Surroundings
from grawa.lab.chaos.verdict import Findings, Result, noise_of
from grawa.lab.chaos.watch import Watch
from grawa.lab.train.asked import Requests

_LEAST_DISK_BYTES = 2**24
_DISK_OF_RUN = 3
"""The small disk holds so many times what the undisturbed run has left."""

_CHANGE_RESULTS = {"nan", "labels"}
"""Kinds of faults after which a run ends with other bits, since a worker computes otherwise."""

UNDISTURBED, DISTURBED = "undisturbed", "disturbed"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A job that is run twice, undisturbed and under faults.

    Attributes:
        subject: what is trained.
        workers: number of workers.
        hosts: number of hosts.
        namespaces: whether the hosts are made of namespaces; otherwise there is one, this machine.
        timeout: of the job's messages, in seconds.
        within: how much later than the timeout it must make rounds again, in seconds.
        noise: the largest difference between final errors that counts as noise; by default that of
            `noise_of`.
        out: the folder for all files, which exists.
    """

    subject: Subject
    workers: int
    hosts: int
    namespaces: bool
    timeout: float
    within: float
    noise: float | None
    out: Path

    def undisturbed(self) -> Result:
        """Runs the job without faults; `HungError` if it does not come to its end."""
        run = self._run(UNDISTURBED)
        with self._started(UNDISTURBED, None) as (job, _, seen):
            job.start()
            to_its_end(job, Watch(self.subject.record(run, seen)), self.timeout + self.within)
        return self.subject.result(run)

    def disturbed(
        self, undisturbed: Result, faults: Sequence[Planned], tell: Callable[[Outcome], None]
    ) -> Findings:
        """Runs the job under faults.

        Args:
            undisturbed: how the other job ended.
            faults: that are made.
            tell: called with what came of each.

        Returns:
            What is known at the end.
        """
        run, hung = self._run(DISTURBED), ""
        around = self._around(DISTURBED)
        size = _DISK_OF_RUN * _bytes_in(self._run(UNDISTURBED))
        disk = (run.parent, max(_LEAST_DISK_BYTES, size)) if self.namespaces else None
        with self._started(DISTURBED, disk) as (job, cluster, seen):
            arena = Arena(
                job=job,
                hosts=cluster.hosts[: self.hosts] if cluster else (),
                run=seen,
                saved=self.subject.saved(seen),
                clocks=[around.clock(host) for host in range(self.hosts)],
                requests=Requests.make(around.requests, self.workers),
                timeout=self.timeout,
            )
            campaign = Campaign(
                arena=arena,
                watch=Watch(self.subject.record(run, seen)),
                rounds=max(undisturbed.rounds, default=0),
                seconds=self.timeout + self.within,
                tell=tell,
            )
            try:
                campaign.run(faults)
            except HungError as error:
                hung = str(error)
            job.end()
            left = left_in_memory(arena.hosts, job.seen) + left_in_folders(around.temporary())
            if cluster and seen.is_dir():
                shutil.copytree(seen, run)  # the small disk is gone with the hosts
        return self._findings(undisturbed, campaign.outcomes, hung, job.orphans, left)

    def _findings(
        self,
        undisturbed: Result,
        outcomes: Sequence[Outcome],
        hung: str,
        orphans: Sequence[str],
        leftovers: Sequence[str],
    ) -> Findings:
        subject, run = self.subject, self._run(DISTURBED)
        usual = noise_of(undisturbed.error or 0.0, subject.metric, subject.samples)
        try:
            ended, unreadable = subject.result(run), subject.why_unreadable(run)
        except UserError as error:
            ended, unreadable = Result(), str(error)
        changed = any(outcome.kind in _CHANGE_RESULTS for outcome in outcomes)
        return Findings(
            outcomes=outcomes,
            undisturbed=undisturbed,
            disturbed=ended,
            metric=subject.metric,
            noise=usual if self.noise is None else self.noise,
            exact=subject.exact and not changed,
            hung=hung,
            orphans=orphans,
            leftovers=leftovers,
            unreadable=unreadable,
            timeout=self.timeout,
        )

    def _run(self, which: str) -> Path:
        return (self.out / which / "run").absolute()

    def _around(self, which: str) -> Surroundings:
        return Surroundings(self.out.absolute(), which, self._places)

    @contextmanager
    def _started(
        self, which: str, disk: tuple[Path, int] | None
    ) -> Generator[tuple[Launched | Singly, Cluster | None, Path]]:
        """A job that has not been started, its hosts, and its folder as it is seen from here."""
        run, around = self._run(which), self._around(which)
        around.make()
        run.parent.mkdir()
        with ExitStack() as stack:
            cluster = stack.enter_context(Cluster(self._places, disk)) if self.namespaces else None
            seen = Path(f"{cluster.root}{run}") if cluster else run
            make = self._singly if self.subject.elastic else self._launched
            patience = PATIENCE if which == DISTURBED else 1
            job = make(cluster.hosts if cluster else [ThisMachine()], run, seen, around, patience)
            stack.callback(job.end)
            yield job, cluster, seen

    @property
    def _places(self) -> int:
        """Hosts; with one more for the lighthouse of elastic workers."""
        return self.hosts + self.subject.elastic

    def _launched(
        self, places: Sequence[Place], run: Path, seen: Path, around: Surroundings, patience: int
    ) -> Launched:
        return Launched(
            places,
            partial(self.subject.command, run, seen),
            partial(around.environment, linked=self.namespaces and self.hosts > 1),
            around.logs,
            around.mark,
            self.timeout,
            patience=patience,
        )

    def _singly(
        self, places: Sequence[Place], run: Path, _seen: Path, around: Surroundings, patience: int
    ) -> Singly:
        def address_of(host: int) -> str:
            return address(host) if self.namespaces else "127.0.0.1"

        return Singly(
            places,
            self.hosts,
            self.workers,
            lambda host: self.subject.worker_command(run, address_of(host)),
            partial(around.environment, linked=self.namespaces),
            around.logs,
            around.mark,
            address_of(self.hosts),
            self.subject.grace,
            patience,
        )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
