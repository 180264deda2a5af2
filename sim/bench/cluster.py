"""Throughput and latency of a cluster on this machine: real processes, TLS, fsync, sessions, each update acknowledged.

The nodes talk to each other directly, without the relay of a drill. Updates are `put`s of the key-value machine with a value
of the given size, really applied on every replica. The client is one process with one session and a closed loop: so
many updates are in flight, and each acknowledgement lets the next one go. Load goes to loopback and stops by itself.

With the BFT protocol the client signs what it sends, many updates under one signature where many wait. Two more loads follow
then: with one node dark (stopped, so that nothing tells the others), and with a signature for every update. Then, in the same
run, Raft stands beside it: as many nodes as survive as many dark ones, the same loads, nothing signed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import trio

from node.io import certificates, config, keys
from node.io.client import Client, open_client
from node.io.client_pending import Pending
from node.io.client_signed import SignedWrites
from node.io.client_types import ClientError, Settings, Signing
from node.io.config import BFT, RAFT
from node.io.disk import FileDisk
from node.journal import Identity, Journal
from node.kv import KvMachine, put
from node.state import ReplicatedState
from sim.bench.apply import environment
from sim.local.layout import HOST, find_ports
from sim.local.process import NodeProcess

START_S: Final = 30.0
KEYS: Final = 10_000
MOST_IN_FLIGHT: Final = 16 << 20
"""Bytes of values in flight. With twice as many a node turns updates away, and what is measured is how the client waits."""
MOST_READY: Final = 64 << 20
"""Bytes of the values that the client holds ready, and that every node's machine comes to hold."""


class BenchError(Exception):
    """The benchmark could not be made; the text says why."""


def check_bytes(in_flight: int, size: int) -> None:
    """Whether so many updates of `size` bytes may be in flight. Raises BenchError."""
    if in_flight * size > MOST_IN_FLIGHT:
        raise BenchError(
            f"{in_flight} updates of {size} bytes are {in_flight * size / 1e6:.0f} MB in flight, and no more than "
            f"{MOST_IN_FLIGHT / 1e6:.0f} MB go: with that size at most {MOST_IN_FLIGHT // size} updates, with so many at most "
            f"{MOST_IN_FLIGHT // in_flight} bytes"
        )


def keys_for(size: int) -> int:
    """How many keys are written: fewer where their values would not fit into `MOST_READY`."""
    return min(KEYS, MOST_READY // size)


@dataclass(slots=True)
class Load:
    """What one closed loop showed. Latencies in milliseconds, from handing the update to the client to its acknowledgement."""

    protocol: str
    nodes: int
    in_flight: int
    seconds: float
    updates: int
    updates_per_s: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    failed: int
    dark: str
    """The node that was dark meanwhile; empty if none was."""
    bundle: int
    """Most updates under one signature; 0 where nothing is signed."""
    updates_per_signature: float
    journal_bytes_per_update: float
    """On the leader's disk (bft: on that of the node that the client turns to), growth of journals and archives divided by
    updates."""
    updates_per_entry: float
    """How many updates shared a log entry, warm-up included."""


def write_cluster(
    folder: Path, nodes: int, settings: dict[str, dict[str, Any]], protocol: str = RAFT
) -> tuple[config.Member, ...]:
    """Make the folders of `nodes` nodes that reach each other directly."""
    cluster = certificates.new_cluster_id()
    certificates.create_authority(folder / "ca", cluster)
    base = find_ports(nodes)
    names = [f"n{number}" for number in range(1, nodes + 1)]
    members = [
        {"id": name, "domain": name.upper(), "address": f"{HOST}:{base + place}"}
        for place, name in enumerate(names)
    ]
    if protocol == BFT:
        settings = {**settings, "committee": {"key": "signing.pem"}}
        for name, member in zip(names, members, strict=True):
            key = keys.SigningKey()
            (folder / name).mkdir(parents=True)
            key.save(folder / name / "signing.pem")
            member["key"] = key.public.hex()
    for place, name in enumerate(names):
        home = folder / name
        (home / "data").mkdir(parents=True)
        certificates.issue_node(folder / "ca", home, cluster, name)
        disk = FileDisk(home / "data")
        disk.perform(Journal.create_ops(Identity(cluster, name), config.Storage().reserve_bytes))
        disk.close()
        values = {
            "cluster": cluster,
            "node": name,
            "listen": f"{HOST}:{base + place}",
            "data": "data",
            "machine": "kv",
            "protocol": protocol,
            "tls": {"ca": "../ca/ca.pem", "certificate": "cert.pem", "key": "key.pem"},
            "members": members,
            **settings,
        }
        (home / "config.toml").write_text(config.dump(values), encoding="utf-8")
    certificates.issue_client(folder / "ca", folder / "client", cluster, "bench")
    (folder / "cluster").write_text(cluster, encoding="utf-8")
    return tuple(
        config.Member(str(m["id"]), str(m["domain"]), config.parse_address(str(m["address"])))
        for m in members
    )


@contextlib.contextmanager
def processes(folder: Path, members: tuple[config.Member, ...]) -> Iterator[list[NodeProcess]]:
    """The nodes' processes for the time of `with`. They die with this process, whatever happens."""
    running: list[NodeProcess] = []
    try:
        for member in members:
            home = folder / member.id
            command = [sys.executable, "-m", "node.io", "--config", str(home / "config.toml")]
            running.append(NodeProcess(command, home / "log.jsonl"))
        yield running
    finally:
        for process in running:
            process.kill_and_reap()


async def closed_loop(
    client: Client, in_flight: int, seconds: float, warm_up: float, commands: list[bytes]
) -> tuple[list[float], int, float]:
    """Keep `in_flight` updates under way. (latencies in ms of those acknowledged behind the warm-up, failures, seconds)."""
    latencies: list[float] = []
    failed = 0
    number = 0
    clock = time.perf_counter
    began = clock()
    measure_from, end = began + warm_up, began + warm_up + seconds
    done = trio.Event()
    open_now = 0

    def begin() -> None:
        nonlocal number, open_now
        number += 1
        open_now += 1
        at = clock()

        def settled(pending: Pending) -> None:
            nonlocal failed, open_now
            now = clock()
            open_now -= 1
            if pending.error is not None:
                failed += 1
            elif measure_from <= now <= end:
                latencies.append((now - at) * 1000)
            if now < end:
                begin()
            elif not open_now:
                done.set()

        client.begin(commands[number % len(commands)], callback=settled)

    for _ in range(in_flight):
        begin()
    with trio.move_on_after(warm_up + seconds + 30) as patience:
        await done.wait()
    if patience.cancelled_caught:
        raise BenchError(f"{open_now} updates were not answered within 30 s of the end")
    return latencies, failed, seconds


def _disk_bytes(folder: Path) -> int:
    """Logical bytes of the journals: their files without the zeros reserved behind."""
    total = 0
    for path in folder.iterdir():
        if path.suffix == ".seg":
            with contextlib.suppress(FileNotFoundError):
                total += len(path.read_bytes().rstrip(b"\0"))
    return total


@dataclass(slots=True, frozen=True)
class Plan:
    """One load to come."""

    in_flight: int
    bundle: int = 4096
    dark: bool = False


@dataclass(slots=True)
class Made:
    """What was measured, and what could not be: one load that fails takes no figures of others with it."""

    loads: list[Load] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def _measure(
    folder: Path,
    members: tuple[config.Member, ...],
    running: list[NodeProcess],
    plans: list[Plan],
    size: int,
    seconds: float,
    protocol: str,
    say: Callable[[str], None],
    made: Made,
) -> None:
    value = os.urandom(size)
    commands = [put(b"key-%010d" % number, value) for number in range(keys_for(size))]
    for plan in plans:
        words = f"{plan.in_flight} in flight for {seconds:g} s"
        words += ", one node dark" if plan.dark else ""
        words += ", a signature for each" if plan.bundle == 1 else ""
        say(words)
        try:
            made.loads.append(await _one_load(folder, members, running, plan, commands, seconds, protocol))
        except BenchError as error:
            made.problems.append(f"{len(members)} nodes ({protocol}), {words}: {error}")


async def _one_load(
    folder: Path,
    members: tuple[config.Member, ...],
    running: list[NodeProcess],
    plan: Plan,
    commands: list[bytes],
    seconds: float,
    protocol: str,
) -> Load:
    tls = config.TlsFiles(folder / "ca/ca.pem", folder / "client/cert.pem", folder / "client/key.pem")
    signing = Signing((len(members) - 1) // 3) if protocol == BFT else None
    dark = ""
    async with open_client(
        members, tls, cluster=(folder / "cluster").read_text(encoding="utf-8"), name="bench",
        settings=Settings(window=8192, bundle=plan.bundle), signing=signing,
    ) as client:  # fmt: skip
        await client.wait_connected(leader=True, timeout_s=START_S)
        asked = client.leader or members[0].id
        if plan.dark:
            # Not the one that the client speaks to: what is measured is the committee, not a client's patience.
            place = next(place for place, member in enumerate(members) if member.id != asked)
            dark = members[place].id
            os.kill(running[place].pid, signal.SIGSTOP)
        try:
            before = await client.status(asked)
            bytes_before = _disk_bytes(folder / asked / "data")
            signatures = client.writes.signatures if isinstance(client.writes, SignedWrites) else 0
            latencies, failed, took = await closed_loop(
                client, plan.in_flight, seconds, min(2.0, seconds / 3), commands
            )
            if not latencies:
                raise BenchError(f"no update was acknowledged within {seconds:g} s; give it more --seconds")
            after = await client.status(asked)
            signed = client.writes.signatures - signatures if isinstance(client.writes, SignedWrites) else 0
        finally:
            if dark:
                os.kill(running[place].pid, signal.SIGCONT)
    applied = max(after["commands_applied"] - before["commands_applied"], 1)
    latencies.sort()

    def at(share: float) -> float:
        return round(latencies[min(len(latencies) - 1, int(share * len(latencies)))], 3)

    return Load(
        protocol,
        len(members),
        plan.in_flight,
        took,
        len(latencies),
        round(len(latencies) / took, 1),
        at(0.5),
        at(0.99),
        at(0.999),
        round(latencies[-1], 3),
        failed,
        dark,
        plan.bundle if signing is not None else 0,
        round(applied / signed, 1) if signed else 0.0,
        round((_disk_bytes(folder / asked / "data") - bytes_before) / applied, 1),
        round(applied / max(after["commit_index"] - before["commit_index"], 1), 1),
    )


def apply_cost_us(size: int, count: int = 50_000) -> float:
    """Microseconds that one update of this size costs the machine, sessions and chain aside, on one core."""
    state = ReplicatedState(KvMachine())
    written = keys_for(size)
    times = []
    for start in range(0, count, 1000):
        # Made a thousand at a time: all of them would be gigabytes of the largest values.
        numbers = range(start, start + 1000)
        commands = [put(b"key-%010d" % (number % written), bytes(size)) for number in numbers]
        began = time.perf_counter()
        state.machine.apply(commands)
        times.append((time.perf_counter() - began) * 1e6 / 1000)
    return round(statistics.median(times), 3)


def verify_cost_us(count: int = 200) -> float:
    """Microseconds that verifying one signature of a client costs on one core (it frees the interpreter lock)."""
    key = keys.SigningKey()
    times = []
    for number in range(count):
        data = b"%d" % number + bytes(300)
        signature = key.sign(data)
        began = time.perf_counter()
        keys.verify(key.public, data, signature)
        times.append((time.perf_counter() - began) * 1e6)
    return round(statistics.median(times), 1)


def measure_cluster(
    *,
    nodes: int = 3,
    protocol: str = RAFT,
    size: int = 256,
    seconds: float = 8.0,
    in_flight: tuple[int, ...] = (1, 1000),
    folder: Path | None = None,
    say: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:
    """Start a cluster, put it under load, take it down; with BFT, then one of Raft. `problems` of the result: loads that
    showed nothing. Raises BenchError if none showed anything, ClusterError, OSError."""
    most = max(in_flight)
    check_bytes(most, size)
    # Too few nodes to stand one that is dark: those loads are left out.
    dark = [Plan(most, dark=True)] if nodes >= 4 else []
    plans = [Plan(count) for count in in_flight]
    if protocol == BFT:
        plans += [*dark, Plan(most, bundle=1)]
    made = Made()
    _measure_one(nodes, protocol, plans, size, seconds, folder, say, made)
    if protocol == BFT:
        peers = 2 * ((nodes - 1) // 3) + 1  # u of them may be dark, as in the committee
        plans = [*(Plan(count) for count in in_flight), *dark]
        _measure_one(peers, RAFT, plans, size, seconds, folder, say, made)
    if not made.loads:
        raise BenchError("; ".join(made.problems))
    signed = {}
    if protocol == BFT:
        cost = verify_cost_us()
        # Every node verifies what it votes for, and here the nodes share the cores.
        limit = (os.cpu_count() or 1) / (nodes * cost * 1e-6)
        signed = {"verify_us": cost, "limit_at_one_signature_per_s": round(limit)}
    return {
        "environment": {**environment(), "cores": os.cpu_count(), "trio": metadata.version("trio"),
                        "load": [round(load, 2) for load in os.getloadavg()], "node": platform.node() and "loopback"},
        "settings": {"nodes": nodes, "protocol": protocol, "value_bytes": size, "durable": True, "tls": True, "sessions": 1,
                     "machine": "kv", "keys": keys_for(size), "timing": asdict(config.Timing()),
                     "storage": "archive on, no power marks"},
        "apply_us_per_update": apply_cost_us(size),
        **signed,
        "loads": [asdict(load) for load in made.loads],
        "problems": made.problems,
    }  # fmt: skip


def _measure_one(
    nodes: int,
    protocol: str,
    plans: list[Plan],
    size: int,
    seconds: float,
    folder: Path | None,
    say: Callable[[str], None],
    made: Made,
) -> None:
    home = Path(tempfile.mkdtemp(prefix="ridethrough-bench-", dir=folder))
    # Archives keep every byte written, so that bytes can be counted; no snapshot falls into the measurement otherwise.
    settings: dict[str, dict[str, Any]] = {"storage": {"archive": True}, "log": {"level": "warning"}}
    try:
        members = write_cluster(home, nodes, settings, protocol)
        with processes(home, members) as running:
            say(f"starting {nodes} nodes ({protocol})")
            try:
                trio.run(_measure, home, members, running, plans, size, seconds, protocol, say, made)
            except ClientError as error:
                words = "; ".join(
                    f"{member.id}: {' '.join(p.tail())}" for member, p in zip(members, running, strict=True)
                )
                made.problems.append(f"{nodes} nodes ({protocol}): {error}. The nodes' last words: {words}")
    finally:
        shutil.rmtree(home, ignore_errors=True)
