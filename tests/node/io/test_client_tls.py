"""The client over real sockets and mutual TLS, and its blocking face."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from client_peer import CLUSTER, World

from node.io import certificates, frames
from node.io.certificates import CertificateError
from node.io.client import ClientError, NodeUnavailable, NotDone, OutcomeUnknown, open_client
from node.io.client_sync import SyncClient
from node.io.config import Address, Member, TlsFiles
from node.protocol import Consistency, Submit


class Served:
    """A `World` of two nodes behind real listeners, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        certificates.create_authority(folder / "ca", CLUSTER)
        client = certificates.issue_client(folder / "ca", folder / "client", CLUSTER, "test")
        self.tls = TlsFiles(folder / "ca" / "ca.pem", client.certificate, client.key)
        self.world = World("A", "B")
        self.members: list[Member] = []
        self._folder = folder
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,))
        self._thread.start()
        assert self._ready.wait(10)

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            for member in self.world.members:
                issued = certificates.issue_node(
                    self._folder / "ca", self._folder / member.id, CLUSTER, member.id
                )
                context = frames.server_context(
                    self._folder / "ca" / "ca.pem", issued.certificate, issued.key
                )
                peer = self.world.peers[member.id]

                async def handle(stream: trio.SocketStream, context=context, peer=peer) -> None:  # type: ignore[no-untyped-def]
                    try:
                        accepted = await frames.accept(stream, context, cluster=CLUSTER)
                    except frames.HandshakeError:
                        return
                    assert accepted.identity is not None
                    await peer.serve(accepted)

                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                nursery.start_soon(trio.serve_listeners, handle, listeners)
                port = listeners[0].socket.getsockname()[1]
                self.members.append(replace(member, address=Address("127.0.0.1", port)))
            self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
            self._ready.set()
            await self._stop.wait()
            nursery.cancel_scope.cancel()

    def close(self) -> None:
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path)
    yield served
    served.close()


async def test_commands_and_queries_go_over_tls(served: Served) -> None:
    async with open_client(served.members, served.tls, cluster=CLUSTER) as client:
        await client.wait_connected(leader=True)
        results = await client.submit_many([b"%d" % i for i in range(500)])
        assert [result.index for result in results] == list(range(1, 501))
        assert (await client.query(b"q", Consistency.LINEARIZABLE)).index == 7
        assert await client.status("n2") == {"node": "n2"}


async def test_a_wrong_certificate_and_a_wrong_address_are_told(served: Served, tmp_path: Path) -> None:
    certificates.create_authority(tmp_path / "other", CLUSTER)
    stranger = certificates.issue_client(tmp_path / "other", tmp_path / "stranger", CLUSTER, "x")
    swapped = [
        replace(served.members[0], address=served.members[1].address),
        replace(served.members[1], address=served.members[0].address),
    ]
    async with open_client(swapped, served.tls, cluster=CLUSTER) as client:
        with pytest.raises(NodeUnavailable, match="node 'n2' answers behind this address"):
            await client.wait_connected(timeout_s=0.5)
    other = TlsFiles(served.tls.ca, stranger.certificate, stranger.key)
    async with open_client(served.members, other, cluster=CLUSTER) as client:
        with pytest.raises(NodeUnavailable, match="does not know the authority of our certificate"):
            await client.wait_connected(timeout_s=0.5)
    async with open_client(served.members, served.tls, cluster="abcdef") as client:
        with pytest.raises(NodeUnavailable, match=f"belongs to cluster {CLUSTER}, not to abcdef"):
            await client.wait_connected(timeout_s=0.5)
    with pytest.raises(CertificateError, match="no such file"):
        async with open_client(
            served.members, TlsFiles(tmp_path / "x", tmp_path / "y", tmp_path / "z"), cluster=CLUSTER
        ):
            pass


def test_the_blocking_face_does_the_same(served: Served) -> None:
    with SyncClient(served.members, served.tls, cluster=CLUSTER) as client:
        client.wait_connected(leader=True)
        assert client.submit(b"a").result == b"did a"
        assert [result.result for result in client.submit_many([b"b", b"c"])] == [b"did b", b"did c"]
        assert client.query(b"q", prefer="n2").node == "n2"
        assert client.status("n1") == {"node": "n1"}
        assert (client.leader, client.connected) == ("n1", ("n1", "n2"))
    assert served.world.log == [(101, 1, b"a"), (101, 2, b"b"), (101, 3, b"c")]
    with pytest.raises(ClientError, match="closed"):
        client.submit(b"d")
    client.close()
    assert not any(thread.name.startswith("ridethrough-client") for thread in threading.enumerate())


def test_errors_come_out_of_the_blocking_face_as_they_are(served: Served, tmp_path: Path) -> None:
    served.world.peers["n1"].scripts[Submit] = lambda peer, message: []
    with SyncClient(served.members, served.tls, cluster=CLUSTER) as client:
        with pytest.raises(OutcomeUnknown, match="deadline"):
            client.submit(b"a", deadline_s=0.2)
        served.world.lead(None, tell=False)
        with pytest.raises(KeyError):
            client.status("n9")
    with pytest.raises(CertificateError):
        SyncClient(served.members, TlsFiles(tmp_path, tmp_path, tmp_path), cluster=CLUSTER)


def test_closing_ends_calls_of_other_threads(served: Served) -> None:
    served.world.peers["n1"].scripts[Submit] = lambda peer, message: []
    client = SyncClient(served.members, served.tls, cluster=CLUSTER)
    client.wait_connected(leader=True)
    caught: list[Exception] = []

    def submit() -> None:
        try:
            client.submit(b"a")
        except ClientError as error:
            caught.append(error)

    thread = threading.Thread(target=submit)
    thread.start()
    while not any(type(message) is Submit for message in served.world.peers["n1"].heard):
        thread.join(0.01)
    client.close()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(caught[0], ClientError)
    assert not isinstance(caught[0], NotDone)


def test_ctrl_c_ends_a_call_and_leaves_the_client_usable(served: Served) -> None:
    held = threading.Event()
    main = threading.main_thread().ident
    assert main is not None

    def hold(peer, message):  # type: ignore[no-untyped-def]
        peer.scripts.clear()
        held.set()
        return []

    with SyncClient(served.members, served.tls, cluster=CLUSTER) as client:
        client.wait_connected(leader=True)
        served.world.peers["n1"].scripts[Submit] = hold

        def press() -> None:
            held.wait(10)
            signal.pthread_kill(main, signal.SIGINT)

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.submit(b"a")
        thread.join()
        assert client.submit(b"b").result == b"did b"
