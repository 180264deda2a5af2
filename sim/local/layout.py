"""A local cluster's folder: what stands in it, which ports it uses, how the nodes' configurations are
written.

- `cluster.toml`: version, cluster id, machine, nodes with domains and ports, links with ports, settings
- `ca/`: the authority; `clients/default/`: a client's `cert.pem` and `key.pem`
- `nodes/n1/` and so on: `config.toml`, `cert.pem`, `key.pem`, `data/`, `platter/`, `log.jsonl`
- `supervisor.json`: while the cluster runs, the supervisor's process id and control socket
- `events.jsonl`: events of power and processes, of all runs

The nodes' configurations are derived from cluster.toml: `write_configs` may be called again at any time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from node.disk import DiskError
from node.io import certificates, config
from node.io.disk import FileDisk
from node.journal import Journal
from node.segment import Identity
from sim.drawing import deal
from sim.local import namespaces
from sim.local.relay import OUTSIDE, Link

VERSION: Final = 1
HOST: Final = "127.0.0.1"
CLUSTER_FILE: Final = "cluster.toml"
DEFAULT_CLIENT: Final = "default"
MAX_NODES: Final = 25
RELAY, NAMESPACES = "relay", "namespaces"
NETWORKS: Final = (RELAY, NAMESPACES)
"""What links can be made of."""
_FIRST_PORT: Final = 10_000
_LAST_PORT: Final = 65_535

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


# ------------------------------------------------------------------------------------------------ making


def create(
    folder: Path,
    nodes: int = 5,
    domains: int = 3,
    machine: str = "ranking",
    *,
    base_port: int | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    network: str = RELAY,
) -> Cluster:
    """Make a cluster's folder. Nodes n1, n2... are dealt to domains A, B... in runs: 5 over 3 is 2 + 2 + 1.

    `base_port`: first of the consecutive ports to use; None looks for free ones. `settings`, `network`: see `Cluster`.
    The folder appears whole or not at all. Raises ClusterError if it exists and is not empty, if a number
    makes no sense, if a port is taken or a setting is refused by the node's configuration."""
    _check_shape(nodes, domains, machine)
    if network not in NETWORKS:
        raise ClusterError(f"unknown links {network!r}; there are: {', '.join(NETWORKS)}")
    if folder.is_dir() and (folder / CLUSTER_FILE).exists():
        raise ClusterError(
            f"{folder}: there is a cluster already; start it with `up`, or give another folder "
            "(to give it other ports: `init --move --base-port N`)"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClusterError(f"{folder}: not an empty folder; give another one, or empty it first")
    count = _ports_needed(nodes)
    base = find_ports(count) if base_port is None else base_port
    _check_range(base, count)
    if base_port is not None:
        _require_free(range(base, base + count), folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        id_ = certificates.new_cluster_id()
        places, links = _assign(nodes, domains, base)
        cluster = Cluster(building, id_, machine, base, places, links, settings or {}, network)
        certificates.create_authority(building / "ca", id_)
        for place in places:
            home = cluster.node_folder(place.id)
            for sub in ("data", "platter"):
                (home / sub).mkdir(parents=True)
            certificates.issue_node(building / "ca", home, id_, place.id)
            _initialise_data(cluster, place.id)
        certificates.issue_client(building / "ca", cluster.client_folder(), id_, DEFAULT_CLIENT)
        write_configs(cluster)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return load(folder)


def move_ports(folder: Path, base_port: int | None = None) -> Cluster:
    """Give a cluster (which must be down) other ports; its data stay. Raises ClusterError."""
    old = load(folder)
    count = _ports_needed(len(old.nodes))
    base = find_ports(count) if base_port is None else base_port
    _check_range(base, count)
    _require_free(range(base, base + count), folder)
    places, links = _assign(len(old.nodes), len(old.domains), base)
    write_configs(Cluster(folder, old.cluster, old.machine, base, places, links, old.settings, old.network))
    return load(folder)


def write_configs(cluster: Cluster) -> None:
    """Write cluster.toml and every node's config.toml. Raises ClusterError if the node would refuse its
    file."""
    top: dict[str, Any] = {
        "version": VERSION,
        "cluster": cluster.cluster,
        "machine": cluster.machine,
        "base_port": cluster.base_port,
        "network": cluster.network,
        **{name: dict(table) for name, table in cluster.settings.items()},
        "nodes": [{key: getattr(place, key) for key in Place.__slots__} for place in cluster.nodes],
        "links": [{"from": one, "to": other, "port": port} for one, other, port in cluster.links],
    }
    for place in cluster.nodes:
        path = cluster.node_folder(place.id) / "config.toml"
        write_text(path, config.dump(_node_config(cluster, place)))
        try:
            config.load(path)
        except config.ConfigError as error:
            raise ClusterError("; ".join(error.problems)) from None
    write_text(cluster.folder / CLUSTER_FILE, config.dump(top))


def warnings(cluster: Cluster) -> list[str]:
    """What the nodes' configuration warns about (a domain that holds a quorum, an even number of
    nodes...)."""
    try:
        return config.load(cluster.node_folder(cluster.nodes[0].id) / "config.toml")[1]
    except config.ConfigError as error:
        raise ClusterError(str(error)) from None


def _node_config(cluster: Cluster, place: Place) -> dict[str, Any]:
    address = {other: port for one, other, port in cluster.links if one == place.id}
    address[place.id] = place.listen
    if cluster.network == NAMESPACES:
        address = {other.id: other.listen for other in cluster.nodes}
    settings = {name: dict(table) for name, table in cluster.settings.items()}
    storage = {"archive": True, "platter": "platter", **settings.pop("storage", {})}
    return {
        "cluster": cluster.cluster,
        "node": place.id,
        "listen": f"{cluster.host(place.id)}:{place.listen}",
        "http": f"{HOST}:{place.http}",
        "data": "data",
        "protocol": "raft",
        "machine": cluster.machine,
        "tls": {"ca": "../../ca/ca.pem", "certificate": "cert.pem", "key": "key.pem"},
        "members": [
            {
                "id": member.id,
                "domain": member.domain,
                "address": f"{cluster.host(member.id)}:{address[member.id]}",
            }
            for member in cluster.nodes
        ],
        "storage": storage,
        **settings,
    }


def _initialise_data(cluster: Cluster, node: str) -> None:
    """Write the first segment of a node's journal, so that a folder wiped later is told from a new one."""
    home = cluster.node_folder(node)
    disk = FileDisk(home / "data", home / "platter")
    try:
        reserve = cluster.settings.get("storage", {}).get("reserve_bytes", config.Storage().reserve_bytes)
        disk.perform(Journal.create_ops(Identity(cluster.cluster, node), reserve))
    except DiskError as error:
        raise ClusterError(f"node {node}: {error}", FAILED) from None
    finally:
        disk.close()


def _check_shape(nodes: int, domains: int, machine: str) -> None:
    if not 1 <= nodes <= MAX_NODES:
        raise ClusterError(f"{nodes} nodes: a local cluster has 1 to {MAX_NODES}")
    if not 1 <= domains <= nodes:
        raise ClusterError(
            f"{domains} domains for {nodes} nodes: there must be at least 1, and no more than there are nodes"
        )
    if machine not in config.MACHINES:
        raise ClusterError(f"unknown machine {machine!r}; there are: {', '.join(config.MACHINES)}")


def _assign(
    nodes: int, domains: int, base: int
) -> tuple[tuple[Place, ...], tuple[tuple[str, str, int], ...]]:
    """Deal nodes to domains and ports to both. The layout of ports depends on the numbers alone."""
    places = tuple(
        Place(name, domain, base + i, base + nodes + i, base + 2 * nodes + i, base + 3 * nodes + i)
        for i, (name, domain) in enumerate(deal(nodes, domains).items())
    )
    pairs = [(one.id, other.id) for one in places for other in places if one is not other]
    links = tuple((one, other, base + 4 * nodes + i) for i, (one, other) in enumerate(pairs))
    return places, links


# ------------------------------------------------------------------------------------------------ reading


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
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ClusterError(f"{path}: damaged or edited by hand: {type(error).__name__} {error}") from None


# ------------------------------------------------------------------------------------------------ ports


def _ports_needed(nodes: int) -> int:
    return 4 * nodes + nodes * (nodes - 1)


def _ephemeral() -> tuple[int, int]:
    """The range from which the kernel takes ports for outgoing connections: a listener there can find its
    port taken by somebody's connection."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
        return int(low), int(high)
    except (OSError, ValueError):
        return 32_768, 60_999


def is_free(port: int) -> bool:
    """Whether a listener can take this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
            probe.listen(1)  # with SO_REUSEADDR two may bind, one may listen
        except OSError:
            return False
    return True


def find_ports(count: int) -> int:
    """First of `count` consecutive free ports, outside the range of outgoing connections where there is room.

    Starts at a random place, so that clusters made at the same time rarely meet. Raises ClusterError."""
    low, high = _ephemeral()
    spans = [(_FIRST_PORT, low), (high + 1, _LAST_PORT + 1)]
    first, end = max(spans, key=lambda span: span[1] - span[0])
    if end - first < 4 * count:
        first, end = _FIRST_PORT, _LAST_PORT + 1
    room = end - first - count
    start = secrets.randbelow(room)
    step = 0
    while step < room:
        base = first + (start + step) % room
        taken = next((port for port in range(base + count - 1, base - 1, -1) if not is_free(port)), None)
        if taken is None:
            return base
        step += taken - base + 1
    raise ClusterError(f"no {count} consecutive ports are free between {first} and {end - 1}", FAILED)


def _check_range(base: int, count: int) -> None:
    if not 1024 <= base <= _LAST_PORT + 1 - count:
        raise ClusterError(
            f"base port {base}: {count} consecutive ports are needed from there on, "
            f"between 1024 and {_LAST_PORT}"
        )


def _require_free(ports: Iterable[int], folder: Path) -> None:
    for port in ports:
        if not is_free(port):
            raise ClusterError(
                f"port {port} is in use by another program; choose other ports with "
                f"`init {folder} --base-port N` (for a cluster that exists: add --move)"
            )


def check_ports(cluster: Cluster) -> None:
    """Check that every port of a cluster that is down is free. Raises ClusterError naming the first that is
    not. In namespaces every port is."""
    if cluster.network == NAMESPACES:
        return
    _require_free(
        range(cluster.base_port, cluster.base_port + _ports_needed(len(cluster.nodes))), cluster.folder
    )


def write_text(path: Path, text: str) -> None:
    """Replace a file so that a reader finds the old text or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)
