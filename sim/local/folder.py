"""What a local cluster's folder says of it: nodes, domains, ports, links, who lies. `sim.local.layout` makes such folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from consensus.bft.committee import Committee, CommitteeError
from node.io import certificates, config
from node.io.client_types import Signing
from node.io.config import BFT, RAFT
from node.io.toml_table import Table
from sim.byzantine import naming
from sim.local import namespaces
from sim.local.ports import HOST, LAST_PORT
from sim.local.relay import OUTSIDE, Link
from sim.typed_table import read_toml, shown

VERSION: Final = 1
CLUSTER_FILE: Final = "cluster.toml"
DEFAULT_CLIENT: Final = "default"
RELAY, NAMESPACES = "relay", "namespaces"
NETWORKS: Final = (RELAY, NAMESPACES)
"""What links can be made of."""
SETTINGS: Final = ("timing", "limits", "storage", "log")
"""Tables of cluster.toml that go into every node's config.toml."""
LEAST_PORT: Final = 1024
_KEY: Final = re.compile(r"[0-9a-f]{64}")

USAGE, NOT_RUNNING, FAILED = 2, 3, 1
"""Exit codes of commands: bad input, cluster not running or not reachable, a check or an operation failed."""


class ClusterError(Exception):
    """A cluster cannot do what was asked: what, why, what to do. `code` is a command's exit code."""

    def __init__(self, message: str, code: int = USAGE) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class Place:
    """A node, its power domain and its ports."""

    id: str
    domain: str
    listen: int
    """Where the node itself takes peers and clients; reached only by the relay."""
    http: int
    """Where the node itself takes HTTP; reached only by the relay."""
    client_port: int
    """The relay's port for clients of the node."""
    http_port: int
    """The relay's port for HTTP to the node."""
    key: str = ""
    """With the BFT protocol: its public signing key, hexadecimal."""
    lies: str = ""
    """By which strategy of `sim.byzantine.strategies` it lies; empty: it is honest."""


@dataclass(slots=True, frozen=True)
class Cluster:
    """What cluster.toml says."""

    folder: Path
    cluster: str
    machine: str
    base_port: int
    nodes: tuple[Place, ...]
    links: tuple[tuple[str, str, int], ...]
    """(from, to, the relay's port), for each ordered pair of nodes."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Tables `timing`, `limits`, `storage` and `log` of every node's config.toml, where they differ from the
    defaults."""
    network: str = RELAY
    """What the links are made of: `relay`, or `namespaces`, in which nodes dial one another's own addresses."""
    protocol: str = RAFT
    stop: int = 0
    lie: int = 0
    """With the BFT protocol: how many nodes may stop, and how many of those may lie."""

    @property
    def signing(self) -> Signing | None:
        """What a client needs to know where replicas may lie; None where they do not."""
        return Signing(self.lie) if self.protocol == BFT else None

    @property
    def liars(self) -> dict[str, str]:
        """Nodes that lie, and by which strategy."""
        return {place.id: place.lies for place in self.nodes if place.lies}

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the power domains, in order of their first node."""
        return tuple(dict.fromkeys(place.domain for place in self.nodes))

    def node(self, name: str) -> Place:
        """A node by name. Raises ClusterError listing the nodes."""
        for place in self.nodes:
            if place.id == name:
                return place
        raise ClusterError(f"there is no node {name!r}; there are: {', '.join(p.id for p in self.nodes)}")

    def of_domain(self, domain: str) -> tuple[Place, ...]:
        """The nodes of a power domain. Raises ClusterError listing the domains."""
        found = tuple(place for place in self.nodes if place.domain == domain)
        if not found:
            raise ClusterError(f"there is no domain {domain!r}; there are: {', '.join(self.domains)}")
        return found

    def node_folder(self, name: str) -> Path:
        """Folder of a node."""
        return self.folder / "nodes" / name

    def host(self, node: str) -> str:
        """Address at which a node listens for peers and clients."""
        if self.network == RELAY:
            return HOST
        return namespaces.address(self.nodes.index(self.node(node)) + 1)

    def committee(self) -> Committee:
        """Who orders the log. Raises ClusterError if that is not a committee's affair."""
        if self.protocol != BFT:
            raise ClusterError(f"{self.folder}: the protocol of this cluster is {self.protocol}, not {BFT}")
        names = tuple(sorted(place.id for place in self.nodes))
        return Committee(self.cluster, config.EPOCH, names, self.stop, self.lie)

    def public_keys(self) -> dict[str, bytes]:
        """The nodes' public signing keys."""
        return {place.id: bytes.fromhex(place.key) for place in self.nodes}

    def relay_links(self) -> list[Link]:
        """Every link of the cluster, for the relay: node to node, clients to node, HTTP to node."""
        listen = {place.id: place.listen for place in self.nodes}
        between = [Link(f"{one}>{other}", one, other, port, listen[other]) for one, other, port in self.links]
        clients = [Link(f"client>{p.id}", OUTSIDE, p.id, p.client_port, p.listen) for p in self.nodes]
        http = [Link(f"http>{p.id}", OUTSIDE, p.id, p.http_port, p.http) for p in self.nodes]
        return between + clients + http

    def members(self) -> tuple[config.Member, ...]:
        """The nodes as a client reaches them: through the relay, or from the namespace of the outside."""
        direct = self.network == NAMESPACES
        return tuple(
            config.Member(
                place.id,
                place.domain,
                config.Address(self.host(place.id), place.listen if direct else place.client_port),
            )
            for place in self.nodes
        )

    def client_tls(self, name: str = DEFAULT_CLIENT) -> config.TlsFiles:
        """A client's certificate and key."""
        folder = self.client_folder(name)
        return config.TlsFiles(self.folder / "ca" / "ca.pem", folder / "cert.pem", folder / "key.pem")

    def data_folders(self) -> dict[str, Path]:
        """The nodes' data folders, for the audit."""
        return {place.id: self.node_folder(place.id) / "data" for place in self.nodes}

    def client_folder(self, name: str = DEFAULT_CLIENT) -> Path:
        """Folder with a client's certificate and key."""
        return self.folder / "clients" / name

    def http_url(self, name: str) -> str:
        """Base address of a node's HTTP face (through the relay)."""
        return f"http://{HOST}:{self.node(name).http_port}"


def load(folder: Path) -> Cluster:
    """Read a cluster's folder. Raises ClusterError: no such folder, not a cluster's, another version, damaged (then every
    key that is wrong is named)."""
    path = folder / CLUSTER_FILE
    if not folder.is_dir():
        raise ClusterError(f"{folder}: no such folder; make a cluster with `init {folder}`")
    try:
        values = read_toml(path)
    except FileNotFoundError:
        raise ClusterError(
            f"{folder}: not a cluster's folder (it has no {CLUSTER_FILE}); make one with `init`"
        ) from None
    except ValueError as error:
        raise ClusterError(f"{path}: {error}") from None
    version = values.get("version")
    if version != VERSION:
        raise ClusterError(f"{path}: has version {shown(version)}, this program reads version {VERSION}")
    problems: list[str] = []
    try:
        found = _cluster(folder.resolve(), values, problems)
    except ValueError:  # an integer of so many digits that no message can show it
        problems.append("a number in it has too many digits")
    if problems:
        raise ClusterError(f"{path}: damaged or edited by hand: {'; '.join(problems)}")
    return found


def _cluster(folder: Path, values: dict[str, Any], problems: list[str]) -> Cluster:
    """What the file says; once there are problems, it does not count."""
    alone = values.get("links") == []  # as it is written for a single node
    top = Table({key: value for key, value in values.items() if not (alone and key == "links")}, problems)
    top.integer("version", VERSION, VERSION, VERSION)
    nodes = tuple(_place(table) for table in top.tables("nodes"))
    links = () if alone else tuple(_link(table) for table in top.tables("links"))
    for name in SETTINGS:
        top.table(name)
    cluster = Cluster(
        folder=folder,
        cluster=_word(top, "cluster", certificates.is_cluster_id, certificates.CLUSTER_FORM),
        machine=_word(top, "machine", config.MACHINES.__contains__, " or ".join(config.MACHINES)),
        base_port=_port(top, "base_port"),
        nodes=nodes,
        links=links,
        settings={name: values[name] for name in SETTINGS if name in values},
        network=top.choice("network", NETWORKS, RELAY),
        protocol=top.choice("protocol", config.PROTOCOLS, RAFT),
        stop=top.integer("stop", 0, 0, len(nodes)),
        lie=top.integer("lie", 0, 0, len(nodes)),
    )
    top.finish()
    if not problems:
        problems += _disagreements(cluster)
    return cluster


def _place(table: Table) -> Place:
    place = Place(
        id=_word(table, "id", certificates.is_name, certificates.NAME_FORM),
        domain=_word(table, "domain", certificates.is_name, certificates.NAME_FORM),
        listen=_port(table, "listen"),
        http=_port(table, "http"),
        client_port=_port(table, "client_port"),
        http_port=_port(table, "http_port"),
        key=table.text("key", ""),
        lies=table.text("lies", ""),
    )
    table.finish()
    return place


def _link(table: Table) -> tuple[str, str, int]:
    link = (table.text("from"), table.text("to"), _port(table, "port"))
    table.finish()
    return link


def _word(table: Table, key: str, accepts: Callable[[str], bool], form: str) -> str:
    word: str = table.text(key)
    if word and not accepts(word):
        table.problem(key, f"{shown(word)} has a wrong form; it must be {form}")
    return word


def _port(table: Table, key: str) -> int:
    port = table.integer(key, 0, LEAST_PORT, LAST_PORT)
    if not table.has(key):
        table.problem(key, "is missing")
    return port


def _disagreements(cluster: Cluster) -> list[str]:
    """What is wrong with values that are right each on its own."""
    names = [place.id for place in cluster.nodes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        return [f"nodes: two are called {', '.join(twice)}"]
    dealt = Counter(port for _, _, port in cluster.links)
    for place in cluster.nodes:
        dealt.update((place.listen, place.http, place.client_port, place.http_port))
    found = []
    if several := sorted(port for port, count in dealt.items() if count > 1):
        found.append(f"nodes, links: port {', '.join(map(str, several))} is given more than once")
    pairs = sorted((one, other) for one in names for other in names if one != other)
    if sorted((one, other) for one, other, _ in cluster.links) != pairs:
        found.append("links: there must be one from each node to each other, and no more")
    bft = cluster.protocol == BFT
    keys = [place.id for place in cluster.nodes if bool(_KEY.fullmatch(place.key)) != bft]
    if keys:
        needed = "64 hexadecimal digits" if bft else "none, with the protocol raft"
        found.append(f"nodes: the key of {', '.join(keys)} must be {needed}")
    try:
        naming.check(cluster.liars, names, cluster.lie if bft else None)
        if bft:
            cluster.committee()
        elif cluster.stop or cluster.lie:
            found.append(f"stop, lie: they go with the protocol {BFT}")
    except (naming.LiarsError, CommitteeError) as error:
        found.append(str(error))
    return found
