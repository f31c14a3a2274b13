"""A modelled network: how long messages between workers would take."""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor, log10
from typing import Literal

from grawa.durations import seconds
from grawa.errors import UserError

Topology = Literal["ring", "mesh", "star"]
"""How workers are connected: each to the next, each to all others, or all to one server."""

_BITS = {"gbit": 1e9, "mbit": 1e6, "kbit": 1e3}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Link:
    """A connection between two workers.

    Args:
        bandwidth: bytes per second in each direction.
        latency: seconds that a message takes besides.
    """

    bandwidth: float
    latency: float

    def __post_init__(self) -> None:
        if not 0.0 < self.bandwidth < float("inf"):
            raise UserError(f"a link's bandwidth must be positive, got {self.bandwidth} bytes/s")
        if not 0.0 <= self.latency < float("inf"):
            raise UserError(f"a link's latency must not be negative, got {self.latency} s")

    @classmethod
    def parse(cls, text: str) -> "Link":
        """The link written as bandwidth, or bandwidth:latency.

        Args:
            text: such as 100mbit:20ms, 1Gbit or 100Mbps:20ms.

        Returns:
            The link.

        Raises:
            UserError: if the text is not a link.

        >>> Link.parse("100mbit:20ms")
        Link(bandwidth=12500000.0, latency=0.02)
        """
        bandwidth, colon, latency = text.strip().partition(":")
        pattern = r"([0-9]*\.?[0-9]+) ?([kmg])(?:bit|bps|bit/s)"
        match = re.fullmatch(pattern, bandwidth.strip().lower())
        if match is None:
            raise UserError(
                "write a link as bandwidth:latency, such as 100mbit:20ms or 1gbit:50us, got "
                f"{text!r}"
            )
        delay = seconds(latency, "a link's latency") if colon else 0.0
        return cls(float(match[1]) * _BITS[f"{match[2]}bit"] / 8, delay)

    def __str__(self) -> str:
        """The link as `parse` reads it, with three digits.

        Returns:
            Such as 100mbit:20ms.

        >>> str(Link(24.7123e6, 0.0003))
        '198mbit:300us'
        """
        bandwidth = _in_unit(8 * self.bandwidth, _BITS)
        return f"{bandwidth}:{_in_unit(self.latency, _SECONDS)}" if self.latency else bandwidth


def _in_unit(value: float, units: Mapping[str, float]) -> str:
    """A positive number with three digits, in the largest unit that it reaches.

    Returns:
        The number without an exponent, and its unit.

    >>> [_in_unit(x, _BITS) for x in (1e9, 98_760_000.0, 5.0)]
    ['1gbit', '98.8mbit', '0.005kbit']
    """
    unit = next((name for name, size in units.items() if value >= 0.9995 * size), [*units][-1])
    number = value / units[unit]
    text = f"{number:.{max(0, 2 - floor(log10(number)))}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text}{unit}"


NO_TIME = Link(sys.float_info.max, 0.0)
"""A link over which messages take no time."""


@dataclass(frozen=True)
class Network:
    """N workers with equal links, and the durations of collectives between them.

    A worker sends and receives at the same time. On a ring and on a mesh each worker has its own
    link; on a star all share the server's.

    Args:
        link: of each worker.
        topology: how they are connected.
        num_workers: N.

    Source: Thakur, Rabenseifner and Gropp (2005), "Optimization of Collective Communication
    Operations in MPICH", sections 3 and 4, for the model and a ring's costs; Patarasuk and Yuan
    (2009), "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", for 2(N-1)/N.
    """

    link: Link
    topology: Topology
    num_workers: int

    @property
    def coded_share(self) -> float:
        """Of the parameters, what a worker encodes and decodes of each row or mean."""
        return 1.0

    @property
    def options(self) -> str:
        """The options of `grawa plan` that describe it."""
        return f"--workers {self.num_workers} --topology {self.topology} --link {self.link}"

    def gather_seconds(self, row_bytes: float) -> float:
        """The duration of gathering every worker's row on every worker.

        Args:
            row_bytes: of one row.

        Returns:
            Seconds.

        >>> Network(Link(100.0, 1.0), "ring", 3).gather_seconds(50)
        3.0
        """
        n, link = self.num_workers, self.link
        if n == 1:
            return 0.0
        if self.topology == "ring":
            return (n - 1) * (link.latency + row_bytes / link.bandwidth)
        if self.topology == "mesh":
            return link.latency + (n - 1) * row_bytes / link.bandwidth
        return 2 * link.latency + (n + n * n) * row_bytes / link.bandwidth

    def mean_seconds(self, model_bytes: float) -> float:
        """The duration of computing the mean of all workers' rows on every worker.

        Args:
            model_bytes: of one row.

        Returns:
            Seconds.

        >>> Network(Link(100.0, 1.0), "mesh", 4).mean_seconds(200)
        5.0
        """
        n = self.num_workers
        return self.exchange_seconds(2 * (n - 1) / n * model_bytes)

    def exchange_seconds(self, sent_bytes: float) -> float:
        """The duration of a mean for which a worker would send so many bytes on a ring or mesh.

        Args:
            sent_bytes: by each worker, on average; 2(N-1)/N of a model for the mean of whole rows.

        Returns:
            Seconds.
        """
        n, link = self.num_workers, self.link
        if n == 1:
            return 0.0
        if self.topology == "ring":
            return 2 * (n - 1) * link.latency + sent_bytes / link.bandwidth
        if self.topology == "mesh":
            return 2 * link.latency + sent_bytes / link.bandwidth
        up_and_down = sent_bytes * n / (n - 1)
        return 2 * link.latency + n * up_and_down / link.bandwidth

    def rows_seconds(self, sent_bytes: float) -> float:
        """The duration of an exchange in which each worker sends to every other one directly.

        Args:
            sent_bytes: by each worker, on average.

        Returns:
            Seconds.
        """
        return self.exchange_seconds(sent_bytes)

    def leader_seconds(self, model_bytes: float) -> float:
        """The duration of sending one worker's row to all others.

        It sends a section to each of them, and they send these on to each other.

        Args:
            model_bytes: of the row.

        Returns:
            Seconds.

        >>> Network(Link(100.0, 0.0), "mesh", 3).leader_seconds(200)
        3.0
        """
        sent_on = 0.0 if self.num_workers <= 2 else (self.num_workers - 2) / (self.num_workers - 1)
        return self.exchange_seconds((1 + sent_on) * model_bytes)

    def busiest_seconds(self, sent_bytes: float, width: float = 1.0) -> float:
        """The duration of an exchange in which the busiest link carries so many bytes.

        Args:
            sent_bytes: by the worker that sends most, or by the host, in the parameters' own dtype.
            width: bytes of a number on the link, as a fraction of a parameter's.

        Returns:
            Seconds.
        """
        return self.exchange_seconds(sent_bytes * width)

    def per_model(self, model_bytes: float) -> "Network":
        """The same workers with links that carry a model in one second, and no latency.

        Returns:
            A network whose seconds are what the busiest link carries, in models.
        """
        return Network(Link(model_bytes, 0.0), "mesh", self.num_workers)

    def team(self, size: int) -> "Network":
        """The network between so many consecutive workers."""
        return replace(self, num_workers=size)


@dataclass(frozen=True)
class HostNetwork(Network):
    """Hosts with as many workers each; `link` and `topology` are those between hosts.

    Workers of a host exchange among themselves first, on a mesh of inner links, then hosts exchange
    sections of the model, each over its one link: see `grawa.comm.levels`.

    Args:
        hosts: H; N/H workers are on each.
        inner: between the workers of a host.

    >>> HostNetwork(Link(100.0, 1.0), "mesh", 4, 2, Link(1e3, 0.0)).mean_seconds(200)
    4.2
    """

    hosts: int
    inner: Link

    @property
    def coded_share(self) -> float:
        """See `Network.coded_share`; each worker of a host has a section."""
        return self.hosts / self.num_workers

    @property
    def options(self) -> str:
        """See `Network.options`."""
        hosts = f"--hosts {self.hosts}x{self.num_workers // self.hosts}"
        inner = "" if self.inner == NO_TIME else f" --inner-link {self.inner}"
        return f"{hosts} --topology {self.topology} --link {self.link}{inner}"

    @property
    def _inside(self) -> Network:
        return Network(self.inner, "mesh", self.num_workers // self.hosts)

    @property
    def _between(self) -> Network:
        return Network(self.link, self.topology, self.hosts)

    def gather_seconds(self, row_bytes: float) -> float:
        """See `Network.gather_seconds`; rows of a host cross the link together."""
        each = self.num_workers // self.hosts
        handed_out = self.inner.latency + self.num_workers * row_bytes / self.inner.bandwidth
        return (
            self._inside.gather_seconds(row_bytes)
            + self._between.gather_seconds(each * row_bytes)
            + (handed_out if each > 1 else 0.0)
        )

    def exchange_seconds(self, sent_bytes: float) -> float:
        """See `Network.exchange_seconds`; a host sends 2(H-1)/H times what is averaged."""
        if self.num_workers == 1:
            return 0.0
        model_bytes = sent_bytes * self.num_workers / (2 * (self.num_workers - 1))
        return self._inside.mean_seconds(model_bytes) + self._between.mean_seconds(model_bytes)

    def rows_seconds(self, sent_bytes: float) -> float:
        """See `Network.rows_seconds`; what workers of other hosts get goes over the host's link.

        Args:
            sent_bytes: by each worker, on average.

        Returns:
            Seconds.

        >>> HostNetwork(Link(100.0, 1.0), "mesh", 4, 2, Link(1e3, 0.0)).rows_seconds(300)
        6.1
        """
        n, each = self.num_workers, self.num_workers // self.hosts
        if n == 1:
            return 0.0
        to_each = sent_bytes / (n - 1)
        inside = self._inside.exchange_seconds((each - 1) * to_each)
        return inside + self._between.exchange_seconds(each * (n - each) * to_each)

    def leader_seconds(self, model_bytes: float) -> float:
        """See `Network.leader_seconds`."""
        return self._inside.mean_seconds(model_bytes) + self._between.leader_seconds(model_bytes)

    def busiest_seconds(self, sent_bytes: float, width: float = 1.0) -> float:
        """See `Network.busiest_seconds`; inside hosts all is sent as it is."""
        averaged = sent_bytes * self.hosts / (2 * (self.hosts - 1)) if self.hosts > 1 else 0.0
        across = self._between.exchange_seconds(sent_bytes * width)
        return self._inside.mean_seconds(averaged) + across

    def per_model(self, model_bytes: float) -> Network:
        """See `Network.per_model`; inside hosts messages take no time."""
        link = Link(model_bytes, 0.0)
        return replace(self, link=link, topology="mesh", inner=NO_TIME)

    def team(self, size: int) -> Network:
        """See `Network.team`."""
        each = self.num_workers // self.hosts
        if each % size == 0:
            return Network(self.inner, "mesh", size)
        if size % each == 0:
            return replace(self, num_workers=size, hosts=size // each)
        return Network(self.link, self.topology, size)


def network_of(
    link: Link,
    topology: Topology,
    num_workers: int,
    hosts: str | None = None,
    inner: Link | None = None,
) -> Network:
    """The network that options describe.

    Args:
        link: between workers, or between hosts if there are hosts.
        topology: how these are connected.
        num_workers: N.
        hosts: hosts x workers on each, such as 2x4.
        inner: between the workers of a host; by default messages take no time there.

    Returns:
        The network.

    Raises:
        UserError: if the hosts have not N workers together, or an inner link has no hosts.

    >>> network_of(Link(100.0, 1.0), "mesh", 8, "2x4").num_workers
    8
    """
    if hosts is None:
        if inner is not None:
            raise UserError("an inner link is one inside hosts: give --hosts too, such as 2x4")
        return Network(link, topology, num_workers)
    count, each = parse_hosts(hosts)
    if count * each != num_workers:
        raise UserError(f"{hosts} hosts have {count * each} workers, not {num_workers}: --workers")
    return HostNetwork(link, topology, num_workers, count, NO_TIME if inner is None else inner)


def parse_hosts(text: str) -> tuple[int, int]:
    """The number of hosts, and of workers on each, such as 2x4.

    Args:
        text: hosts x workers on each.

    Returns:
        Both.

    Raises:
        UserError: if the text is something else.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text.strip())
    if match is None:
        raise UserError(f"write hosts as hosts x workers on each, such as 2x4, got {text!r}")
    return int(match[1]), int(match[2])
