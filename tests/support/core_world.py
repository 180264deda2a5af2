"""A small world for protocol cores alone: seeded network, journals that lose what was not synced, crashes, cuts of every
shape, disks that stand still, nodes that are paused, messages that arrive a life too late.

It plays the replica's part (the gate of the ordering rules), checks the five properties after every step, and counts how
often each fault bit.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from consensus import wire
from consensus.core import Out, SnapshotMeta, entry_position
from consensus.raft import RaftCore, Timing, properties, records
from consensus.raft.messages import RequestVoteReply
from consensus.raft.properties import LogView
from consensus.raft.records import replay

Batch = list[tuple[int, bytes]]


class Host:
    """A node: its core, its journal (durable part and what is on its way), the gate."""

    def __init__(self, name: str, members: list[str], timing: Timing) -> None:
        self.name = name
        self.members = members
        self.timing = timing
        self.durable: Batch = []
        self.disk: dict[int, bytes] = {}  # the entries of `durable`, by index
        self.snapshot: SnapshotMeta | None = None
        self.life = 0
        self.core: RaftCore | None = None
        self.applied: dict[int, bytes] = {}
        self.applied_index = 0
        self.written_index = 0
        self.stalled_until = 0
        self.paused_until = 0

    def boot(self, rng: random.Random) -> None:
        self.life += 1
        self.core = RaftCore(self.name, self.members, random.Random(rng.getrandbits(64)), self.timing)
        self.out = Out()
        self.syncing: deque[tuple[int, Batch]] = deque()
        self.gate: deque[tuple[int, str, Any]] = deque()
        self.done = 0
        self.core.recover(self.durable, self.snapshot)
        self.applied_index = self.snapshot.index if self.snapshot else 0

    def make_durable(self, batch: Batch) -> None:
        self.durable += batch
        for kind, data in batch:
            if kind == records.ENTRY:
                index = entry_position(data)[0]
                for behind in range(index + 1, max(self.disk, default=0) + 1):
                    self.disk.pop(behind, None)
                self.disk[index] = data

    def holds(self, index: int, entry: bytes) -> bool:
        """Whether the entry would survive a power cut."""
        return self.disk.get(index) == entry or (self.snapshot is not None and self.snapshot.index >= index)

    def log(self) -> LogView:
        assert self.core is not None
        log = self.core.state.log
        return LogView(self.name, log.base_index, log.slice(log.base_index + 1, log.last_index))


class CoreWorld:
    """Run with `step` or `run`; an AssertionError names the property that failed."""

    def __init__(self, seed: int, size: int = 3, timing: Timing | None = None, loss: float = 0.05) -> None:
        self.rng = random.Random(seed)
        self.now = 0
        self.loss = loss
        names = [f"n{i}" for i in range(1, size + 1)]
        timing = timing or Timing(retain_bytes=200)
        self.hosts = {name: Host(name, names, timing) for name in names}
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.counter = 0
        self.cut: set[tuple[str, str]] = set()
        self.cut_kind = ""
        self.fsync_us = (100, 20_000)
        self.delay_us = (100, 15_000)
        self.hold = 0.01  # share of messages that come very late
        self.elected: list[tuple[int, str]] = []
        self.granted: dict[tuple[str, int], str] = {}
        self.committed: dict[int, bytes] = {}
        self.committed_by: dict[int, int] = {}  # index -> a term in which, or before which, it was committed
        self.leading: dict[str, tuple[int, LogView]] = {}
        self.reads: dict[tuple[str, int, int], int] = {}
        self.stats: Counter[str] = Counter()
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
        due, late = end + 1, None
        for host in self.hosts.values():
            if host.core is not None:
                when = max(host.core.deadline, host.paused_until)
                if when < due:
                    due, late = when, host
        event = self.events[0][0] if self.events else end + 1
        when = max(self.now, min(due, event))
        if when > end:
            return False
        self.now = when
        if event <= when:
            heapq.heappop(self.events)[2]()
        elif late is not None and late.core is not None:
            late.core.timeout(when, late.out)
            self.drain(late)
        return True

    # -- nodes

    def boot(self, host: Host) -> None:
        host.boot(self.rng)
        assert host.core is not None
        before = replay(host.durable)
        assert host.core.term >= before.term, f"{host.name} forgot term {before.term}"
        if host.core.term == before.term:
            assert host.core.state.voted_for == before.voted_for, f"{host.name} forgot a vote"
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
            host.make_durable(batch)
        host.core = None
        host.paused_until = host.stalled_until = 0
        self.leading.pop(name, None)

    def restart(self, name: str) -> None:
        if self.hosts[name].core is None:
            self.boot(self.hosts[name])

    def stall(self, name: str, duration: int) -> None:
        """The disk stands still: writes are taken and none is finished."""
        self.hosts[name].stalled_until = self.now + duration

    def pause(self, name: str, duration: int) -> None:
        """The whole node stands still (a stopped process, a frozen machine), and then finds everything at once."""
        if self.hosts[name].core is not None:
            self.hosts[name].paused_until = self.now + duration
            self.stats["pauses"] += 1

    def drain(self, host: Host) -> None:
        """The replica's part: gate, journal, network, apply."""
        out, core = host.out, host.core
        assert core is not None
        for dest, message in out.now:
            self.send(host, dest, message)
        out.now.clear()
        for dest, message in out.wait:
            if out.ticket > host.done:
                host.gate.append((out.ticket, dest, message))
            else:
                self.send(host, dest, message)
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
            self.stats["reads"] += 1
        out.reads.clear()
        self.stats["refused_reads"] += len(out.refused_reads)
        out.refused_reads.clear()
        if out.install is not None:
            _peer, meta = out.install
            out.install = None
            life = host.life
            self.at(self.rng.randint(1000, 200_000), lambda: self.install(host, life, meta))
        out.changed = False
        self.check(host)

    def sync(self, host: Host, batch: Batch, ticket: int) -> None:
        for kind, data in batch:
            if kind == records.ENTRY:
                index = entry_position(data)[0]
                self.stats["overwritten"] += index <= host.written_index
                host.written_index = index
        host.syncing.append((ticket, batch))
        life = host.life

        def done() -> None:
            if host.life != life or host.core is None:
                return
            wait = max(host.stalled_until, host.paused_until) - self.now
            if wait > 0:
                self.stats["stalled_writes"] += host.stalled_until > self.now
                self.at(wait, done)
                return
            while host.syncing and host.syncing[0][0] <= ticket:
                host.make_durable(host.syncing.popleft()[1])
            host.done = max(host.done, ticket)
            while host.gate and host.gate[0][0] <= ticket:
                _, dest, message = host.gate.popleft()
                self.send(host, dest, message)
            host.core.persisted(ticket, self.now, host.out)
            self.drain(host)

        self.at(self.rng.randint(*self.fsync_us), done)

    def install(self, host: Host, life: int, meta: SnapshotMeta) -> None:
        if host.life != life or host.core is None or meta.index <= host.applied_index:
            return
        log = host.core.state.log
        self.stats["installs"] += 1
        agrees = log.agrees(meta.index, meta.term)
        self.stats["conflicting_installs"] += meta.index <= log.last_index and not agrees
        host.snapshot = meta
        host.applied_index = meta.index
        host.core.snapshot_installed(meta, self.now, host.out)
        self.drain(host)

    def take_snapshot(self, name: str) -> None:
        host = self.hosts[name]
        index = host.applied_index
        if host.core is None or index not in host.applied or host.syncing or host.paused_until > self.now:
            return
        if host.snapshot is not None and host.snapshot.index >= index:
            return
        term = entry_position(host.applied[index])[1]
        meta = SnapshotMeta(index, term, bytes(32), tuple(host.members), bytes(32), 0)
        host.snapshot = meta
        host.core.snapshot_taken(meta, self.now, host.out)
        host.durable, host.disk = [], {}
        host.make_durable(host.core.state_records())
        self.drain(host)

    # -- network

    def send(self, host: Host, dest: str, message: Any) -> None:
        source = host.name
        if type(message) is RequestVoteReply and message.granted:
            first = self.granted.setdefault((source, message.term), dest)
            assert first == dest, f"{source} votes for {first} and for {dest} in term {message.term}"
        if (source, dest) in self.cut:
            self.stats[self.cut_kind or "cut"] += 1
            return
        if self.rng.random() < self.loss:
            self.stats["lost"] += 1
            return
        message = wire.decode(wire.encode(message))
        for _ in range(2 if self.rng.random() < 0.03 else 1):
            delay = self.rng.randint(*self.delay_us) if self.rng.random() < 0.3 else self.delay_us[0]
            if self.rng.random() < self.hold:
                delay = self.rng.randint(100_000, 2_000_000)
            life = self.hosts[dest].life
            self.at(delay, lambda life=life: self.deliver(source, dest, message, life))  # type: ignore[misc]

    def deliver(self, source: str, dest: str, message: Any, life: int) -> None:
        host = self.hosts[dest]
        if host.core is None or (source, dest) in self.cut:
            return
        if host.paused_until > self.now:
            self.at(host.paused_until - self.now, lambda: self.deliver(source, dest, message, life))
            return
        self.stats["late_by_a_life"] += host.life > life
        self.stats["late_by_a_term"] += getattr(message, "term", host.core.term) < host.core.term
        host.core.receive(source, message, self.now, host.out)
        self.drain(host)

    def cut_links(self, kind: str, keep: Callable[[str, str], bool]) -> None:
        """Cut every directed link that `keep` does not keep; what it swallows is counted under `kind`."""
        self.cut_kind = kind
        self.cut = {(a, b) for a in self.hosts for b in self.hosts if a != b and not keep(a, b)}

    def partition(self, *sides: list[str]) -> None:
        side = {name: number for number, names in enumerate(sides) for name in names}
        self.cut_links("partition", lambda a, b: side.get(a) == side.get(b))

    def bridge(self, names: list[str]) -> None:
        """Two sides that hear each other only through the first of `names`, which hears everybody."""
        middle, rest = names[0], names[1:]
        side = {name: place % 2 for place, name in enumerate(rest)}
        self.cut_links("bridge", lambda a, b: middle in (a, b) or side[a] == side[b])

    def ring(self, names: list[str]) -> None:
        """Everybody hears both neighbours only: in five nodes each sees a majority, and no two the same one."""
        place = {name: number for number, name in enumerate(names)}
        self.cut_links("ring", lambda a, b: (place[a] - place[b]) % len(names) in (1, len(names) - 1))

    def one_way(self, name: str, deaf: bool) -> None:
        """The node hears nobody (`deaf`), or nobody hears it."""
        self.cut_links("deaf" if deaf else "mute", lambda a, b: (b if deaf else a) != name)

    def heal(self) -> None:
        self.cut = set()

    # -- work

    def leader(self) -> Host | None:
        leaders = [h for h in self.hosts.values() if h.core is not None and h.core.leading is not None]
        return max(leaders, key=lambda h: h.core.term, default=None)  # type: ignore[union-attr]

    def propose(self, payload: bytes, to: Host | None = None) -> bool:
        host = to or self.leader()
        if host is None or host.core is None or host.paused_until > self.now:
            return False
        refused = host.core.propose([(1, payload)], self.now, host.out)
        self.drain(host)
        return refused is None

    def read(self, name: str, token: int) -> None:
        host = self.hosts[name]
        if host.core is not None and host.paused_until <= self.now:
            self.reads[name, host.life, token] = max(self.committed, default=0)
            host.core.read(token, self.now, host.out)
            self.drain(host)

    def apply(self, host: Host, entry: bytes) -> None:
        index = entry_position(entry)[0]
        assert index == host.applied_index + 1, f"{host.name} was handed {index} after {host.applied_index}"
        assert host.holds(index, entry), f"{host.name} was handed {index}, which it could lose"
        host.applied_index = index
        host.applied[index] = entry
        if index not in self.committed:
            holders = [other.name for other in self.hosts.values() if other.holds(index, entry)]
            assert 2 * len(holders) > len(self.hosts), f"{index} is applied, but durable only on {holders}"
            self.committed[index] = entry
            assert host.core is not None
            self.committed_by[index] = host.core.term
        problem = properties.state_machine_safety({"first": self.committed, host.name: {index: entry}})
        assert problem is None, problem

    def check(self, host: Host) -> None:
        core = host.core
        assert core is not None
        core.check_invariants()
        if core.leading is None:
            self.leading.pop(host.name, None)
            return
        term, before = self.leading.get(host.name, (0, None))
        view = host.log()
        if before is None or term != core.term:
            self.stats["elections"] += 1
            self.elected.append((core.term, host.name))
            # Later terms may have committed more already: late votes can make a leader of a term long past.
            earlier = {
                index: entry
                for index, entry in self.committed.items()
                if self.committed_by[index] <= core.term
            }
            problems = [
                properties.election_safety(self.elected),
                properties.leader_completeness(earlier, view),
            ]
        else:
            problems = [properties.leader_append_only(before, view)]
        assert not any(problems), problems
        self.leading[host.name] = (core.term, view)

    def check_logs(self) -> None:
        views = [host.log() for host in self.hosts.values() if host.core is not None]
        for place, one in enumerate(views):
            for other in views[place + 1 :]:
                problem = properties.log_matching(one, other)
                assert problem is None, problem

    def applied_everywhere(self) -> bool:
        """Whether every node has applied everything that any node has."""
        return {host.applied_index for host in self.hosts.values()} == {max(self.committed)}
