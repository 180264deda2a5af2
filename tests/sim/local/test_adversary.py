"""A lying node as a process: it says two things, the others hold the proof, go on without it and count nothing that it counts."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.bft.core import BftCore
from consensus.bft.messages import Batch, Vote
from node.effects import Effects
from node.io import config
from node.io.client import Client, open_client
from node.io.server import Node, NodeFailed
from node.kv import get, put
from node.protocol import Consistency
from sim.byzantine.strategy import Own, Send, Strategy
from sim.local import adversary, control, layout, operate, tables
from sim.local.adversary import LyingNode, make_strategy
from sim.local.control import Control
from sim.local.layout import Cluster, ClusterError
from sim.local.lies import LIES_FILE, Lies, read_lies

SETTINGS = {"storage": {"reserve_bytes": 0}, "timing": {"round_ms": 100, "idle_ms": 50}}


def make(folder: Path, liars: dict[str, str] | None = None, **keys: Any) -> Cluster:
    return layout.create(folder, 4, 4, "kv", settings=SETTINGS, protocol="bft", liars=liars, **keys)


@contextlib.contextmanager
def up(cluster: Cluster) -> Iterator[None]:
    control.start(cluster.folder, die_with_parent=True)
    try:
        yield
    finally:
        Control(cluster.folder).down()


async def settled(cluster: Cluster, blamed: str) -> dict[str, Any]:
    """Writes go through, and the honest nodes hold evidence; their last word of it."""
    statuses: dict[str, Any] = {}
    async with open_client(
        cluster.members(), cluster.client_tls(), cluster=cluster.cluster, signing=cluster.signing
    ) as client:
        await client.wait_connected(4, timeout_s=20)
        with trio.fail_after(20):
            number = 0
            while not await witnesses(cluster, client, blamed, statuses) or number < 5:
                number += 1
                await client.submit(put(b"k", b"%d" % number), deadline_s=15)
            answer = await client.query(get(b"k"), Consistency.LINEARIZABLE, patience_ms=10_000)
        assert b"%d" % number in answer.result
    return statuses


async def witnesses(cluster: Cluster, client: Client, blamed: str, statuses: dict[str, Any]) -> bool:
    """Whether two honest nodes hold evidence. None of them may hold any against anybody else."""
    for place in cluster.nodes:
        if not place.lies:
            statuses[place.id] = await client.status(place.id, timeout_s=5)
    held = {node: {piece["node"] for piece in said["facts"]["evidence"]} for node, said in statuses.items()}
    assert all(who <= {blamed} for who in held.values()), held
    return sum(bool(who) for who in held.values()) >= 2


def test_a_node_that_equivocates_is_found_out_and_stops_nobody(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c", {"n2": "equivocate"})
    with up(cluster):
        trio.run(settled, cluster, "n2")
        shown = operate.status(cluster.folder)
        assert shown["nodes"]["n2"]["lies"] == "equivocate"
        assert shown["nodes"]["n1"]["lies"] is None
        assert any("evidence against n2" in words for words in tables.evidence(shown))
        with pytest.raises(ClusterError, match="`down` first"):
            operate.up(cluster.folder, byzantine="none")
    told = read_lies(cluster.node_folder("n2") / LIES_FILE)
    assert told
    assert told.keys() <= {"Proposal", "Vote"}
    assert not (cluster.node_folder("n1") / LIES_FILE).exists()
    report = operate.verify(cluster.folder)
    assert report.passed
    assert sorted(report.nodes) == ["n1", "n3", "n4"]


# -------------------------------------------------------------------------------------- what stands between


class Told(Strategy):
    """Says votes twice, batches never, and hears nothing of n3; of its own accord, one thing a time."""

    name = "told"

    def outgoing(self, dest: str, message: Any, now: int) -> list[Send]:
        return [(dest, message)] * (2 if type(message) is Vote else 0)

    def incoming(self, sender: str, message: Any, now: int) -> list[Send]:
        return [] if sender == "n3" else [(sender, message), ("n4", message)]

    def replying(self, message: Any, now: int) -> list[Any]:
        return ["no"] if message == "yes" else [message]


@pytest.fixture
def liar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LyingNode]:
    cluster = make(tmp_path / "c")
    monkeypatch.setitem(adversary.STRATEGIES, "told", Told)
    node_config, _ = config.load(cluster.node_folder("n2") / "config.toml")
    node = LyingNode(node_config, lambda: None, "told", 1, tmp_path / LIES_FILE)
    yield node
    node.disk.close()


def test_what_the_node_would_say_passes_through_the_strategy_and_lies_are_counted_by_kind(
    liar: LyingNode, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    carried: list[Effects] = []
    monkeypatch.setattr(Node, "_carry_out", lambda self, effects: carried.append(effects))
    vote, batch = Vote(1, 1, b"b" * 32, b"s" * 64), Batch("n2", 1, b"x")
    effects = Effects()
    effects.peers = [("n1", vote), ("n3", batch), ("stranger", vote)]
    effects.bulk = [("n4", batch)]
    effects.clients = [("c", "yes"), ("c", "perhaps")]
    liar._carry_out(effects)
    assert carried[0].peers == [("n1", vote), ("n1", vote)]  # nobody else can be reached
    assert carried[0].bulk == []
    assert carried[0].clients == [("c", "no"), ("c", "perhaps")]
    liar._lies.write()
    assert read_lies(tmp_path / LIES_FILE) == {"Batch": 2, "Vote": 2, "str": 1}


def test_what_the_node_would_hear_passes_through_the_strategy(
    liar: LyingNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, list[Any]]] = []
    monkeypatch.setattr(Node, "_from_peer", lambda self, peer, batch: heard.append((peer, batch)))
    liar._from_peer("n1", ["a", "b"])
    liar._from_peer("n3", ["c"])
    assert heard == [("n1", ["a"]), ("n4", ["a"]), ("n1", ["b"]), ("n4", ["b"])]


def test_a_liar_signs_with_its_own_key_and_has_the_committee_and_paces_of_its_node(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c")
    loaded, _ = config.load(cluster.node_folder("n2") / "config.toml")
    node = Node(loaded)
    try:
        core = node.replica.core
        assert isinstance(core, BftCore)
        own: Own = make_strategy(loaded, core, "equivocate", 7).own
        assert (own.node, own.committee, own.timing) == ("n2", cluster.committee(), core.timing)
        signature = own.sign(b"words")
        assert own.keyring.verify("n2", b"words", signature)
        assert not own.keyring.verify("n1", b"words", signature)
        assert own.rng.random() == random.Random(7).random()
    finally:
        node.disk.close()


def test_a_node_that_is_believed_must_not_lie(tmp_path: Path) -> None:
    cluster = layout.create(tmp_path / "c", 1, 1, "kv", settings={"storage": {"reserve_bytes": 0}})
    loaded, _ = config.load(cluster.node_folder("n1") / "config.toml")
    with pytest.raises(NodeFailed, match="believes nodes"):
        LyingNode(loaded, lambda: None, "silent", 1, tmp_path / LIES_FILE)


def test_lies_are_counted_over_all_lives_of_a_node_and_a_file_that_is_none_counts_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / LIES_FILE
    assert read_lies(path) == {}
    for _ in range(2):
        lies = Lies(path, "late", 3)
        lies.add("Vote", 2)
        lies.write()
    assert read_lies(path) == {"Vote": 4}
    assert json.loads(path.read_text())["strategy"] == "late"
    path.write_text("[]")
    assert read_lies(path) == {}


def test_who_lies_stays_in_the_folder_until_it_is_said_anew(tmp_path: Path) -> None:
    cluster = make(tmp_path / "c", {"n2": "late"})
    assert layout.load(cluster.folder).liars == {"n2": "late"}
    moved = layout.move_ports(cluster.folder)
    assert moved.liars == {"n2": "late"}
    assert layout.set_liars(cluster.folder, {"n4": "silent"}).liars == {"n4": "silent"}
    assert layout.set_liars(cluster.folder, {}).liars == {}
    with pytest.raises(ClusterError, match="stands 1"):
        layout.set_liars(cluster.folder, {"n1": "late", "n2": "late"})
    with pytest.raises(ClusterError, match="stands 1"):
        make(tmp_path / "d", {"n1": "late", "n2": "late"})
    assert not (tmp_path / "d").exists()
    with pytest.raises(ClusterError, match="did you mean 'silent'"):
        operate.up(tmp_path / "e", nodes=4, domains=4, protocol="bft", byzantine="2:silence")
    assert not (tmp_path / "e").exists()
