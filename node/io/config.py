"""A node's `config.toml`: read, checked by hand, and turned into frozen dataclasses.

Every problem of a file is reported at once, each with the key's path, what is wrong and what would be right. The keys,
their units, defaults and bounds stand in the dataclasses below and nowhere else; docs/reference/configuration.md is
held against them by a test.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from consensus.bft.committee import Committee, CommitteeError
from consensus.quorum import majority
from node.io import certificates, keys
from node.io.toml_table import Table, dump

__all__ = [
    "Address",
    "CommitteeConfig",
    "ConfigError",
    "Limits",
    "Log",
    "Member",
    "NodeConfig",
    "Storage",
    "Timing",
    "TlsFiles",
    "dump",
    "load",
    "parse_address",
]

RAFT, BFT = "raft", "bft"
PROTOCOLS: Final = (RAFT, BFT)
MACHINES: Final = ("ranking", "kv")
EPOCH: Final = 1
"""Of a cluster's only committee so far."""
LEVELS: Final = ("debug", "info", "warning", "error")


class ConfigError(Exception):
    """A configuration cannot be used. `problems` lists everything that is wrong with it, a sentence each."""

    def __init__(self, path: Path | str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([f"{path}: {count}", *(f"  - {problem}" for problem in problems)]))


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens: host name or address, and port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster, its power domain, and where this node (or client) reaches it."""

    id: str
    domain: str
    address: Address
    key: bytes = b""
    """With `protocol = "bft"`: its public Ed25519 key, 32 bytes."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The authority's certificate, one's own certificate and its key."""

    ca: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CommitteeConfig:
    """[committee], with `protocol = "bft"` only."""

    stop: int
    """How many members may stop."""
    lie: int
    """How many of those may do anything at all."""
    key: Path
    """This node's private Ed25519 key."""


def _bounded(default: int, low: int, high: int) -> Any:
    return dataclasses.field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Timing:
    """[timing]"""

    heartbeat_ms: int = _bounded(50, 1, 60_000)
    election_ms: int = _bounded(120, 3, 600_000)
    """Lowest election time-out; the actual one is drawn from [election_ms, 2 * election_ms)."""
    barrier_ms: int = _bounded(250, 1, 60_000)
    fresh_ms: int = _bounded(1000, 1, 3_600_000)
    digest_ms: int = _bounded(1000, 10, 3_600_000)
    session_ttl_s: int = _bounded(600, 1, 31_536_000)
    round_ms: int = _bounded(300, 10, 600_000)
    """How long a leader of a BFT round may take while something waits to be ordered."""
    idle_ms: int = _bounded(150, 1, 600_000)
    """How long it waits before it proposes a block with nothing in it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """[limits]"""

    max_command_bytes: int = _bounded(65_536, 1, 4 << 20)
    max_inflight_bytes: int = _bounded(64 << 20, 1 << 16, 16 << 30)
    max_sessions: int = _bounded(4096, 1, 1_000_000)
    max_clients: int = _bounded(512, 1, 100_000)
    queries_in_queue: int = _bounded(512, 1, 1_000_000)


@dataclass(frozen=True, slots=True)
class Storage:
    """[storage]"""

    snapshot_bytes: int = _bounded(32 << 20, 1 << 16, 1 << 40)
    """A snapshot is taken when so many bytes of journal stand behind the last one."""
    archive: bool = False
    platter: Path | None = None
    """Where marks of what is durable are kept, for power cuts; None: no marks."""
    reserve_bytes: int = _bounded(16 << 20, 0, 1 << 40)


@dataclass(frozen=True, slots=True)
class Log:
    """[log]"""

    level: str = "info"
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """What a node is told. Paths are absolute, or relative to where the process runs, never to the file."""

    cluster: str
    node: str
    listen: Address
    data: Path
    tls: TlsFiles
    members: tuple[Member, ...]
    http: Address | None = None
    http_tls: TlsFiles | None = None
    protocol: str = RAFT
    machine: str = "ranking"
    committee: CommitteeConfig | None = None
    """There with `protocol = "bft"`, and only there."""
    timing: Timing = Timing()
    limits: Limits = Limits()
    storage: Storage = Storage()
    log: Log = Log()

    @property
    def me(self) -> Member:
        """This node's own entry among the members."""
        return next(member for member in self.members if member.id == self.node)

    @property
    def peers(self) -> tuple[Member, ...]:
        """All members but this node."""
        return tuple(member for member in self.members if member.id != self.node)

    def bft_committee(self) -> Committee:
        """Who orders the log. Raises CommitteeError; ValueError for another protocol."""
        if self.committee is None:
            raise ValueError(f"protocol {self.protocol} has no committee")
        # Sorted: all members must number each other alike, in whatever order their files list them.
        names = tuple(sorted(member.id for member in self.members))
        return Committee(self.cluster, EPOCH, names, self.committee.stop, self.committee.lie)


def load(path: Path, *, check_files: bool = True) -> tuple[NodeConfig, list[str]]:
    """Read and check a configuration; returns it with warnings (sentences) for whoever starts the node.

    `check_files`: also look at the TLS files: there, readable, of this cluster and node, not expired, matching each
    other. Raises ConfigError with all problems found."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(path, [f"cannot be read: {(error.strerror or str(error)).lower()}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError(path, [f"not UTF-8 text at byte {error.start}; a TOML file is"]) from None
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(path, [f"not TOML: {error}"]) from None
    problems: list[str] = []
    warnings: list[str] = []
    config = _read_config(Table(values, problems), path.parent)
    if config is None or problems:
        raise ConfigError(path, problems)
    if check_files:
        _check_files(config, problems, warnings)
    if problems:
        raise ConfigError(path, problems)
    names = [member.id for member in config.members]
    quorum = majority(names) if config.committee is None else config.bft_committee().quorum
    return config, warnings + _domain_warnings(config.members, quorum, even=config.committee is None)


def parse_address(text: str) -> Address:
    """`host:port`, `1.2.3.4:port` or `[v6]:port`. Raises ValueError with what is wrong and what would be right."""
    host, colon, port = text.rpartition(":")
    right = 'write "host:port", for example "127.0.0.1:7101" or "[::1]:7101"'
    if not colon or not host:
        raise ValueError(f"{text!r} is no address; {right}")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r} has port {port!r}; a port is a number from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"{text!r}: {host!r} is no IPv6 address; {right}") from None
    elif ":" in host:
        raise ValueError(f"{text!r}: an IPv6 address stands in brackets; {right}")
    elif not all(part and part.replace("-", "").replace("_", "").isalnum() for part in host.split(".")):
        raise ValueError(f"{text!r}: {host!r} is no host name; {right}")
    elif host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{text!r}: {host!r} is no IPv4 address; {right}") from None
    return Address(host, int(port))


# ------------------------------------------------------------------------------------------------ sections


def _read_config(top: Table, base: Path) -> NodeConfig | None:
    cluster = _checked(
        top, "cluster", certificates.is_cluster_id, certificates.CLUSTER_FORM, top.text("cluster")
    )
    node = _checked(top, "node", certificates.is_name, certificates.NAME_FORM, top.text("node"))
    listen = _address(top, "listen", required=True)
    http = _address(top, "http", required=False)
    data = top.text("data")
    protocol = top.choice("protocol", PROTOCOLS, RAFT)
    machine = top.choice("machine", MACHINES, "ranking")
    tls = _tls(top.table("tls", required=True), base)
    http_tls = _tls(top.table("http_tls"), base) if top.has("http_tls") else None
    members = _members(top, node, protocol)
    committee = _committee(top, base, cluster, protocol, members)
    timing = _numbers(top.table("timing"), Timing)
    limits = _numbers(top.table("limits"), Limits)
    storage_table = top.table("storage")
    archive = storage_table.boolean("archive", False)
    platter = storage_table.text("platter", None)
    storage = _numbers(
        storage_table, Storage, archive=archive, platter=None if platter is None else base / platter
    )
    log_table = top.table("log")
    level = log_table.choice("level", LEVELS, "info")
    log_file = log_table.text("file", None)
    log_table.finish()
    top.finish()

    problems = top.problems
    if timing.election_ms <= 2 * timing.heartbeat_ms:
        problems.append(
            f"timing.election_ms: {timing.election_ms} leaves no room for a lost heartbeat; it must be more than twice"
            f" timing.heartbeat_ms, so at least {2 * timing.heartbeat_ms + 1}"
        )
    if timing.fresh_ms <= timing.barrier_ms:
        problems.append(
            f"timing.fresh_ms: {timing.fresh_ms} would make every answer stale between two barriers; it must be more"
            f" than timing.barrier_ms ({timing.barrier_ms})"
        )
    if http is not None and listen is not None and (http == listen or _collide(http, listen)):
        problems.append(f"http: {http} is where `listen` is as well; give it a port of its own")
    if http is not None and not http.is_loopback and not top.has("http_tls"):
        problems.append(
            f"http: {http} is not loopback, where plain HTTP is refused; use 127.0.0.1, or add [http_tls] with"
            " ca, certificate and key (client certificates are then required)"
        )
    if problems or listen is None or tls is None:
        return None
    return NodeConfig(
        cluster=cluster,
        node=node,
        listen=listen,
        data=base / data,
        tls=tls,
        members=members,
        http=http,
        http_tls=http_tls,
        protocol=protocol,
        machine=machine,
        committee=committee,
        timing=timing,
        limits=limits,
        storage=storage,
        log=Log(level, None if log_file is None else base / log_file),
    )


def _checked(table: Table, key: str, accepts: Any, form: str, value: str) -> str:
    if value and not accepts(value):
        table.problem(key, f"{value!r} has a wrong form; it must be {form}")
    return value


def _address(table: Table, key: str, *, required: bool) -> Address | None:
    text = table.text(key) if required else table.text(key, None)
    if not text:
        return None
    try:
        return parse_address(text)
    except ValueError as error:
        table.problem(key, str(error))
        return None


def _collide(one: Address, other: Address) -> bool:
    wild = ("0.0.0.0", "::")
    return one.port == other.port and (one.host in wild or other.host in wild)


def _tls(table: Table, base: Path) -> TlsFiles | None:
    ca, certificate, key = table.text("ca"), table.text("certificate"), table.text("key")
    table.finish()
    return TlsFiles(base / ca, base / certificate, base / key) if ca and certificate and key else None


_Section = TypeVar("_Section", Timing, Limits, Storage)


def _numbers(table: Table, section: type[_Section], **given: Any) -> _Section:
    for field in dataclasses.fields(section):
        if "low" in field.metadata:
            given[field.name] = table.integer(
                field.name, cast(int, field.default), field.metadata["low"], field.metadata["high"]
            )
    table.finish()
    return section(**given)


def _committee(
    top: Table, base: Path, cluster: str, protocol: str, members: tuple[Member, ...]
) -> CommitteeConfig | None:
    if protocol != BFT:
        if top.has("committee"):
            top.table("committee")
            top.problem("committee", f'goes with protocol = "bft"; this file says {protocol!r}')
        return None
    table = top.table("committee", required=True)
    most = (len(members) - 1) // 3
    stop = table.integer("stop", most, 0, len(members))
    lie = table.integer("lie", min(most, stop), 0, len(members))
    key = table.text("key")
    table.finish()
    if members:
        try:
            Committee(cluster, EPOCH, tuple(member.id for member in members), stop, lie)
        except CommitteeError as error:
            top.problem("committee", str(error))
    return CommitteeConfig(stop, lie, base / key)


def _public_key(table: Table, protocol: str, seen: dict[bytes, str]) -> bytes:
    if protocol != BFT:
        if table.has("key"):
            table.text("key")
            table.problem("key", f'goes with protocol = "bft"; this file says {protocol!r}')
        return b""
    text = table.text("key")
    if not text:
        return b""
    try:
        raw = keys.read_public(text)
    except ValueError as error:
        table.problem("key", str(error))
        return b""
    if raw in seen:
        table.problem("key", f"is the key of {seen[raw]} already; whoever has two names has two votes")
    seen[raw] = table.path
    return raw


def _members(top: Table, node: str, protocol: str) -> tuple[Member, ...]:
    members: list[Member] = []
    seen_key: dict[bytes, str] = {}
    seen_id: dict[str, str] = {}
    seen_address: dict[Address, str] = {}
    for table in top.tables("members"):
        name = _checked(table, "id", certificates.is_name, certificates.NAME_FORM, table.text("id"))
        domain = _checked(table, "domain", certificates.is_name, certificates.NAME_FORM, table.text("domain"))
        address = _address(table, "address", required=True)
        key = _public_key(table, protocol, seen_key)
        table.finish()
        if name and name in seen_id:
            table.problem("id", f"{name!r} is the id of {seen_id[name]} already; every member needs its own")
        elif name:
            seen_id[name] = table.path
        if address is not None and address in seen_address:
            table.problem("address", f"{address} is the address of {seen_address[address]} already")
        elif address is not None:
            seen_address[address] = table.path
        if address is not None:
            members.append(Member(name, domain, address, key))
    if members and node and node not in seen_id:
        known = ", ".join(seen_id) or "none"
        top.problem("node", f"{node!r} is not among the members ({known}); add it to [[members]]")
    return tuple(members)


# ------------------------------------------------------------------------------------------------ judgement


def _domain_warnings(members: tuple[Member, ...], quorum: int, even: bool) -> list[str]:
    warnings: list[str] = []
    total = len(members)
    if even and total % 2 == 0:
        warnings.append(
            f"members: {total} is an even number; {total - 1} members survive as many losses"
            f" ({(total - 1) // 2}) with a smaller quorum"
        )
    domains: dict[str, int] = {}
    for member in members:
        domains[member.domain] = domains.get(member.domain, 0) + 1
    for domain, count in domains.items():
        if count >= quorum:
            warnings.append(
                f"members: domain {domain} holds a quorum ({count} of {total} members, {quorum} are a quorum): when it"
                " loses power nothing can be written until it returns, and what only its members hold is out of reach"
            )
        elif total - count < quorum:
            warnings.append(
                f"members: without domain {domain} ({count} of {total} members) no quorum of {quorum} is left: when it"
                " loses power nothing can be written until it returns"
            )
    return warnings


def _check_files(config: NodeConfig, problems: list[str], warnings: list[str]) -> None:
    for section, files in (("tls", config.tls), ("http_tls", config.http_tls)):
        if files is None:
            continue
        if section == "http_tls" and all(path.is_file() for path in (files.ca, files.certificate, files.key)):
            continue  # browsers and gateways may need a public authority's certificate here, which names no cluster
        if section == "http_tls":
            found = [
                f"{p}: no such file" for p in (files.ca, files.certificate, files.key) if not p.is_file()
            ]
            noted: list[str] = []
        else:
            found, noted = certificates.check_files(
                files.ca, files.certificate, files.key, cluster=config.cluster, role="node", name=config.node
            )
        problems.extend(f"[{section}] {text}" for text in found)
        warnings.extend(f"[{section}] {text}" for text in noted)
    if config.committee is not None:
        _check_signing_key(config.committee.key, config.me, problems, warnings)


def _check_signing_key(path: Path, me: Member, problems: list[str], warnings: list[str]) -> None:
    try:
        if keys.load_key(path).public != me.key:
            problems.append(f"[committee] {path}: not the key that [[members]] has for {me.id}")
        mode = path.stat().st_mode & 0o777
    except (keys.SigningKeyError, OSError) as error:
        problems.append(f"[committee] {error}")
        return
    if mode & 0o077:
        warnings.append(
            f"[committee] {path}: others than its owner can read or write it (mode {mode:04o}); run chmod 600 on it"
        )
