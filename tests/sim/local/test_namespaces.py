"""Links through network namespaces: what vanishes, what is counted, what is left behind. Skipped where they cannot be had."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from sim.local import daemon, layout, namespaces
from sim.local.links import OUTSIDE, LinksError, Pair
from sim.local.namespaces import NamespaceLinks, address, entered
from sim.local.supervisor import Supervisor

try:
    namespaces.check()
    REASON = ""
except LinksError as reason:
    REASON = str(reason)
needs_namespaces = pytest.mark.skipif(bool(REASON), reason=REASON)

NUMBERS = {"n1": 1, "n2": 2, "n3": 3, OUTSIDE: 4}


@pytest.fixture
def links() -> Iterator[NamespaceLinks]:
    """n1 and n2 in A, n3 in B."""
    made = NamespaceLinks({"n1": "A", "n2": "A", "n3": "B"}, suffix="test")
    made.build()
    yield made
    made.remove()


@contextlib.contextmanager
def ends(links: NamespaceLinks, *names: str) -> Iterator[dict[str, socket.socket]]:
    """A datagram socket for each name, in its namespace and at its address."""
    with contextlib.ExitStack() as stack:
        made = {}
        for name in names:
            with entered(links.path(name)):
                end = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            end.bind((address(NUMBERS[name]), 7000))
            end.settimeout(1.0)
            made[name] = end
        yield made


def hears(sockets: dict[str, socket.socket], sender: str, receiver: str) -> bool:
    sockets[sender].sendto(b"hello", (address(NUMBERS[receiver]), 7000))
    sockets[receiver].settimeout(0.15)
    try:
        return sockets[receiver].recv(100) == b"hello"
    except TimeoutError:
        return False


@needs_namespaces
def test_packets_vanish_in_the_blocked_direction_alone_and_each_is_counted_to_its_fault(
    links: NamespaceLinks,
) -> None:
    with ends(links, *NUMBERS) as sockets:
        pairs: list[Pair] = [(a, b) for a in NUMBERS for b in NUMBERS if a != b]
        assert all(hears(sockets, *pair) for pair in pairs)
        links.block("cut", [("n1", "n2"), (OUTSIDE, "n3")])
        assert [pair for pair in pairs if not hears(sockets, *pair)] == [("n1", "n2"), (OUTSIDE, "n3")]
        tolls = links.tolls("cut")
        assert {pair: toll.dropped_packets for pair, toll in tolls.items()} == {
            ("n1", "n2"): 1,
            (OUTSIDE, "n3"): 1,
        }
        assert tolls["n1", "n2"].dropped_bytes == 20 + 8 + len(b"hello")
        links.lift("cut")
        assert hears(sockets, "n1", "n2")
        assert links.tolls("cut") == tolls  # counts outlive the fault


@needs_namespaces
def test_a_dark_domain_is_silent_within_and_without_and_two_do_not_light_each_other(
    links: NamespaceLinks,
) -> None:
    with ends(links, *NUMBERS) as sockets:
        links.silence("A")
        links.silence("B")
        assert not hears(sockets, "n1", "n2")
        assert not hears(sockets, OUTSIDE, "n1")
        links.restore("A")
        assert links.is_silent("B")
        assert not links.is_silent("A")
        assert hears(sockets, "n1", "n2")
        assert not hears(sockets, "n1", "n3")
        assert links.dropped("A") > 0
        links.restore("B")
        assert hears(sockets, "n1", "n3")
    with pytest.raises(ValueError, match=r"a domain 'Z'; there are: A, B"):
        links.silence("Z")


@needs_namespaces
def test_an_open_connection_loses_its_packets_too_and_goes_on_after_the_heal(links: NamespaceLinks) -> None:
    with contextlib.ExitStack() as stack:
        with entered(links.path("n2")):
            listener = stack.enter_context(socket.create_server((address(2), 7001)))
        with entered(links.path("n1")):
            dialled = stack.enter_context(socket.create_connection((address(2), 7001)))
        accepted = stack.enter_context(listener.accept()[0])
        links.block("cut", [("n1", "n2")])
        dialled.sendall(b"late")
        accepted.settimeout(0.15)
        with pytest.raises(TimeoutError):
            accepted.recv(10)
        links.lift("cut")
        accepted.settimeout(5)
        assert accepted.recv(10) == b"late"
        assert links.tolls("cut")["n1", "n2"].dropped_packets >= 1


@needs_namespaces
def test_a_rate_drops_what_is_above_it(links: NamespaceLinks) -> None:
    with ends(links, "n1", "n2") as sockets:
        links.limit("slow", [("n1", "n2")], 1000)
        for _ in range(100):
            sockets["n1"].sendto(bytes(1000), (address(2), 7000))
        toll = links.tolls("slow")["n1", "n2"]
        assert 80 < toll.dropped_packets < 100


@needs_namespaces
def test_the_machine_s_own_network_is_the_same_before_during_and_after() -> None:
    def seen() -> list[str]:
        commands = (["ip", "addr"], ["ip", "route"], ["nft", "list", "ruleset"])
        return [subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in commands]

    before = seen()
    links = NamespaceLinks({"n1": "A", "n2": "A"}, suffix="same")
    links.build()
    try:
        links.block("cut", [("n1", "n2")])
        assert seen() == before
    finally:
        links.remove()
    assert seen() == before
    assert not links.path("n1").exists()


@needs_namespaces
def test_what_a_killed_run_left_behind_is_removed_and_what_is_in_use_is_not(links: NamespaceLinks) -> None:
    program = (
        "import time\nfrom sim.local.namespaces import NamespaceLinks\n"
        "links = NamespaceLinks({'n1': 'A'}); links.build(); print(links.run_id, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        theirs = child.stdout.readline().strip()
        try:
            assert namespaces.path_of(theirs, "n1").exists()
            assert not [name for name in namespaces.leftovers() if theirs in name]
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    assert len([name for name in namespaces.clean() if theirs in name]) == 3
    assert not namespaces.path_of(theirs, "n1").exists()
    assert links.path("n1").exists()


def test_a_delay_is_refused_with_what_to_do_instead() -> None:
    with pytest.raises(LinksError, match=r"netem.*--links relay"):
        NamespaceLinks({"n1": "A", "n2": "A"}).delay("x", [("n1", "n2")], 1000)


def test_a_missing_command_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda command: None if command == "nft" else "/bin/x")
    with pytest.raises(LinksError, match=r"the command nft; on Debian: apt-get install nftables"):
        namespaces.require_tools()


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LinksError, match="need root"):
        namespaces.require_tools()


def test_a_kernel_that_refuses_is_reported_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "ip"
    refusing.write_text("#!/bin/sh\necho 'Operation not supported' >&2\nexit 2\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(LinksError, match=r"Operation not supported.*CONFIG_VETH"):
        NamespaceLinks({"n1": "A"}, suffix="refused").build()


@needs_namespaces
async def test_a_cluster_in_namespaces_is_reached_from_outside_cut_partitioned_and_restored(
    tmp_path: Path,
) -> None:
    cluster = layout.create(
        tmp_path / "c", 2, 2, settings={"storage": {"reserve_bytes": 0}}, network="namespaces"
    )
    standin = [sys.executable, str(Path(__file__).with_name("standin.py")), "{config}"]
    links = NamespaceLinks({place.id: place.domain for place in cluster.nodes}, suffix="whole")
    command = daemon.node_command(standin, cluster.folder)
    supervisor = Supervisor(cluster, command, daemon.PlatterDisks(), None, links)
    first = cluster.members()[0].address
    assert first.host == address(1)

    async def answers() -> bool:
        with entered(links.path(OUTSIDE)):
            end = socket.socket()
        end.setblocking(False)
        with trio.move_on_after(0.3):
            async with trio.SocketStream(trio.socket.from_stdlib_socket(end)) as stream:
                try:
                    await stream.socket.connect((first.host, first.port))
                    await stream.send_all(b"?")
                    return await stream.receive_some() == b"?"
                except OSError:
                    return False
        return False

    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        supervisor.start_all()
        with trio.fail_after(10):
            while any(node.phase != "serving" for node in supervisor.nodes.values()):
                await trio.sleep(0.01)
        assert await answers()
        await supervisor.faults.partition("cut", [["n1", OUTSIDE]])
        assert not await answers()
        assert (await supervisor.faults.heal("cut"))["counts"]["dropped_packets"] > 0
        cut = await supervisor.cut("A")
        assert not await answers()
        assert links.dropped("A") >= cut["relay_bytes_dropped"]
        await supervisor.restore("A", wait=10)
        assert await answers()
        nursery.cancel_scope.cancel()
    assert not links.path("n1").exists()
