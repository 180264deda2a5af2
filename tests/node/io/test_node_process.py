"""A node as a process: real sockets, disks and signals; each way to fail has a clear message and its exit code."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from real_node import RealCluster, RealNode, wait_until

from consensus import wire
from consensus.raft.messages import RequestVote
from node.io import certificates
from node.io.client import NotDone, OutcomeUnknown, open_client
from node.io.config import Address
from node.kv import get, put
from node.protocol import Consistency, Goodbye, Hello, Leader, Ping, Pong, Query, Submit
from sim.local.layout import HOST


@contextlib.contextmanager
def cluster(folder: Path, nodes: int, **settings: Any) -> Iterator[RealCluster]:
    made = RealCluster(folder, nodes, **settings)
    try:
        yield made
    finally:
        made.close()


def ask(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


# -------------------------------------------------------------------------------------- nodes that cannot start


BAD_STARTS: dict[str, list[str]] = {
    "config_missing": ["cannot be read: no such file"],
    "unknown_protocol": ["protocol: 'paxos'", "raft"],
    "unknown_key": ["no_such_key"],
    "port_in_use": ["cannot listen on 127.0.0.1:", "(listen): address already in use", "Choose another port"],
    "http_port_in_use": [
        "cannot listen on 127.0.0.1:",
        "(http): address already in use",
        "Choose another port",
    ],
    "folder_in_use": ["is in use by another process", "stop that process or use another folder"],
    "foreign_folder": ["belongs to node 'n9' of cluster", "give this node its own data folder"],
    "wiped_folder": ["no journal segment", "its disk was wiped", "must come back as a new member"],
    "damaged_journal": ["journal-0000000000000001.seg, offset ", "must not vote"],
    "expired_certificate": ["[tls]", "expired"],
    "wrong_authority": ["[tls]", "authority"],
    "anothers_certificate": ["[tls]", "speaks for node n9, not for n1"],
    "log_folder_missing": ["cannot open the log (no such file or directory)", "[log]"],
}


@pytest.fixture(scope="module")
def bad_starts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RealNode]]:
    """All of them at once: each takes the better part of a second, most of it imports."""
    folder = tmp_path_factory.mktemp("bad")
    with contextlib.ExitStack() as stack:
        started = {}
        for name in BAD_STARTS:
            made = stack.enter_context(cluster(folder / name, 1))
            _spoil(name, made, stack)
            started[name] = made.start("n1")
        yield started


def _spoil(name: str, made: RealCluster, stack: contextlib.ExitStack) -> None:
    home = made.home("n1")
    data = home / "data"
    if name == "config_missing":
        (home / "config.toml").unlink()
    elif name == "unknown_protocol":
        made.write_config("n1", protocol="paxos")
    elif name == "unknown_key":
        made.write_config("n1", no_such_key=1)
    elif name == "port_in_use":
        stack.enter_context(socket.create_server((HOST, made.ports["n1"])))
    elif name == "http_port_in_use":
        stack.enter_context(socket.create_server((HOST, made.http["n1"])))
    elif name == "folder_in_use":
        first = made.start("n1")
        first.wait_for("serving")
    elif name == "foreign_folder":
        shutil.rmtree(data)
        other = RealCluster(made.folder / "other", 1)
        other.home("n1").joinpath("config.toml").unlink()
        other.names, other.ports = ["n9"], {"n9": 1}
        other.home("n9").mkdir()
        other.init("n9")
        shutil.move(other.home("n9") / "data", data)
    elif name == "wiped_folder":
        shutil.rmtree(data)
    elif name == "damaged_journal":
        _damage(made)
    elif name == "expired_certificate":
        _issue(made, "n1", not_before=datetime.now(UTC) - timedelta(days=30), days=10)
    elif name == "wrong_authority":
        certificates.create_authority(made.folder / "ca2", made.cluster)
        _issue(made, "n1", ca=made.folder / "ca2")
    elif name == "anothers_certificate":
        _issue(made, "n9")
    elif name == "log_folder_missing":
        made.write_config("n1", log={"file": "nowhere/log"})


def _issue(made: RealCluster, name: str, ca: Path | None = None, **validity: Any) -> None:
    for file in ("cert.pem", "key.pem"):
        (made.home("n1") / file).unlink()
    certificates.issue_node(ca or made.ca, made.home("n1"), made.cluster, name, **validity)


def _damage(made: RealCluster) -> None:
    """Rot in a batch that later batches say was synced."""
    from consensus.raft import records
    from node.io.disk import FileDisk
    from node.journal import Identity, Journal

    disk = FileDisk(made.home("n1") / "data")
    journal, _ = Journal.open(disk, Identity(made.cluster, "n1"), reserve=0)
    starts = []
    for term in range(1, 4):
        starts.append(journal.mark & ((1 << 48) - 1))
        ops, mark = journal.append([records.hard_state(term, "n1")])
        disk.perform(ops)
        journal.mark_synced(mark)
    disk.close()
    path = made.home("n1") / "data" / "journal-0000000000000001.seg"
    data = bytearray(path.read_bytes())
    data[starts[0] + 40] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", BAD_STARTS)
def test_a_node_that_cannot_start_says_why_and_exits_with_2(
    name: str, bad_starts: dict[str, RealNode]
) -> None:
    node = bad_starts[name]
    assert node.wait() == 2, node.words
    last = [line for line in node.words.splitlines() if not line.startswith("{")]
    assert last[0].startswith("ridethrough: ")
    for words in BAD_STARTS[name]:
        assert words in "\n".join(last)
    assert "Traceback" not in node.words


# ------------------------------------------------------------------------------------- one node, rude visitors


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RealCluster, RealNode]]:
    with cluster(tmp_path_factory.mktemp("alone") / "c", 1, limits={"max_clients": 40}) as made:
        node = made.start("n1")
        node.wait_for("role", role="leader")
        yield made, node


async def _goodbye(frames: Any) -> str:
    """The reason with which the node ends a connection."""
    last: Any = None
    with trio.fail_after(10):
        while messages := await frames.receive():
            last = messages[-1]
    await frames.aclose()
    assert type(last) is Goodbye
    return last.reason


async def _works(made: RealCluster, key: bytes) -> None:
    async with open_client(made.members, made.tls, cluster=made.cluster) as client:
        await client.submit(put(key, b"here"), deadline_s=10)
        answer = await client.query(get(key), Consistency.LINEARIZABLE, patience_ms=5000)
        assert b"here" in answer.result


async def test_http_is_answered_from_the_moment_that_the_node_serves(
    alone: tuple[RealCluster, RealNode],
) -> None:
    made, node = alone
    assert node.events("serving")[0]["http"] == f"{HOST}:{made.http['n1']}"
    status, body = await trio.to_thread.run_sync(ask, made.http["n1"], "/readyz/serve")
    assert (status, body["ready"], body["role"]) == (200, True, "leader")


async def test_rude_visitors_are_shown_out_and_the_node_serves_on(
    alone: tuple[RealCluster, RealNode],
) -> None:
    made, node = alone
    hello = wire.encode(Hello(wire.VERSION, made.cluster, "client"))

    frames = await made.connect("n1")
    await frames.send([hello])
    await frames.stream.send_all(b"\xff\xff\xff\xff and more")
    assert "a frame of 4294967295 bytes is announced" in await _goodbye(frames)

    frames = await made.connect("n1")
    await frames.send([hello, b"\xc1 is no msgpack"])
    assert "holds no message" in await _goodbye(frames)

    frames = await made.connect("n1")
    await frames.send([hello, wire.encode(RequestVote(9, 9, 9))])
    assert await _goodbye(frames) == "a client does not send RequestVote"

    # A client's certificate, or a stranger's node certificate, cannot speak as a peer; no vote is cast.
    certificates.issue_node(made.ca, made.folder / "n9", made.cluster, "n9")
    for who, name in ((None, "client 'test'"), (made.folder / "n9", "node 'n9'")):
        frames = await made.connect("n1", who)
        vote = wire.encode(RequestVote(99, 99, 99))
        await frames.send([wire.encode(Hello(wire.VERSION, made.cluster, "peer")), vote])
        assert await _goodbye(frames) == f"{name} is not a peer of n1"

    # Resets in the middle of everything.
    for said in ([], [hello], [hello, wire.encode(Ping(1))]):
        frames = await made.connect("n1")
        if said:
            await frames.send(said)
        tcp = frames.stream.transport.socket  # type: ignore[attr-defined]
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        tcp.close()

    # No TLS, and TLS without a certificate of ours.
    with socket.create_connection((HOST, made.ports["n1"])) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    certificates.create_authority(made.folder / "ca9", made.cluster)
    certificates.issue_client(made.folder / "ca9", made.folder / "stranger", made.cluster, "test")
    for file in ("cert.pem", "key.pem"):
        assert (made.folder / "stranger" / file).exists()
    frames = await made.connect("n1", made.folder / "stranger")
    with trio.fail_after(10):
        assert await frames.receive() == []
    assert "authority" in (frames.ended or "")
    await frames.aclose()

    await _works(made, b"rude")
    refusals = wait_until(lambda: node.events("connection_refused"), "refusals in the log")
    assert any("does not speak TLS" in line["reason"] or "plain HTTP" in line["reason"] for line in refusals)
    assert node.process.poll() is None
    assert "Traceback" not in node.words
    assert [line["term"] for line in node.events("role")][-1] < 99


async def test_sockets_that_say_nothing_do_not_keep_clients_out(alone: tuple[RealCluster, RealNode]) -> None:
    made, node = alone
    silent = [socket.create_connection((HOST, made.ports["n1"])) for _ in range(100)]
    try:
        await _works(made, b"crowd")
        assert node.wait_for("too_many_greetings")["most"] == 64
    finally:
        for one in silent:
            one.close()


async def test_a_client_beyond_the_limit_is_told_so(alone: tuple[RealCluster, RealNode]) -> None:
    made, _ = alone
    hello = wire.encode(Hello(wire.VERSION, made.cluster, "client"))
    inside = [await made.connect("n1") for _ in range(40)]
    for frames in inside:
        await frames.send([hello])
        assert type((await frames.receive())[0]) is Hello
    late = await made.connect("n1")
    await late.send([hello])
    assert await _goodbye(late) == "40 clients are connected, which is the limit; try another node"
    for frames in inside:
        await frames.aclose()


async def test_no_command_or_query_of_random_bytes_stops_a_node(alone: tuple[RealCluster, RealNode]) -> None:
    import random

    import msgpack

    made, node = alone
    rng = random.Random(7)
    shapes = [None, True, -1, 1 << 63, 1.5, b"k", "k", [], {}, [[]], [1, 2, 3], float("nan")]
    frames = await made.connect("n1")
    await frames.send([wire.encode(Hello(wire.VERSION, made.cluster, "client"))])
    bodies = [rng.randbytes(rng.randrange(40)) for _ in range(150)]
    bodies += [
        msgpack.packb([rng.randrange(7), *rng.choices(shapes, k=rng.randrange(5))]) for _ in range(300)
    ]
    said = [wire.encode(Query(n + 1, n % 4, 0, 1000, body)) for n, body in enumerate(bodies)]
    said += [
        wire.encode(Submit(n, rng.choice([0, 1 << 62]), [rng.randrange(1 << 62)], [body]))
        for n, body in enumerate(bodies)
    ]
    said += [
        wire.encode(Submit(1, 0, [1, 2], [b""])),
        wire.encode(Submit(1, 0, [], [])),
        wire.encode(Ping(77)),
    ]
    for start in range(0, len(said), 50):
        await frames.send(said[start : start + 50])
    with trio.fail_after(20):
        while not any(type(message) is Pong for message in await frames.receive()):
            pass
    await frames.aclose()
    await _works(made, b"fuzz")
    assert node.process.poll() is None
    assert "Traceback" not in node.words


async def test_sigterm_ends_a_node_with_0_though_clients_of_all_sorts_are_connected(
    alone: tuple[RealCluster, RealNode],
) -> None:
    """Runs last: it ends the shared node, then starts it anew."""
    made, node = alone
    hello = wire.encode(Hello(wire.VERSION, made.cluster, "client"))
    # Idle ones, one in the middle of TLS, one that never reads, an HTTP connection kept alive, a half-sent request.
    idle = [await made.connect("n1") for _ in range(20)]
    for frames in idle:
        await frames.send([hello])
        assert type((await frames.receive())[0]) is Hello
    quiet = socket.create_connection((HOST, made.ports["n1"]))
    deaf = await made.connect("n1")
    await deaf.send([hello, *[wire.encode(Query(n, 0, 0, 1000, get(b"k"))) for n in range(1, 400)]])
    kept = http.client.HTTPConnection(HOST, made.http["n1"], timeout=10)
    kept.request("GET", "/livez")
    assert kept.getresponse().read()
    half = socket.create_connection((HOST, made.http["n1"]))
    half.sendall(b"POST /v1/kv/a HTTP/1.1\r\nContent-Le")

    began = time.monotonic()
    node.process.send_signal(signal.SIGTERM)
    heard: list[Any] = []
    with trio.fail_after(10):
        while messages := await idle[0].receive():
            heard += messages
    assert [type(m) for m in heard if type(m) is not Leader] == [Goodbye]
    assert heard[-1].reason == "n1 is leaving"
    code = await trio.to_thread.run_sync(node.wait)
    took = time.monotonic() - began
    assert code == 0, node.words
    assert took < 3, f"{took:.2f} s"
    assert node.events("left")[0]["flushed"] is True
    assert node.words.splitlines()[-1].startswith("{")  # no complaint behind the last line of the log
    for frames in [*idle, deaf]:
        await frames.aclose()
    for one in (quiet, half, kept):
        one.close()

    again = made.start("n1")
    again.wait_for("serving")
    await _works(made, b"again")
    code, took = await trio.to_thread.run_sync(again.stop)
    assert code == 0
    assert took < 2


def test_a_signal_before_the_node_serves_ends_it_with_0(tmp_path: Path) -> None:
    with cluster(tmp_path / "c", 1) as made:
        node = made.start("n1")
        port = made.ports["n1"]
        time.sleep(0.35)
        early = not node.events("serving")
        code, _ = node.stop()
        # Python itself is ended by a signal that comes before the node's first line of code.
        assert code in ((0, -signal.SIGTERM) if early else (0,))
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((HOST, port), timeout=1)


# --------------------------------------------------------------------------------------------------- full disk


async def test_a_disk_that_takes_no_more_stops_the_node_and_nothing_acknowledged_is_lost(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path / "c", 1) as made:
        node = made.start("n1", most_file_bytes=96 << 10)
        acknowledged = []
        async with open_client(made.members, made.tls, cluster=made.cluster) as client:
            with contextlib.suppress(NotDone, OutcomeUnknown):
                for number in range(1000):
                    patience = 9 if number == 0 else 1.5
                    await client.submit(put(b"key%d" % number, bytes(1000)), deadline_s=patience)
                    acknowledged.append(number)
        assert 10 < len(acknowledged) < 100
        assert await trio.to_thread.run_sync(node.wait) == 1
        assert "the disk failed" in node.words
        assert "pwrite failed: EFBIG (File too large)" in node.words
        assert "Nothing more is acknowledged" in node.words
        assert "Traceback" not in node.words
        node = made.start("n1")
        async with open_client(made.members, made.tls, cluster=made.cluster) as client:
            for number in acknowledged:
                answer = await client.query(
                    get(b"key%d" % number), Consistency.LINEARIZABLE, patience_ms=9000
                )
                assert len(answer.result) > 1000
        assert (await trio.to_thread.run_sync(node.stop))[0] == 0


# -------------------------------------------------------------------------------------------------- three nodes


async def test_three_nodes_lose_no_write_while_each_in_turn_is_stopped_and_started(tmp_path: Path) -> None:
    with cluster(tmp_path / "c", 3) as made:
        nodes = {name: made.start(name) for name in made.names}
        async with open_client(made.members, made.tls, cluster=made.cluster) as client:
            await client.wait_connected(leader=True, timeout_s=20)
            written = 0
            done = trio.Event()

            async def write() -> None:
                nonlocal written
                while not done.is_set():
                    await client.submit(put(b"key%d" % written, b"v"), deadline_s=20)
                    written += 1
                    await trio.sleep(0.002)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(write)
                for _ in range(2):
                    first = client.leader or "n1"
                    code, took = await trio.to_thread.run_sync(nodes[first].stop)
                    assert code == 0, nodes[first].words
                    assert took < 2.5, f"the leader took {took:.2f} s to leave"
                    before = written
                    with trio.fail_after(10):
                        while client.leader == first or written < before + 20:
                            await trio.sleep(0.01)
                    nodes[first] = made.start(first)
                    await trio.to_thread.run_sync(nodes[first].wait_for, "serving")
                    with trio.fail_after(10):  # it has caught up: the next one may go
                        while (await client.status(first, timeout_s=10))["applied_index"] < before:
                            await trio.sleep(0.05)
                done.set()
            for number in range(0, written, max(1, written // 50)):
                answer = await client.query(
                    get(b"key%d" % number), Consistency.LINEARIZABLE, patience_ms=5000
                )
                assert answer.result == await _value_of(b"v")
        for node in nodes.values():
            assert (await trio.to_thread.run_sync(node.stop))[0] == 0
            assert "Traceback" not in node.words


async def _value_of(value: bytes) -> bytes:
    import msgpack

    await trio.lowlevel.checkpoint()
    packed: bytes = msgpack.packb([value])
    return packed


def test_the_addresses_of_a_made_cluster_are_its_own(tmp_path: Path) -> None:
    with cluster(tmp_path / "c", 3) as made:
        assert made.load("n2").listen == Address(HOST, made.ports["n2"])
        assert len({*made.ports.values(), *made.http.values()}) == 6
