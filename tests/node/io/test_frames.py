"""Frames, outbox and mutual TLS: what arrives, what is refused, and with which words."""

from __future__ import annotations

import itertools
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import wire
from node.io import certificates, frames
from node.io.frames import FrameError, FrameStream, HandshakeError, Outbox
from node.protocol import Goodbye, Hello, Ping, Pong

CLUSTER = "3f2a9c01"


def framed(*messages: Any) -> bytes:
    bodies = [wire.encode(message) for message in messages]
    return b"".join(struct.pack(">I", len(body)) + body for body in bodies)


# ------------------------------------------------------------------------------------------------ frames


@settings(max_examples=50, deadline=None)
@given(
    stamps=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_messages_arrive_whole_and_in_order_however_the_bytes_were_cut(
    stamps: list[int], cuts: list[int]
) -> None:
    async def check() -> None:
        near, far = trio.testing.memory_stream_pair()
        stream = FrameStream(near)
        data = framed(*map(Ping, stamps))
        edges = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
        got: list[Any] = []

        async def write() -> None:
            for start, end in itertools.pairwise(edges):
                await far.send_all(data[start:end])
                await trio.testing.wait_all_tasks_blocked()
            await far.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            while messages := await stream.receive():
                got += messages
        assert got == list(map(Ping, stamps))
        assert stream.ended == "closed by the other side"

    trio.run(check)


async def test_one_read_returns_every_message_it_brought() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(framed(*(Ping(i) for i in range(500))))
    assert len(await FrameStream(near).receive()) == 500


async def test_one_send_is_one_write() -> None:
    near, far = trio.testing.memory_stream_pair()
    await FrameStream(near).send([wire.encode(Ping(1)), wire.encode(Pong(2))])
    assert bytes(await far.receive_some()) == framed(Ping(1), Pong(2))


async def test_a_frame_too_long_is_refused_by_its_length_alone() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(struct.pack(">I", 1001))
    with pytest.raises(FrameError, match="1001 bytes is announced; the limit is 1000"):
        await FrameStream(near, max_frame=1000).receive()


async def test_a_body_too_long_is_not_sent() -> None:
    near, far = trio.testing.memory_stream_pair()
    with pytest.raises(FrameError, match="11 bytes cannot be sent; the limit is 10"):
        await FrameStream(near, max_frame=10).send([b"x" * 10, b"x" * 11])
    await near.aclose()
    assert await far.receive_some() == b""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xff\xff\xff", "holds no message"),
        (b"", "not msgpack"),
        (b"\x92\xcd\x03\xe7\x01", "unknown message kind 999"),
        (b"\x92\x29\xa1x", "Ping.stamp: bad value 'x'"),
    ],
)
async def test_garbage_is_refused_after_the_good_messages_before_it(body: bytes, why: str) -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(framed(Ping(7)) + struct.pack(">I", len(body)) + body + framed(Ping(8)))
    stream = FrameStream(near)
    assert await stream.receive() == [Ping(7)]
    for _ in range(2):
        with pytest.raises(FrameError, match=why):
            await stream.receive()


async def test_a_stream_that_ends_inside_a_frame_says_so() -> None:
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(framed(Ping(7))[:-1])
    await far.aclose()
    stream = FrameStream(near)
    assert await stream.receive() == []
    assert "in the middle of a frame" in str(stream.ended)


def test_a_frame_in_ten_thousand_pieces_costs_no_quadratic_copying() -> None:
    class Pieces(trio.abc.ReceiveStream):
        def __init__(self, data: bytes, size: int) -> None:
            self.pieces = [data[i : i + size] for i in range(0, len(data), size)]
            self.pieces.reverse()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return self.pieces.pop() if self.pieces else b""

        async def aclose(self) -> None:
            pass

    def copied(count: int) -> float:
        data = framed(Goodbye("x" * (count * 400)))
        stream = FrameStream(Pieces(data, 400))  # type: ignore[arg-type]
        start = datetime.now(UTC)
        assert len(trio.run(stream.receive)) == 1
        return (datetime.now(UTC) - start).total_seconds()

    small = min(copied(1000) for _ in range(3))
    large = min(copied(10_000) for _ in range(3))
    assert large < 60 * small + 0.05  # linear is 10, quadratic 100


# ------------------------------------------------------------------------------------------------ outbox


async def test_an_outbox_sends_everything_queued_in_one_write() -> None:
    near, far = trio.testing.memory_stream_pair()
    outbox = Outbox(FrameStream(near))
    for i in range(100):
        assert outbox.put(wire.encode(Ping(i)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        received = FrameStream(far)
        assert await received.receive() == [Ping(i) for i in range(100)]
        outbox.put(wire.encode(Ping(100)))
        assert await received.receive() == [Ping(100)]
        outbox.finish()
    assert (outbox.sent, outbox.dropped, outbox.queued) == (101, 0, 0)


async def test_a_full_outbox_drops_and_counts_and_never_waits() -> None:
    near, _far = trio.testing.memory_stream_pair()
    outbox = Outbox(FrameStream(near), limit=10)
    assert outbox.put(b"x" * 6)
    assert not outbox.put(b"x" * 6)
    assert outbox.put(b"x" * 4)
    assert (outbox.dropped, outbox.queued) == (1, 10)


async def test_bytes_being_written_count_against_the_bound() -> None:
    near, far = trio.testing.lockstep_stream_pair()
    outbox = Outbox(FrameStream(near), limit=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.run)
        assert outbox.put(b"x" * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert not outbox.put(b"x")  # nobody reads yet
        with trio.move_on_after(5):
            got = b""
            while len(got) < 14:
                got += await far.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert outbox.put(b"x")
        nursery.cancel_scope.cancel()


async def test_the_outbox_of_a_broken_connection_ends_and_takes_nothing_more() -> None:
    near, far = trio.testing.memory_stream_pair()
    outbox = Outbox(FrameStream(near))
    await far.aclose()
    outbox.put(b"x")
    with trio.fail_after(5):
        await outbox.run()
    assert not outbox.put(b"x")


# ------------------------------------------------------------------------------------------------ TLS


class Pki:
    """An authority with nodes n1, n2 and a client."""

    def __init__(self, folder: Path, cluster: str = CLUSTER) -> None:
        self.folder = folder
        self.cluster = cluster
        certificates.create_authority(folder / "ca", cluster)
        self.n1 = certificates.issue_node(folder / "ca", folder / "n1", cluster, "n1")
        self.client = certificates.issue_client(folder / "ca", folder / "c", cluster, "drill")

    def server(self, who: certificates.Issued | None = None) -> Any:
        who = who or self.n1
        return frames.server_context(self.folder / "ca" / "ca.pem", who.certificate, who.key)

    def connector(self, who: certificates.Issued | None = None) -> Any:
        who = who or self.client
        return frames.client_context(self.folder / "ca" / "ca.pem", who.certificate, who.key)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def listening(context: Any, results: list[Any], cluster: str = CLUSTER) -> AsyncIterator[int]:
    """A server that notes identities and refusals, and echoes frames."""

    async def handle(stream: trio.SocketStream) -> None:
        try:
            accepted = await frames.accept(stream, context, cluster=cluster, timeout_s=2)
        except HandshakeError as error:
            results.append(str(error))
            return
        results.append(accepted.identity)
        while messages := await accepted.receive():
            await accepted.send([wire.encode(message) for message in messages])
        await accepted.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        yield listeners[0].socket.getsockname()[1]
        with trio.move_on_after(5):
            while not results:
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()


async def test_both_sides_learn_who_the_other_is(pki: Pki) -> None:
    results: list[Any] = []
    async with listening(pki.server(), results) as port:
        stream = await frames.connect("127.0.0.1", port, pki.connector(), cluster=CLUSTER, expect_node="n1")
        assert stream.identity == frames.Identity("node", CLUSTER, "n1")
        await stream.send([wire.encode(Hello(1, CLUSTER, "client"))])
        assert await stream.receive() == [Hello(1, CLUSTER, "client")]
        await stream.aclose()
    assert results == [frames.Identity("client", CLUSTER, "drill")]


async def test_the_connection_is_tls_1_3_and_does_not_delay_small_packets(pki: Pki) -> None:
    async with listening(pki.server(), []) as port:
        stream = await frames.connect("127.0.0.1", port, pki.connector(), cluster=CLUSTER, expect_node="n1")
        secured: Any = stream.stream
        assert secured.version() == "TLSv1.3"
        tcp = secured.transport
        assert tcp.getsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY) != 0
        await stream.aclose()


async def refusal(context: Any, connector: Any, **kwargs: Any) -> tuple[str, str]:
    """(what the connecting side is told, what the accepting side is told)."""
    results: list[Any] = []
    told = ""
    async with listening(context, results) as port:
        try:
            stream = await frames.connect(
                "127.0.0.1", port, connector, **{"cluster": CLUSTER, "expect_node": "n1", **kwargs}
            )
            with trio.fail_after(5):
                messages = await stream.receive()
            told = messages[0].reason if messages else str(stream.ended)
            await stream.aclose()
        except HandshakeError as error:
            told = str(error)
    return told, str(results[0])


async def test_a_certificate_of_another_authority_is_refused_on_both_sides(pki: Pki, tmp_path: Path) -> None:
    stranger = Pki(tmp_path, "abcdef")
    told, heard = await refusal(pki.server(), stranger.connector())
    assert "another authority (wrong CA)" in told
    own_ca = frames.client_context(
        pki.folder / "ca" / "ca.pem", stranger.client.certificate, stranger.client.key
    )
    told, heard = await refusal(pki.server(), own_ca)
    assert "does not know the authority of our certificate" in told
    assert "another authority (wrong CA)" in heard


async def test_an_authority_made_anew_under_the_same_name_is_another_one(pki: Pki, tmp_path: Path) -> None:
    told, _ = await refusal(pki.server(), Pki(tmp_path).connector())
    assert "another authority (wrong CA)" in told


async def test_expired_certificates_are_refused_and_called_expired(pki: Pki, tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=3)
    node = certificates.issue_node(pki.folder / "ca", tmp_path / "n1", CLUSTER, "n1", days=1, not_before=past)
    client = certificates.issue_client(
        pki.folder / "ca", tmp_path / "c", CLUSTER, "c", days=1, not_before=past
    )
    told, _ = await refusal(pki.server(node), pki.connector())
    assert "certificate has expired" in told
    told, heard = await refusal(pki.server(), pki.connector(client))
    assert "it has expired" in told
    assert "certificate has expired" in heard


async def test_another_node_behind_the_address_is_named(pki: Pki) -> None:
    told, _ = await refusal(pki.server(), pki.connector(), expect_node="n2")
    assert told.startswith("n2 at 127.0.0.1:")
    assert "node 'n1' answers behind this address" in told


async def test_a_clients_certificate_cannot_serve(pki: Pki) -> None:
    told, _ = await refusal(pki.server(pki.client), pki.connector(), expect_node="drill")
    assert "a client's certificate cannot serve" in told


async def test_another_cluster_under_the_same_authority_is_refused(pki: Pki) -> None:
    told, _ = await refusal(pki.server(), pki.connector(), cluster="abcdef")
    assert "belongs to cluster 3f2a9c01, not to abcdef" in told
    results: list[Any] = []
    async with listening(pki.server(), results, cluster="abcdef") as port:
        stream = await frames.connect("127.0.0.1", port, pki.connector(), cluster=CLUSTER, expect_node="n1")
        (goodbye,) = await stream.receive()
        await stream.aclose()
    assert "belongs to cluster 3f2a9c01, not to abcdef" in goodbye.reason


async def test_who_shows_no_certificate_is_refused(pki: Pki) -> None:
    bare = ssl.create_default_context(cafile=str(pki.folder / "ca" / "ca.pem"))
    bare.check_hostname = False
    told, heard = await refusal(pki.server(), bare)
    assert "demands a certificate" in told
    assert "showed no certificate" in heard


async def test_tls_1_2_is_refused(pki: Pki) -> None:
    old = pki.connector()
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    told, heard = await refusal(pki.server(), old)
    assert "TLS 1.3" in told
    assert "TLS 1.3" in heard


async def test_plain_http_on_the_port_is_called_by_its_name(pki: Pki) -> None:
    results: list[Any] = []
    async with listening(pki.server(), results) as port:
        plain = await trio.open_tcp_stream("127.0.0.1", port)
        await plain.send_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(5):
            while await plain.receive_some():
                pass
        await plain.aclose()
    assert "plain HTTP" in results[0]


async def test_nobody_listening_and_nobody_answering_say_so(pki: Pki) -> None:
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(
            HandshakeError, match=f"n1 at 127.0.0.1:{port}: cannot connect: connection refused"
        ):
            await frames.connect("127.0.0.1", port, pki.connector(), cluster=CLUSTER, expect_node="n1")
        unused.listen(1)
        with pytest.raises(HandshakeError, match=r"within 0\.05 s"):
            await frames.connect(
                "127.0.0.1", port, pki.connector(), cluster=CLUSTER, expect_node="n1", timeout_s=0.05
            )
