"""The HTTP thread beside a node, and a whole node inside a test: no process, no signal, nothing global."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from real_node import RealCluster

from node.disk import DiskError, Op
from node.io import server
from node.io.client import NotDone, OutcomeUnknown, open_client
from node.io.server import Node, NodeFailed
from node.kv import put
from sim.local.layout import HOST


@asynccontextmanager
async def running(made: RealCluster, name: str = "n1") -> AsyncIterator[Node]:
    """A node in this process; it is told to leave at the end, and must have left in order."""
    node = Node(made.load(name))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        try:
            yield node
        finally:
            node.leave()


def get(port: int, path: str = "/livez") -> tuple[int, Any]:
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


async def fetch(port: int, path: str = "/livez") -> tuple[int, Any]:
    return await trio.to_thread.run_sync(get, port, path)


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name in ("http", "journal", "snapshots"))


def left() -> list[str]:
    """The node's threads that do not end. `run` waits until they touch nothing more, a moment before they are gone."""
    for thread in threading.enumerate():
        if thread.name in ("http", "journal", "snapshots"):
            thread.join(5)
    return threads()


async def failing(run: Callable[[], Any]) -> NodeFailed:
    """How a node's run ended."""
    with pytest.raises(NodeFailed) as caught, trio.fail_after(10):
        await run()
    return caught.value


async def wait_for_leader(node: Node) -> None:
    with trio.fail_after(10):
        while node.replica.view.role != "leader":
            await trio.sleep(0.01)


async def test_a_node_lives_in_a_test_and_leaves_nothing_behind(tmp_path: Path) -> None:
    made = RealCluster(tmp_path / "c", 1)
    for _ in range(2):  # the second time in the same folder: the first has given it free
        async with running(made) as node:
            status, body = await fetch(made.http["n1"])  # at once: the port holds back whoever comes early
            assert (status, body["node"]) == (200, "n1")
            await wait_for_leader(node)
            status, body = await fetch(made.http["n1"], "/status")
            assert body["role"] == "leader"
            assert body["stopping"] is False
            assert threads() == ["http", "journal", "snapshots"]
        assert left() == []


async def test_what_waits_for_a_node_to_be_complete_is_told_once(tmp_path: Path) -> None:
    made = RealCluster(tmp_path / "c", 1)
    told: list[float] = []
    node = Node(made.load("n1"), lambda: told.append(trio.current_time()))
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        await fetch(made.http["n1"])
        node.leave()
    assert len(told) == 1


async def test_two_nodes_in_one_process_are_two_nodes(tmp_path: Path) -> None:
    one, other = RealCluster(tmp_path / "a", 1), RealCluster(tmp_path / "b", 1)
    async with running(one) as first, running(other) as second:
        await wait_for_leader(first)
        await wait_for_leader(second)
        async with open_client(one.members, one.tls, cluster=one.cluster) as client:
            await client.submit(put(b"a", b"1"), deadline_s=5)
        assert (first.replica.state.commands_applied, second.replica.state.commands_applied) == (1, 0)


async def test_a_write_over_http_goes_through_the_nodes_own_client(tmp_path: Path) -> None:
    made = RealCluster(tmp_path / "c", 1)

    def write() -> int:
        connection = http.client.HTTPConnection(HOST, made.http["n1"], timeout=10)
        connection.request(
            "PUT", "/v1/kv/a", json.dumps({"value": "b"}), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    async with running(made) as node:
        await wait_for_leader(node)
        assert await trio.to_thread.run_sync(write) == 200
        assert node.replica.state.commands_applied == 1


async def test_an_http_front_that_fails_stops_the_node_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import node.io.http

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no web today")

    monkeypatch.setattr(node.io.http, "serve_http", fail)
    made = RealCluster(tmp_path / "c", 1)
    failure = await failing(Node(made.load("n1")).run)
    assert str(failure) == "the HTTP front failed: no web today"
    assert failure.code == 1
    assert left() == []


async def test_a_cancelled_node_takes_its_threads_with_it_even_while_they_start(tmp_path: Path) -> None:
    made = RealCluster(tmp_path / "c", 1)
    node = Node(made.load("n1"))
    with trio.move_on_after(0.01):
        await node.run()
    with trio.fail_after(5):
        while threads():
            await trio.sleep(0.01)
    Node(made.load("n1")).disk.close()  # the folder is free


# ------------------------------------------------------------------------------------------------ failing disks


class Trick:
    """Takes the place of a disk's `perform`."""

    def __init__(self, node: Node) -> None:
        self.real = node.disk.perform
        self.fail: Exception | None = None
        self.hang: threading.Event | None = None
        node.disk.perform = self.perform  # type: ignore[method-assign]

    def perform(self, ops: Sequence[Op]) -> None:
        if self.hang is not None:
            self.hang.wait(20)
        self.real(ops)
        if self.fail is not None:
            raise self.fail


@pytest.mark.parametrize(
    "error",
    [
        DiskError("/d/journal-1.seg: fdatasync failed: EIO (Input/output error)"),
        DiskError("/d/journal-1.seg: pwrite failed: ENOSPC (No space left on device)"),
        RuntimeError("a mistake in the disk's own code"),
    ],
)
async def test_a_failed_sync_stops_the_node_and_acknowledges_nothing(
    tmp_path: Path, error: Exception
) -> None:
    made = RealCluster(tmp_path / "c", 1)
    node = Node(made.load("n1"))
    trick = Trick(node)
    failures: list[NodeFailed] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            failures.append(await failing(node.run))

        nursery.start_soon(run)
        async with open_client(made.members, made.tls, cluster=made.cluster) as client:
            await client.submit(put(b"a", b"1"), deadline_s=10)
            trick.fail = error
            with pytest.raises((NotDone, OutcomeUnknown)):
                await client.submit(put(b"b", b"1"), deadline_s=0.3)
    assert f"the disk failed: {error}. Nothing more is acknowledged" in str(failures[0])
    assert failures[0].code == 1
    assert node.replica.state.commands_applied == 1
    assert left() == []


async def test_a_disk_that_hangs_does_not_keep_a_node_from_leaving_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LEAVE_S", 0.2)
    made = RealCluster(tmp_path / "c", 1)
    node = Node(made.load("n1"))
    trick = Trick(node)
    async with trio.open_nursery() as nursery:
        failures: list[NodeFailed] = []

        async def run() -> None:
            failures.append(await failing(node.run))

        nursery.start_soon(run)
        await wait_for_leader(node)
        trick.hang = threading.Event()
        async with open_client(made.members, made.tls, cluster=made.cluster) as client:
            with pytest.raises((NotDone, OutcomeUnknown)):
                await client.submit(put(b"a", b"1"), deadline_s=0.2)
        began = trio.current_time()
        node.leave()
        with trio.fail_after(5):
            while not failures:
                await trio.sleep(0.01)
        assert trio.current_time() - began < 2
    assert "the disk hangs" in str(failures[0])
    assert node.disk.names()  # left open: the thread may still write through it
    trick.hang.set()
    with trio.fail_after(5):
        while threads():
            await trio.sleep(0.01)
    node.disk.close()


async def test_a_port_in_use_is_found_before_anything_is_served(tmp_path: Path) -> None:
    made = RealCluster(tmp_path / "c", 1)
    async with running(made):
        other = RealCluster(tmp_path / "d", 1)
        other.http["n1"] = made.http["n1"]
        other.write_config("n1")
        failure = await failing(Node(other.load("n1")).run)
    assert failure.code == 2
    assert f"cannot listen on {HOST}:{made.http['n1']} (http): address already in use" in str(failure)
