"""What a local cluster's folder says of it: nodes, domains, ports, links, who lies. `sim.local.layout` makes such folders."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from consensus.bft.committee import Committee
from node.io import config
from node.io.client_types import Signing
from node.io.config import BFT, RAFT
from sim.local import namespaces
from sim.local.ports import HOST
from sim.local.relay import OUTSIDE, Link

VERSION: Final = 1
CLUSTER_FILE: Final = "cluster.toml"
DEFAULT_CLIENT: Final = "default"
RELAY, NAMESPACES = "relay", "namespaces"
NETWORKS: Final = (RELAY, NAMESPACES)
"""What links can be made of."""

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
    """Read a cluster's folder. Raises ClusterError: no such folder, not a cluster's, another version,
    damaged."""
    path = folder / CLUSTER_FILE
    if not folder.is_dir():
        raise ClusterError(f"{folder}: no such folder; make a cluster with `init {folder}`")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ClusterError(
            f"{folder}: not a cluster's folder (it has no {CLUSTER_FILE}); make one with `init`"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ClusterError(f"{path}: cannot be read: {error}") from None
    version = values.get("version")
    if version != VERSION:
        raise ClusterError(f"{path}: has version {version!r}, this program reads version {VERSION}")
    try:
        return Cluster(
            folder=folder.resolve(),
            cluster=str(values["cluster"]),
            machine=str(values["machine"]),
            base_port=int(values["base_port"]),
            nodes=tuple(Place(**node) for node in values["nodes"]),
            links=tuple((link["from"], link["to"], int(link["port"])) for link in values["links"]),
            settings={
                name: values[name] for name in ("timing", "limits", "storage", "log") if name in values
            },
            network=str(values.get("network", RELAY)),
            protocol=str(values.get("protocol", RAFT)),
            stop=int(values.get("stop", 0)),
            lie=int(values.get("lie", 0)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"{path}: damaged or edited by hand: {type(error).__name__} {error}") from None
