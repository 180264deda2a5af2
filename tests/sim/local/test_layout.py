"""A cluster's folder."""

from __future__ import annotations

import shutil
import socket
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.io import config
from sim.local import layout, ports
from sim.local.layout import HOST, ClusterError

SMALL = {"storage": {"reserve_bytes": 0}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> layout.Cluster:
    return layout.create(tmp_path_factory.mktemp("layout") / "c", settings=SMALL)


def test_five_nodes_over_three_domains_are_two_two_and_one(made: layout.Cluster) -> None:
    assert [(place.id, place.domain) for place in made.nodes] == [
        ("n1", "A"),
        ("n2", "A"),
        ("n3", "B"),
        ("n4", "B"),
        ("n5", "C"),
    ]
    assert made.domains == ("A", "B", "C")


@given(st.integers(1, layout.MAX_NODES), st.data())
def test_domains_are_dealt_in_runs_whose_sizes_differ_by_one_at_most_and_no_port_is_given_twice(
    nodes: int, data: st.DataObject
) -> None:
    domains = data.draw(st.integers(1, nodes))
    places, links = layout._assign(nodes, domains, 20_000)
    names = [place.domain for place in places]
    assert names == sorted(names)
    sizes = [names.count(name) for name in dict.fromkeys(names)]
    assert len(sizes) == domains
    assert max(sizes) - min(sizes) <= 1
    dealt = [
        port for place in places for port in (place.listen, place.http, place.client_port, place.http_port)
    ]
    dealt += [port for _, _, port in links]
    assert sorted(dealt) == list(range(20_000, 20_000 + layout._ports_needed(nodes)))


def test_every_node_accepts_its_config_and_reaches_every_other_through_its_own_port_of_the_relay(
    made: layout.Cluster,
) -> None:
    relayed = {(link.source, link.target): link for link in made.relay_links()}
    dialled = []
    for place in made.nodes:
        loaded, warnings = config.load(made.node_folder(place.id) / "config.toml")
        assert not warnings
        assert (loaded.cluster, loaded.node, loaded.listen.port) == (made.cluster, place.id, place.listen)
        assert loaded.storage.archive
        assert loaded.storage.platter == made.node_folder(place.id) / "platter"
        for peer in loaded.peers:
            link = relayed[place.id, peer.id]
            assert (peer.address.port, link.forward) == (link.listen, made.node(peer.id).listen)
            assert peer.domain == made.node(peer.id).domain
            dialled.append(peer.address.port)
    assert len(set(dialled)) == 20


def test_a_new_data_folder_holds_the_first_segment_of_its_own_journal(made: layout.Cluster) -> None:
    from node.io.disk import FileDisk
    from node.journal import Journal
    from node.segment import Identity

    for place in made.nodes:
        disk = FileDisk(made.node_folder(place.id) / "data")
        try:
            _, recovered = Journal.open(disk, Identity(made.cluster, place.id))
        finally:
            disk.close()
        assert list(recovered.records) == []


def test_load_gives_back_what_create_made(made: layout.Cluster) -> None:
    assert layout.load(made.folder) == made


def test_ports_lie_outside_the_range_of_outgoing_connections(made: layout.Cluster) -> None:
    low, high = ports.ephemeral()
    assert all(not low <= link.listen <= high for link in made.relay_links())


def test_create_refuses_a_folder_that_is_not_empty_and_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ClusterError, match="not an empty folder"):
        layout.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_create_refuses_a_folder_with_a_cluster(made: layout.Cluster) -> None:
    with pytest.raises(ClusterError, match="a cluster already"):
        layout.create(made.folder)


def test_a_setting_that_the_node_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"timing\.heartbeat_sm"):
        layout.create(tmp_path / "c", nodes=1, domains=1, settings={**SMALL, "timing": {"heartbeat_sm": 5}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("nodes", "domains", "machine", "text"),
    [
        (0, 1, "ranking", "0 nodes"),
        (26, 1, "ranking", "1 to 25"),
        (3, 4, "ranking", "4 domains for 3 nodes"),
        (3, 0, "ranking", "0 domains"),
        (3, 3, "toaster", "unknown machine 'toaster'; there are: ranking, kv"),
    ],
)
def test_shapes_that_make_no_sense_are_refused(
    tmp_path: Path, nodes: int, domains: int, machine: str, text: str
) -> None:
    with pytest.raises(ClusterError, match=text):
        layout.create(tmp_path / "c", nodes, domains, machine)


def test_a_taken_port_is_named_together_with_the_way_out_and_moving_keeps_the_data(tmp_path: Path) -> None:
    made = layout.create(tmp_path / "c", nodes=2, domains=2, settings=SMALL)
    before = (made.node_folder("n1") / "data").iterdir()
    names = sorted(path.name for path in before)
    with socket.create_server((HOST, made.nodes[1].http_port)):
        with pytest.raises(ClusterError, match=rf"port {made.nodes[1].http_port} is in use.*--base-port"):
            layout.check_ports(made)
        moved = layout.move_ports(made.folder)
        layout.check_ports(moved)
    assert moved.cluster == made.cluster
    assert moved.nodes != made.nodes
    assert sorted(path.name for path in (moved.node_folder("n1") / "data").iterdir()) == names
    assert config.load(moved.node_folder("n2") / "config.toml")[0].listen.port == moved.nodes[1].listen


def test_a_base_port_without_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="base port 65530: 40 consecutive ports"):
        layout.create(tmp_path / "c", base_port=65_530)


def test_load_says_what_is_wrong_with_a_folder(tmp_path: Path, made: layout.Cluster) -> None:
    with pytest.raises(ClusterError, match="no such folder"):
        layout.load(tmp_path / "nowhere")
    with pytest.raises(ClusterError, match="not a cluster's folder"):
        layout.load(tmp_path)
    text = (made.folder / "cluster.toml").read_text()
    for old, new, problem in (
        ("version = 1", "version = 9", "has version 9, this program reads version 1"),
        ("base_port", "bass_port", "damaged or edited by hand"),
        ("version = 1", "version = = 1", "not TOML: Invalid value"),
    ):
        (tmp_path / "cluster.toml").write_text(text.replace(old, new))
        with pytest.raises(ClusterError, match=problem):
            layout.load(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('network = "relay"', 'network = ""', "network: is ''; a text that is not empty"),
        ('network = "relay"', 'network = "string"', "network: 'string' is not known; it must be 'relay' or 'namespaces'"),
        ('network = "relay"', 'networks = "relay"', "networks: is not a known key; did you mean 'network'?"),
        ('machine = "ranking"', 'machine = "nope"', "machine: 'nope' has a wrong form; it must be ranking or kv"),
        ('machine = "ranking"', "", "machine: is missing"),
        ('id = "n1"', 'id = "n2"', "nodes: two are called n2"),
        ('id = "n1"', "id = []", "nodes[1].id: is an array; a text"),
        ('id = "n1"', 'id = "../n1"', "nodes[1].id: '../n1' has a wrong form"),
        ('domain = "A"', "domain = 5", "nodes[1].domain: is 5; a text"),
        ("listen = ", 'listen = "x" # ', "nodes[1].listen: is 'x'; a whole number from 1024 to 65535"),
        ("listen = ", "listen = -1 # ", "nodes[1].listen: is -1; it must be from 1024 to 65535"),
        ("listen = ", "# ", "nodes[1].listen: is missing"),
        ("http_port = ", "http_port = 0x" + "f" * 5_000 + " # ", "a number in it has too many digits"),
        ("base_port = ", "base_port = " + "7" * 5_000, "not TOML: a number in it has too many digits"),
        ("base_port = ", "x = " + "[" * 50_000, "not TOML: nested too deeply"),
        ("version = 1", "version = 1\ntiming = 5", "timing: is 5; a table [timing] belongs here"),
        ("version = 1", 'version = 1\nprotocol = "paxos"', "protocol: 'paxos' is not known"),
        ("version = 1", "version = 1\nstop = 1", "stop, lie: they go with the protocol bft"),
        ("version = 1", 'version = 1\nprotocol = "bft"', "the key of n1, n2, n3, n4, n5 must be 64 hexadecimal digits"),
        ('domain = "A"', 'domain = "A"\nlies = "silent"', "with the raft protocol nodes are believed"),
        ('to = "n2"', 'to = "n1"', "links: there must be one from each node to each other"),
    ],
)  # fmt: skip
def test_a_value_that_nobody_wrote_so_is_named_with_its_place(
    tmp_path: Path, made: layout.Cluster, old: str, new: str, words: str
) -> None:
    path = tmp_path / "cluster.toml"
    text = (made.folder / "cluster.toml").read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ClusterError) as caught:
        layout.load(tmp_path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert caught.value.code == layout.USAGE


def test_a_port_given_twice_is_named(tmp_path: Path, made: layout.Cluster) -> None:
    text = (made.folder / "cluster.toml").read_text()
    one, other = made.nodes[0].listen, made.nodes[1].http
    (tmp_path / "cluster.toml").write_text(text.replace(str(one), str(other)))
    with pytest.raises(ClusterError, match=f"port {other} is given more than once"):
        layout.load(tmp_path)


def test_a_cluster_of_one_node_has_no_links(tmp_path: Path) -> None:
    alone = layout.create(tmp_path / "c", nodes=1, domains=1, settings=SMALL)
    assert layout.load(tmp_path / "c") == alone
    assert alone.links == ()


def test_a_domain_that_holds_a_quorum_is_warned_about(tmp_path: Path) -> None:
    made = layout.create(tmp_path / "c", nodes=3, domains=2, settings=SMALL)
    assert any("domain A holds a quorum" in warning for warning in layout.warnings(made))
    shutil.rmtree(made.folder)


def test_unknown_nodes_and_domains_are_answered_with_the_known_ones(made: layout.Cluster) -> None:
    with pytest.raises(ClusterError, match="no domain 'Z'; there are: A, B, C"):
        made.of_domain("Z")
    with pytest.raises(ClusterError, match="no node 'n9'; there are: n1, n2, n3, n4, n5"):
        made.node("n9")


def test_keys_and_control_are_not_for_others(made: layout.Cluster) -> None:
    for path in (made.folder / "ca" / "ca-key.pem", made.node_folder("n1") / "key.pem"):
        assert path.stat().st_mode & 0o077 == 0
    assert tomllib.loads((made.folder / "cluster.toml").read_text())["version"] == 1


def test_in_namespaces_nodes_and_clients_dial_the_nodes_own_addresses(tmp_path: Path) -> None:
    cluster = layout.create(
        tmp_path / "c", 3, 3, settings={"storage": {"reserve_bytes": 0}}, network="namespaces"
    )
    assert layout.load(tmp_path / "c") == cluster
    made, _ = config.load(cluster.node_folder("n2") / "config.toml")
    assert str(made.listen) == f"10.77.2.2:{cluster.node('n2').listen}"
    assert [member.address for member in made.members] == [member.address for member in cluster.members()]
    assert made.http is not None
    assert made.http.is_loopback
    with pytest.raises(ClusterError, match="unknown links 'string'; there are: relay, namespaces"):
        layout.create(tmp_path / "d", 3, 3, network="string")


# ------------------------------------------------------------------------------------------------ bft


def test_every_node_of_a_bft_cluster_has_a_key_of_its_own_that_the_others_know(tmp_path: Path) -> None:
    made = layout.create(tmp_path / "c", 4, 4, "kv", settings=SMALL, protocol="bft")
    assert layout.load(made.folder) == made
    assert (made.stop, made.lie) == (1, 1)
    known = made.public_keys()
    assert len(set(known.values())) == 4
    committees = set()
    for place in made.nodes:
        key = made.node_folder(place.id) / "signing.pem"
        assert key.stat().st_mode & 0o777 == 0o600
        loaded, warnings = config.load(made.node_folder(place.id) / "config.toml")
        assert warnings == []
        assert {member.id: member.key for member in loaded.members} == known
        committees.add(loaded.bft_committee())
    assert committees == {made.committee()}
    assert made.signing is not None
    assert made.signing.lie == 1
    assert made.signing.key.public not in known.values()


def test_other_ports_leave_the_keys_as_they_are(tmp_path: Path) -> None:
    made = layout.create(tmp_path / "c", 4, 4, "kv", settings=SMALL, protocol="bft")
    moved = layout.move_ports(made.folder)
    assert moved.base_port != made.base_port
    assert moved.public_keys() == made.public_keys()
    assert moved.committee() == made.committee()


def test_a_committee_that_cannot_be_safe_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="It takes 6 members"):
        layout.create(tmp_path / "c", 5, 5, "kv", protocol="bft", stop=2, lie=1)
    assert not (tmp_path / "c").exists()
    six = layout.create(tmp_path / "six", 6, 6, "kv", settings=SMALL, protocol="bft", stop=2, lie=1)
    assert six.committee().quorum == 4
    with pytest.raises(ClusterError, match="--protocol bft"):
        layout.create(tmp_path / "c", 4, 4, "kv", lie=1)
    with pytest.raises(ClusterError, match="the protocol of this cluster is raft"):
        layout.create(tmp_path / "raft", 1, 1, "kv", settings=SMALL).committee()
