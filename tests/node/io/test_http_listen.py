"""The HTTP front on real sockets: who may listen where, who is let in, how it begins and ends."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from http_world import FakeNode, ask_for
from structlog.testing import capture_logs

from node.io import certificates
from node.io.config import Address, ConfigError, TlsFiles
from node.io.http import Limits, serve_http
from node.io.metrics import Metrics

CLUSTER = "3f2a9c01"
INFER = "/v2/models/feed/infer"
QUICK = Limits(drain_s=0.3, send_s=0.5)


@asynccontextmanager
async def serving(
    node: FakeNode,
    *,
    tls: TlsFiles | None = None,
    metrics: Metrics | None = None,
    limits: Limits = QUICK,
) -> AsyncIterator[Address]:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, node, Address("127.0.0.1", 0), tls, metrics=metrics, limits=limits)
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


async def in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: Any = None
) -> tuple[int, bytes, Any]:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data)
    response = connection.getresponse()
    return response.status, response.read(), response.headers


async def test_one_connection_carries_many_requests_and_heads_have_no_body() -> None:
    def talk(address: Address) -> None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
        try:
            for _ in range(3):
                status, body, _ = exchange(connection, "POST", INFER, ask_for(5, k=2))
                assert status == 200
                assert json.loads(body)["outputs"][0]["data"] == [30, 20]
            status, body, headers = exchange(connection, "HEAD", "/livez")
            assert (status, body) == (200, b"")
            assert int(headers["content-length"]) > 0
            status, body, headers = exchange(connection, "GET", "/metrics")
            assert (status, body) == (200, b"a_metric 1\n")
            assert headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        finally:
            connection.close()

    metrics = Metrics(process=False)
    async with serving(FakeNode(), metrics=metrics) as address:
        await in_thread(lambda: talk(address))
        counted = metrics.registry.get_sample_value(
            "ridethrough_http_requests_total", {"path": "/v2/models/{name}/infer", "status": "200"}
        )
        assert counted == 3


async def test_a_body_that_is_too_long_is_refused_and_the_reason_arrives() -> None:
    def talk(address: Address) -> None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
        try:
            status, body, _ = exchange(connection, "POST", INFER, b"x" * (3 << 20))
            assert status == 413
            assert "longer than 1048576 bytes" in json.loads(body)["error"]
            assert exchange(connection, "GET", "/livez")[0] == 200
        finally:
            connection.close()

    async with serving(FakeNode()) as address:
        await in_thread(lambda: talk(address))


async def test_a_client_that_is_still_sending_when_it_is_refused_gets_to_read_why() -> None:
    def talk(address: Address) -> bytes:
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            sock.sendall(b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: 2000000\r\n\r\n" % INFER.encode())
            for _ in range(20):
                time.sleep(0.005)  # a slow network; the refusal is decided with the first line
                sock.sendall(b"x" * 100_000)
            return sock.recv(10_000)

    async with serving(FakeNode()) as address:
        assert (await in_thread(lambda: talk(address))).startswith(b"HTTP/1.1 413 ")


async def test_an_endless_body_ends_with_the_connection_and_harms_nobody_else() -> None:
    def flood(address: Address) -> bytes:
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            sock.sendall(
                b"POST /v2/models/feed/infer HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            part = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            try:
                for _ in range(4000):
                    sock.sendall(part)
            except ConnectionError:
                return b""
            raise AssertionError("256 MB were taken in")

    async with serving(FakeNode()) as address:
        await in_thread(lambda: flood(address))
        await in_thread(lambda: _get(address, "/livez"))


def _get(address: Address, path: str) -> bytes:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
    try:
        status, body, _ = exchange(connection, "GET", path)
        assert status == 200
        return body
    finally:
        connection.close()


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is TLS, not HTTP\r\n\r\n",
        b"GET /v2/\xc3\xa9 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"",
    ],
)
async def test_noise_ends_its_own_connection_only(noise: bytes) -> None:
    def talk(address: Address) -> bytes:
        with socket.create_connection((address.host, address.port), timeout=5) as sock:
            try:
                sock.sendall(noise)
                with suppress(OSError):  # the front may have ended it already
                    sock.shutdown(socket.SHUT_WR)
                return sock.recv(100_000)
            except ConnectionError:
                return b""

    with capture_logs():
        async with serving(FakeNode()) as address:
            reply = await in_thread(lambda: talk(address))
            assert not reply or reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
            assert b"Traceback" not in reply
            await in_thread(lambda: _get(address, "/livez"))


async def test_a_request_in_progress_is_answered_before_the_front_ends() -> None:
    node = FakeNode()
    node.hold = trio.Event()
    results: list[tuple[int, Any]] = []

    def talk(address: Address) -> None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
        try:
            status, _, headers = exchange(connection, "POST", INFER, ask_for(1))
            results.append((status, headers["connection"]))
        finally:
            connection.close()

    async with trio.open_nursery() as nursery, serving(node, limits=Limits(drain_s=5)) as address:
        nursery.start_soon(in_thread, lambda: talk(address))
        with trio.fail_after(5):
            while not node.asked:
                await trio.sleep(0.005)
        nursery.start_soon(_later, node.hold)
    assert results == [(200, "close")]


async def _later(event: trio.Event) -> None:
    await trio.sleep(0.05)
    event.set()


async def test_requests_that_do_not_end_and_clients_that_do_not_read_do_not_keep_the_front_from_ending() -> (
    None
):
    node = FakeNode()
    node.hold = trio.Event()
    with socket.socket() as idle, socket.socket() as stuck:
        async with serving(node) as address:
            for sock in (idle, stuck):
                await in_thread(partial(sock.connect, (address.host, address.port)))
            body = json.dumps(ask_for(1)).encode()
            stuck.sendall(
                b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (INFER.encode(), len(body))
                + body
            )
            while not node.asked:
                await trio.sleep(0.005)
            ended = trio.current_time()
        assert trio.current_time() - ended < 2


async def test_a_client_that_does_not_read_loses_its_connection() -> None:
    node = FakeNode()
    node.known = list(range(10_000))

    body = json.dumps(ask_for(*range(10), k=1000)).encode()
    ask = b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (INFER.encode(), len(body)) + body
    metrics = Metrics(process=False)

    def connections() -> float | None:
        return metrics.registry.get_sample_value("ridethrough_http_connections")

    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        async with serving(node, metrics=metrics) as address:
            await in_thread(lambda: sock.connect((address.host, address.port)))
            await in_thread(lambda: sock.sendall(ask * 150))
            with trio.fail_after(5):
                while connections() != 1:
                    await trio.sleep(0.005)
            with trio.fail_after(4):  # less than a connection may idle
                while connections() != 0:
                    await trio.sleep(0.005)
    assert len(node.asked) < 1500, "the answers were held back, not piled up"


async def test_the_place_of_a_client_that_left_is_free_at_once() -> None:
    metrics = Metrics(process=False)

    def connections() -> float | None:
        return metrics.registry.get_sample_value("ridethrough_http_connections")

    async with serving(FakeNode(), metrics=metrics) as address:
        for _ in range(20):
            await in_thread(lambda: _get(address, "/livez"))
        with trio.fail_after(1):
            while connections() != 0:
                await trio.sleep(0.005)


async def test_connections_beyond_the_bound_wait_for_their_turn_and_get_it() -> None:
    def talk(address: Address) -> None:
        with socket.create_connection((address.host, address.port), timeout=5) as first:
            first.sendall(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
            head = first.recv(10_000)
            assert b"connection: close" in head.lower(), "the last place is given back after one request"
            assert json.loads(_get(address, "/livez"))["live"]

    async with serving(FakeNode(), limits=Limits(connections=1, drain_s=0.2)) as address:
        await in_thread(lambda: talk(address))


async def test_a_port_in_use_is_named() -> None:
    async with serving(FakeNode()) as address:
        with pytest.raises(OSError, match=rf"cannot listen on {address} \(http\): address already in use"):
            await serve_http(FakeNode(), address, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.test"])
async def test_plain_http_is_refused_off_loopback(host: str) -> None:
    with pytest.raises(ConfigError, match="plain HTTP is refused"):
        await serve_http(FakeNode(), Address(host, 0), None)


async def test_a_name_counts_as_loopback_only_if_it_is_bound_there(monkeypatch: pytest.MonkeyPatch) -> None:
    listeners = await trio.open_tcp_listeners(0, host="0.0.0.0")

    async def misled(*args: Any, **kwargs: Any) -> Any:
        return listeners

    monkeypatch.setattr(trio, "open_tcp_listeners", misled)
    with pytest.raises(ConfigError, match=r"localhost:0 \(0\.0\.0\.0:\d+\) is not loopback"):
        await serve_http(FakeNode(), Address("localhost", 0), None)
    assert listeners[0].socket.fileno() == -1


# ------------------------------------------------------------------------------------------------------------ TLS


def _files(folder: Path, issued: certificates.Issued) -> TlsFiles:
    return TlsFiles(folder / "ca.pem", issued.certificate, issued.key)


@pytest.fixture
def issue(tmp_path: Path) -> Callable[[str], dict[str, TlsFiles]]:
    def make(name: str) -> dict[str, TlsFiles]:
        ca = tmp_path / name
        certificates.create_authority(ca, CLUSTER)
        node = certificates.issue_node(ca, tmp_path / f"{name}-n1", CLUSTER, "n1", ["127.0.0.1"])
        client = certificates.issue_client(ca, tmp_path / f"{name}-c", CLUSTER, "curl")
        return {"node": _files(ca, node), "client": _files(ca, client)}

    return make


def _context(trust: TlsFiles, own: TlsFiles | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(trust.ca))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context


def _get_tls(address: Address, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=5, context=context)
    try:
        return exchange(connection, "GET", "/readyz/serve")[0]
    finally:
        connection.close()


async def test_with_tls_only_the_clusters_clients_get_in_and_others_learn_why(
    issue: Callable[[str], dict[str, TlsFiles]],
) -> None:
    files, strangers = issue("ours"), issue("theirs")
    with capture_logs() as logs:
        async with serving(FakeNode(), tls=files["node"]) as address:
            assert (
                await in_thread(lambda: _get_tls(address, _context(files["client"], files["client"]))) == 200
            )
            with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
                await in_thread(lambda: _get_tls(address, _context(files["client"], None)))
            with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca|decrypt.error"):
                await in_thread(lambda: _get_tls(address, _context(files["client"], strangers["client"])))
            with pytest.raises((http.client.HTTPException, OSError)):
                await in_thread(lambda: _get(address, "/livez"))
            assert (
                await in_thread(lambda: _get_tls(address, _context(files["client"], files["client"]))) == 200
            )
    refused = [entry["reason"] for entry in logs if entry["event"] == "http_connection_refused"]
    assert len(refused) == 3
    assert "no certificate" in refused[0]
    assert "plain HTTP" in refused[2]


async def test_missing_certificates_are_named_before_anything_listens(tmp_path: Path) -> None:
    files = TlsFiles(tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(certificates.CertificateError, match=r"ca\.pem: no such file"):
        await serve_http(FakeNode(), Address("127.0.0.1", 0), files)
