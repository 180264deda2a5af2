"""A local cluster's folder: what stands in it, which ports it uses, how the nodes' configurations are
written.

- `cluster.toml`: version, cluster id, machine, nodes with domains and ports, links with ports, settings
- `ca/`: the authority; `clients/default/`: a client's `cert.pem` and `key.pem`
- `nodes/n1/` and so on: `config.toml`, `cert.pem`, `key.pem`, `data/`, `platter/`, `log.jsonl`; with the BFT
  protocol also `signing.pem`
- `supervisor.json`: while the cluster runs, the supervisor's process id and control socket
- `events.jsonl`: events of power and processes, of all runs

The nodes' configurations are derived from cluster.toml: `write_configs` may be called again at any time.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from consensus.bft.committee import Committee, CommitteeError
from node.disk import DiskError
from node.io import certificates, config, keys
from node.io.config import BFT, RAFT
from node.io.disk import FileDisk
from node.journal import Journal
from node.segment import Identity
from sim.byzantine import naming
from sim.byzantine.naming import LiarsError
from sim.drawing import committee_counts, deal
from sim.local import ports
from sim.local.folder import (
    CLUSTER_FILE,
    DEFAULT_CLIENT,
    FAILED,
    LEAST_PORT,
    NAMESPACES,
    NETWORKS,
    NOT_RUNNING,
    RELAY,
    USAGE,
    VERSION,
    Cluster,
    ClusterError,
    Place,
    load,
)
from sim.local.ports import HOST, LAST_PORT, NoPorts
from sim.scenario_bounds import MAX_NODES

__all__ = [
    "CLUSTER_FILE", "DEFAULT_CLIENT", "FAILED", "HOST", "MAX_NODES", "NAMESPACES", "NETWORKS", "NOT_RUNNING", "RELAY", "USAGE",
    "Cluster", "ClusterError", "Place", "check_ports", "create", "find_ports", "load", "move_ports", "set_liars", "warnings",
    "write_configs", "write_text",
]  # fmt: skip

SIGNING_KEY: Final = "signing.pem"


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
    protocol: str = RAFT,
    stop: int | None = None,
    lie: int | None = None,
    liars: Mapping[str, str] | None = None,
) -> Cluster:
    """Make a cluster's folder. Nodes n1, n2... are dealt to domains A, B... in runs: 5 over 3 is 2 + 2 + 1.

    `base_port`: first of the consecutive ports to use; None looks for free ones. `settings`, `network`, `protocol`: see
    `Cluster`. `stop`, `lie`: of a BFT cluster; None: as many as its nodes stand, (nodes - 1) / 3 rounded down. `liars`: nodes
    that lie, and by which strategy.
    The folder appears whole or not at all. Raises ClusterError if it exists and is not empty, if a number
    makes no sense, if a port is taken or a setting is refused by the node's configuration."""
    _check_shape(nodes, domains, machine)
    stop, lie = _faults(nodes, protocol, stop, lie)
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
        places = _lying(places, liars or {}, lie if protocol == BFT else None)
        if protocol == BFT:
            places = tuple(_with_key(place, building / "nodes" / place.id) for place in places)
        cluster = Cluster(
            building, id_, machine, base, places, links, settings or {}, network, protocol, stop, lie
        )
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
    places = tuple(
        dataclasses.replace(place, key=before.key, lies=before.lies)
        for place, before in zip(places, old.nodes, strict=True)
    )
    write_configs(dataclasses.replace(old, folder=folder, base_port=base, nodes=places, links=links))
    return load(folder)


def set_liars(folder: Path, liars: Mapping[str, str]) -> Cluster:
    """Say which nodes of a cluster (which must be down) lie from now on, and how; all others are honest. Raises ClusterError."""
    cluster = load(folder)
    places = _lying(cluster.nodes, liars, cluster.lie if cluster.protocol == BFT else None)
    if places != cluster.nodes:
        write_configs(dataclasses.replace(cluster, nodes=places))
    return load(folder)


def _lying(places: tuple[Place, ...], liars: Mapping[str, str], lie: int | None) -> tuple[Place, ...]:
    try:
        naming.check(liars, [place.id for place in places], lie)
    except LiarsError as error:
        raise ClusterError(str(error)) from None
    return tuple(dataclasses.replace(place, lies=liars.get(place.id, "")) for place in places)


def write_configs(cluster: Cluster) -> None:
    """Write cluster.toml and every node's config.toml. Raises ClusterError if the node would refuse its
    file."""
    top: dict[str, Any] = {
        "version": VERSION,
        "cluster": cluster.cluster,
        "machine": cluster.machine,
        "base_port": cluster.base_port,
        "network": cluster.network,
        **_protocol_table(cluster),
        **{name: dict(table) for name, table in cluster.settings.items()},
        "nodes": [
            {key: value for key in Place.__slots__ if (value := getattr(place, key)) != ""}
            for place in cluster.nodes
        ],
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


def _protocol_table(cluster: Cluster) -> dict[str, Any]:
    if cluster.protocol == RAFT:
        return {}
    return {"protocol": cluster.protocol, "stop": cluster.stop, "lie": cluster.lie}


def _node_config(cluster: Cluster, place: Place) -> dict[str, Any]:
    address = {other: port for one, other, port in cluster.links if one == place.id}
    address[place.id] = place.listen
    if cluster.network == NAMESPACES:
        address = {other.id: other.listen for other in cluster.nodes}
    settings = {name: dict(table) for name, table in cluster.settings.items()}
    storage = {"archive": True, "platter": "platter", **settings.pop("storage", {})}
    if cluster.protocol == BFT:
        settings["committee"] = {"stop": cluster.stop, "lie": cluster.lie, "key": SIGNING_KEY}
    return {
        "cluster": cluster.cluster,
        "node": place.id,
        "listen": f"{cluster.host(place.id)}:{place.listen}",
        "http": f"{HOST}:{place.http}",
        "data": "data",
        "protocol": cluster.protocol,
        "machine": cluster.machine,
        "tls": {"ca": "../../ca/ca.pem", "certificate": "cert.pem", "key": "key.pem"},
        "members": [
            {
                "id": member.id,
                "domain": member.domain,
                "address": f"{cluster.host(member.id)}:{address[member.id]}",
                **({"key": member.key} if member.key else {}),
            }
            for member in cluster.nodes
        ],
        "storage": storage,
        **settings,
    }


def _faults(nodes: int, protocol: str, stop: int | None, lie: int | None) -> tuple[int, int]:
    """How many nodes may stop and how many lie. Raises ClusterError."""
    if protocol not in config.PROTOCOLS:
        raise ClusterError(f"unknown protocol {protocol!r}; there are: {', '.join(config.PROTOCOLS)}")
    if protocol != BFT:
        if stop is not None or lie is not None:
            raise ClusterError("how many nodes may stop or lie is said of a BFT cluster: --protocol bft")
        return 0, 0
    try:
        stop, lie = committee_counts(nodes, stop, lie)
        Committee("", config.EPOCH, tuple(f"n{number}" for number in range(1, nodes + 1)), stop, lie)
    except CommitteeError as error:
        raise ClusterError(str(error)) from None
    return stop, lie


def _with_key(place: Place, home: Path) -> Place:
    key = keys.SigningKey()
    home.mkdir(parents=True, exist_ok=True)
    key.save(home / SIGNING_KEY)
    return dataclasses.replace(place, key=key.public.hex())


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


# ------------------------------------------------------------------------------------------------ ports


def _ports_needed(nodes: int) -> int:
    return 4 * nodes + nodes * (nodes - 1)


def find_ports(count: int) -> int:
    """First of `count` consecutive free ports. Raises ClusterError. See `sim.local.ports.find_row`."""
    try:
        return ports.find_row(count)
    except NoPorts as error:
        raise ClusterError(str(error), FAILED) from None


def _check_range(base: int, count: int) -> None:
    if not LEAST_PORT <= base <= LAST_PORT + 1 - count:
        raise ClusterError(
            f"base port {base}: {count} consecutive ports are needed from there on, "
            f"between {LEAST_PORT} and {LAST_PORT}"
        )


def _require_free(wanted: Iterable[int], folder: Path) -> None:
    port = ports.first_taken(wanted)
    if port is not None:
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
