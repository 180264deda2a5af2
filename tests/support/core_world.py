"""A small world for protocol cores alone: seeded network, journals that lose what was not synced, crashes, partitions.

It plays the replica's part (the gate of the ordering rules) and checks the five properties after every step.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from consensus.core import Out, SnapshotMeta, entry_position
from consensus.raft import RaftCore, Timing, properties
from consensus.raft.properties import LogView


class Host:
    """A node: its core, its journal (durable part and what is on its way), the gate."""

    def __init__(self, name: str, members: list[str], timing: Timing) -> None:
        self.name = name
        self.members = members
        self.timing = timing
        self.durable: list[tuple[int, bytes]] = []
        self.snapshot: SnapshotMeta | None = None
        self.life = 0
        self.core: RaftCore | None = None
        self.applied: dict[int, bytes] = {}
        self.applied_index = 0

    def boot(self, rng: random.Random) -> None:
        self.life += 1
        self.core = RaftCore(self.name, self.members, random.Random(rng.getrandbits(64)), self.timing)
        self.out = Out()
        self.syncing: deque[tuple[int, list[tuple[int, bytes]]]] = deque()
        self.gate: deque[tuple[int, str, Any]] = deque()
        self.core.recover(self.durable, self.snapshot)
        self.applied_index = self.snapshot.index if self.snapshot else 0

    def log(self) -> LogView:
        assert self.core is not None
        log = self.core.log
        return LogView(self.name, log.base_index, log.slice(log.base_index + 1, log.last_index))


class CoreWorld:
    """Run with `step` or `run`; `problem` in the raised AssertionError names the property that failed."""

    def __init__(self, seed: int, size: int = 3, timing: Timing | None = None, loss: float = 0.05) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.loss = loss
        names = [f"n{i}" for i in range(1, size + 1)]
        timing = timing or Timing(retain_bytes=200, stall=10_000_000)
        self.hosts = {name: Host(name, names, timing) for name in names}
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.cut: set[tuple[str, str]] = set()
        self.fsync_us = (100, 20_000)
        self.delay_us = (100, 15_000)
        self.elected: list[tuple[int, str]] = []
        self.committed: dict[int, bytes] = {}
        self.leading: dict[str, tuple[int, LogView]] = {}
        self.reads: dict[tuple[str, int, int], int] = {}
        self.reads_done = 0
        self.stats = {
            "dropped": 0,
            "crashes": 0,
            "elections": 0,
            "installs": 0,
            "lost_batches": 0,
            "truncated": 0,
        }
        for host in self.hosts.values():
            self.boot(host)

    # -- time

    def at(self, delay: int, action: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.events, (self.now + delay, self.counter, action))

    def run(self, duration: int) -> None:
        end = self.now + duration
        while self.step(end):
            pass
        self.now = end

    def step(self, end: int) -> bool:
        due = min((h.core.deadline for h in self.hosts.values() if h.core), default=end + 1)
        event = self.events[0][0] if self.events else end + 1
        when = max(self.now, min(due, event))
        if when > end:
            return False
        self.now = when
        if event <= when:
            heapq.heappop(self.events)[2]()
        else:
            for host in self.hosts.values():
                if host.core is not None and host.core.deadline <= when:
                    host.core.timeout(when, host.out)
                    self.drain(host)
                    break
        return True

    # -- nodes

    def boot(self, host: Host) -> None:
        host.boot(self.rng)
        assert host.core is not None
        host.core.start(self.now, host.out)
        self.drain(host)

    def crash(self, name: str) -> None:
        """Power loss: what was not synced goes, or a prefix of the batches stays."""
        host = self.hosts[name]
        if host.core is None:
            return
        self.stats["crashes"] += 1
        keep = self.rng.randint(0, len(host.syncing)) if host.syncing else 0
        self.stats["lost_batches"] += len(host.syncing) - keep
        for _, batch in list(host.syncing)[:keep]:
            host.durable += batch
        host.core = None
        self.leading.pop(name, None)

    def restart(self, name: str) -> None:
        if self.hosts[name].core is None:
            self.boot(self.hosts[name])

    def drain(self, host: Host) -> None:
        """The replica's part: gate, journal, network, apply."""
        out, core = host.out, host.core
        assert core is not None
        for dest, message in out.now:
            self.send(host.name, dest, message)
        out.now.clear()
        done = core._durable_ticket
        for dest, message in out.wait:
            if out.ticket > done:
                host.gate.append((out.ticket, dest, message))
            else:
                self.send(host.name, dest, message)
        out.wait.clear()
        if out.records:
            self.sync(host, list(out.records), out.ticket)
            out.records.clear()
        for entry in out.committed:
            self.apply(host, entry)
        out.committed.clear()
        for token, index in out.reads:
            asked = self.reads.pop((host.name, host.life, token))
            assert index >= asked, f"stale read on {host.name}: barrier {index}, committed {asked} before it"
            self.reads_done += 1
        out.reads.clear()
        out.refused_reads.clear()
        if out.install is not None:
            _peer, meta = out.install
            out.install = None
            life = host.life
            self.at(self.rng.randint(1000, 30_000), lambda: self.install(host, life, meta))
        out.changed = False
        self.check(host)

    def sync(self, host: Host, batch: list[tuple[int, bytes]], ticket: int) -> None:
        host.syncing.append((ticket, batch))
        life = host.life

        def done() -> None:
            if host.life != life or host.core is None:
                return
            while host.syncing and host.syncing[0][0] <= ticket:
                host.durable += host.syncing.popleft()[1]
            while host.gate and host.gate[0][0] <= ticket:
                _, dest, message = host.gate.popleft()
                self.send(host.name, dest, message)
            host.core.persisted(ticket, self.now, host.out)
            self.drain(host)

        self.at(self.rng.randint(*self.fsync_us), done)

    def install(self, host: Host, life: int, meta: SnapshotMeta) -> None:
        if host.life != life or host.core is None or meta.index <= host.applied_index:
            return
        self.stats["installs"] += 1
        host.snapshot = meta
        host.applied_index = meta.index
        host.core.snapshot_installed(meta, self.now, host.out)
        self.drain(host)

    def take_snapshot(self, name: str) -> None:
        host = self.hosts[name]
        if host.core is None or host.applied_index == 0 or host.syncing:
            return
        if host.snapshot is not None and host.snapshot.index >= host.applied_index:
            return
        term = (
            entry_position(host.applied[host.applied_index])[1]
            if host.applied_index in host.applied
            else None
        )
        if term is None:
            return
        meta = SnapshotMeta(host.applied_index, term, bytes(32), tuple(host.members), bytes(32), 0)
        host.snapshot = meta
        host.core.snapshot_taken(meta, self.now, host.out)
        host.durable = host.core.state_records()
        self.drain(host)

    # -- network

    def send(self, source: str, dest: str, message: Any) -> None:
        if (source, dest) in self.cut or self.rng.random() < self.loss:
            self.stats["dropped"] += 1
            return
        copies = 2 if self.rng.random() < 0.03 else 1
        for _ in range(copies):
            delay = self.rng.randint(*self.delay_us) if self.rng.random() < 0.3 else self.delay_us[0]
            self.at(delay, lambda: self.deliver(source, dest, message))

    def deliver(self, source: str, dest: str, message: Any) -> None:
        host = self.hosts[dest]
        if host.core is None or (source, dest) in self.cut:
            return
        host.core.receive(source, message, self.now, host.out)
        self.drain(host)

    def partition(self, *sides: list[str]) -> None:
        side = {name: number for number, names in enumerate(sides) for name in names}
        self.cut = {(a, b) for a in self.hosts for b in self.hosts if side.get(a) != side.get(b)}

    def heal(self) -> None:
        self.cut = set()

    # -- work

    def leader(self) -> Host | None:
        leaders = [h for h in self.hosts.values() if h.core is not None and h.core.role.name == "LEADER"]
        return max(leaders, key=lambda h: h.core.term, default=None)  # type: ignore[union-attr]

    def propose(self, payload: bytes) -> bool:
        host = self.leader()
        if host is None or host.core is None:
            return False
        refused = host.core.propose([(1, payload)], self.now, host.out)
        self.drain(host)
        return refused is None

    def read(self, name: str, token: int) -> None:
        host = self.hosts[name]
        if host.core is not None:
            self.reads[name, host.life, token] = max(self.committed, default=0)
            host.core.read(token, self.now, host.out)
            self.drain(host)

    def apply(self, host: Host, entry: bytes) -> None:
        index = entry_position(entry)[0]
        assert index == host.applied_index + 1, f"{host.name} was handed {index} after {host.applied_index}"
        assert any(entry == data for _, data in host.durable), (
            f"{host.name} was handed {index}, which it could lose"
        )
        host.applied_index = index
        host.applied[index] = entry
        self.committed.setdefault(index, entry)
        problem = properties.state_machine_safety({"first": self.committed, host.name: {index: entry}})
        assert problem is None, problem

    def check(self, host: Host) -> None:
        core = host.core
        assert core is not None
        core.check_invariants()
        if core.role.name == "LEADER":
            term, before = self.leading.get(host.name, (0, None))
            view = host.log()
            if before is None or term != core.term:
                self.stats["elections"] += 1
                self.elected.append((core.term, host.name))
                problems = [
                    properties.election_safety(self.elected),
                    properties.leader_completeness(self.committed, view),
                ]
            else:
                problems = [properties.leader_append_only(before, view)]
            assert not any(problems), problems
            self.leading[host.name] = (core.term, view)
        else:
            self.leading.pop(host.name, None)

    def check_logs(self) -> None:
        views = [host.log() for host in self.hosts.values() if host.core is not None]
        for place, one in enumerate(views):
            for other in views[place + 1 :]:
                problem = properties.log_matching(one, other)
                assert problem is None, problem
