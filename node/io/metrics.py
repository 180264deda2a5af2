"""What a node counts and measures, in Prometheus' text format; names in etcd's manner. docs/reference/metrics.md lists them.

Two kinds of values: those that are noted when they happen (`fsync`, `query`, ...), from any thread, and those that are read
from the replica's status when somebody looks (`update`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

PREFIX: Final = "ridethrough"
ROLES: Final = ("follower", "precandidate", "candidate", "leader")

FSYNC_BUCKETS: Final = (0.000_064, 0.000_125, 0.000_25, 0.000_5, *(0.001 * 2**n for n in range(14)))
"""etcd's fourteen from 1 ms, and four below: a disk with a protected cache answers in well under a millisecond."""
ROUND_TRIP_BUCKETS: Final = tuple(0.000_1 * 2**n for n in range(16))
REQUEST_BUCKETS: Final = tuple(0.000_25 * 2**n for n in range(16))

# (key of the status, metric, help); microseconds become seconds, a truth 0 or 1.
_GAUGES: Final = (
    ("term", "server_term", "Term of the protocol"),
    ("commit_index", "server_commit_index", "Index of the newest entry known to be committed"),
    ("applied_index", "server_applied_index", "Index of the newest entry in the state"),
    ("durable_index", "server_durable_index", "Index of the newest entry that is durable here"),
    ("first_index", "server_first_index", "Index of the oldest entry held in memory"),
    ("last_index", "server_last_index", "Index of the newest entry in the log here"),
    ("digest_agreed_index", "server_digest_agreed_index", "Newest index at which a majority had one digest"),
    ("quarantined", "server_quarantined", "1 if this node's state differs from the majority's"),
    ("storage_stalled", "server_storage_stalled", "1 while the disk does not keep up"),
    ("age_us", "server_state_age_seconds", "Time since the last successful read barrier was asked for"),
    ("sessions", "server_sessions", "Client sessions that are open"),
    ("queries_waiting", "server_queries_waiting", "Queries in the replica's queue"),
    ("snapshot_index", "server_snapshot_index", "Index of the newest snapshot"),
    ("journal_bytes", "disk_journal_bytes", "Bytes of journal since the last snapshot"),
    ("uptime_us", "server_uptime_seconds", "Time since the replica started"),
)
_COUNTERS: Final = (
    ("commit_index", "server_proposals_committed", "Entries committed since the beginning of the log"),
    ("applied_index", "server_proposals_applied", "Entries applied since the beginning of the log"),
    ("commands_applied", "server_commands_applied", "Commands applied (an entry holds many)"),
)


class Metrics:
    """A node's metrics, in a registry of their own. Methods may be called from any thread and cost microseconds."""

    def __init__(self, node: str = "", cluster: str = "", *, process: bool = True) -> None:
        """`process`: also show the process' CPU time, memory and open files."""
        # A process-wide switch of the library: a second series for every counter, with its time of birth, helps nobody.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._status = _StatusCollector()
        self.registry.register(self._status)
        if process:
            ProcessCollector(registry=self.registry)
        info = Gauge(
            f"{PREFIX}_server_info",
            "Which node this is; always 1",
            ("node", "cluster"),
            registry=self.registry,
        )
        info.labels(node, cluster).set(1)
        self._lock = threading.Lock()
        self._leader: tuple[str, int] | None = None

        self._leader_changes = self._counter(
            "server_leader_changes_seen", "Times another leader was learnt of"
        )
        self._failed = self._counter(
            "server_proposals_failed", "Commands refused or lost, by reason", ("reason",)
        )
        self._pending = self._gauge("server_proposals_pending", "Commands proposed and not yet applied")
        self._events = self._counter("server_events", "Events of the log, by name", ("event",))
        self._diverged = self._counter("server_divergences", "Digests seen that differ from the majority's")
        self._fsync = self._histogram(
            "disk_wal_fsync_duration_seconds", "Time of an fsync of the journal", FSYNC_BUCKETS
        )
        self._snapshot_bytes = self._gauge("disk_snapshot_bytes", "Size of the newest snapshot")
        self._snapshots = self._counter("disk_snapshots", "Snapshots taken or installed")
        self._round_trip = self._histogram(
            "network_peer_round_trip_time_seconds",
            "From a heartbeat to its answer",
            ROUND_TRIP_BUCKETS,
            ("peer",),
        )
        self._peer_connected = self._gauge("network_peer_connected", "1 while a connection stands", ("peer",))
        self._clients = self._gauge("network_clients", "Clients connected over the binary protocol")
        self._queries = self._counter(
            "queries", "Queries by way, consistency and outcome", ("via", "consistency", "outcome")
        )
        self._query_seconds = self._histogram(
            "query_seconds", "From a query to its answer", REQUEST_BUCKETS, ("via", "consistency")
        )
        self._http_requests = self._counter(
            "http_requests", "HTTP requests by route and status", ("path", "status")
        )
        self._http_seconds = self._histogram(
            "http_request_seconds", "Time of a request", REQUEST_BUCKETS, ("path",)
        )
        self._http_connections = self._gauge("http_connections", "HTTP connections that are open")
        self._http_in_progress = self._gauge("http_requests_in_progress", "HTTP requests being worked on")

    # -------------------------------------------------------------------------------------------------- noting

    def fsync(self, seconds: float) -> None:
        """The journal was synced."""
        self._fsync.observe(seconds)

    def peer_round_trip(self, peer: str, seconds: float) -> None:
        """A peer answered a heartbeat."""
        self._round_trip.labels(peer).observe(seconds)

    def peer_connected(self, peer: str, connected: bool) -> None:
        """A connection to a peer stands, or has ended."""
        self._peer_connected.labels(peer).set(connected)

    def clients(self, count: int) -> None:
        """So many clients are connected."""
        self._clients.set(count)

    def leader(self, leader: str | None, term: int) -> None:
        """Who leads, as far as this node knows; telling the same twice counts once."""
        if leader is None:
            return
        with self._lock:
            changed = self._leader != (leader, term)
            self._leader = (leader, term)
        if changed:
            self._leader_changes.inc()

    def proposals_failed(self, reason: str, count: int = 1) -> None:
        """Commands were refused or lost. `reason`: one of a few words, such as a `Code`'s name in lower case."""
        self._failed.labels(reason).inc(count)

    def proposals_pending(self, count: int) -> None:
        """So many commands are on their way."""
        self._pending.set(count)

    def event(self, name: str, fields: Mapping[str, Any] | None = None) -> None:
        """An event of the replica (`node.replica.Effects.events`): counted, and read where it carries a figure."""
        fields = fields or {}
        self._events.labels(name).inc()
        if name == "role":
            self.leader(fields.get("leader"), fields.get("term", 0))
        elif name == "snapshot":
            self._snapshots.inc()
            self._snapshot_bytes.set(fields.get("bytes", 0))
        elif name == "diverged":
            self._diverged.inc()

    def query(self, via: str, consistency: str, outcome: str, seconds: float) -> None:
        """A query was answered or refused. `via`: `http` or `client`; `outcome`: `ok` or a `Code`'s name in lower case."""
        self._queries.labels(via, consistency, outcome).inc()
        self._query_seconds.labels(via, consistency).observe(seconds)

    def http_request(self, path: str, status: int, seconds: float) -> None:
        """A request was answered. `path`: the route's template, never what the client wrote."""
        self._http_requests.labels(path, str(status)).inc()
        self._http_seconds.labels(path).observe(seconds)

    def http_connections(self, count: int) -> None:
        """So many HTTP connections are open."""
        self._http_connections.set(count)

    def http_in_progress(self, count: int) -> None:
        """So many HTTP requests are being worked on."""
        self._http_in_progress.set(count)

    # ------------------------------------------------------------------------------------------------- looking

    def update(self, status: Mapping[str, Any]) -> None:
        """Take over a replica's status (`Replica.status`); keys that are missing or None show no value."""
        self._status.status = dict(status)
        self.leader(status.get("leader"), status.get("term", 0))

    def render(self) -> bytes:
        """Everything, as text (`CONTENT_TYPE`)."""
        data: bytes = generate_latest(self.registry)
        return data

    # ------------------------------------------------------------------------------------------------- making

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", text, labels, registry=self.registry, buckets=buckets)


class _StatusCollector(Collector):
    """Shows a status as it is, without a copy that could go stale: what the status does not say is not shown."""

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = None

    def collect(self) -> Iterator[Metric]:
        status = self.status
        if status is None:
            return
        leading, known = status.get("role") == "leader", status.get("leader") is not None
        yield GaugeMetricFamily(f"{PREFIX}_server_has_leader", "1 if a leader is known", value=float(known))
        yield GaugeMetricFamily(f"{PREFIX}_server_is_leader", "1 if this node leads", value=float(leading))
        yield _role(status.get("role"))
        for key, name, text in _COUNTERS:
            if status.get(key) is not None:
                yield CounterMetricFamily(f"{PREFIX}_{name}", text, value=float(status[key]))
        for key, name, text in _GAUGES:
            value = _number(key, status)
            if value is not None:
                yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value=value)
        fresh = float(status.get("tier") == "fresh")
        yield GaugeMetricFamily(f"{PREFIX}_server_fresh", "1 while answers count as fresh", value=fresh)
        if leading:
            yield _match_index(status.get("match_index") or {})


def _number(key: str, status: Mapping[str, Any]) -> float | None:
    if key not in status:
        return None
    value = status[key]
    if key in ("quarantined", "storage_stalled"):
        return float(bool(value))
    if value is None:
        return None
    return value / 1e6 if key.endswith("_us") else float(value)


def _role(role: str | None) -> Metric:
    family = GaugeMetricFamily(f"{PREFIX}_server_role", "1 for the role this node is in", labels=["role"])
    for name in ROLES:
        family.add_metric([name], float(name == role))
    return family


def _match_index(match: Mapping[str, int]) -> Metric:
    text = "What each member is known to hold, as the leader sees it"
    family = GaugeMetricFamily(f"{PREFIX}_server_match_index", text, labels=["peer"])
    for peer in sorted(match):
        family.add_metric([peer], float(match[peer]))
    return family
