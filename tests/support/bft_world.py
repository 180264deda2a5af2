"""A small world for BFT cores alone: seeded network, journals of which a power cut leaves a prefix, snapshots at checkpoints,
state transfer, partitions, duplicates, messages that arrive a life too late.

It plays the replica's part (the gate of the ordering rules) and looks at everything that is said and handed out:

- honest nodes hand out the same entry at every index, in order, and only what a restart would still find;
- over all its lives a node signs one vote, one timeout and one proposal a round, and no vote in a round that it has given up;
- every certificate in what it says verifies.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from hashlib import sha256
from random import Random
from typing import Any

from consensus import wire
from consensus.bft.block import decode_block, genesis
from consensus.bft.certificates import decode_qc, decode_tc
from consensus.bft.committee import Committee
from consensus.bft.core import BftCore
from consensus.bft.messages import Proposal, Timeout, Vote
from consensus.bft.timing import Timing
from consensus.core import EntryKind, Out, Record, Refusal, SnapshotMeta, entry_payload, entry_position
from sim.virtual.keys import Notary

Filter = Callable[[str, str, Any], bool]
"""(from, to, message): whether it arrives."""

QUICK = Timing(
    round=60_000,
    idle=20_000,
    backoff_most=500_000,
    resend=40_000,
    mark_heights=4,
    snapshot_bytes=2_500,
    turns=4,
    exile=12,
)
"""Small bounds, so that marks, snapshots, exiles and backoffs happen within seconds."""


class Host:
    """A node: its core, its journal, the gate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.core: BftCore | None = None
        self.out = Out()
        self.disk: list[Record] = []
        self.flying: deque[tuple[int, list[Record], bool]] = deque()
        self.gate: deque[tuple[int, str, bytes]] = deque()
        self.snapshot: SnapshotMeta | None = None
        self.snapshots: dict[int, SnapshotMeta] = {}
        self.life = 0
        self.synced = 0
        self.index = 0
        self.chain = bytes(32)
        self.stalled = False
        self.installing = 0
        self.said: dict[tuple[str, int], bytes] = {}
        """(kind, round) -> what was signed, over all lives."""
        self.given_up = 0

    @property
    def up(self) -> BftCore:
        assert self.core is not None, f"{self.name} is down"
        return self.core


class BftWorld:
    """Run with `run`; an AssertionError names what failed."""

    def __init__(
        self,
        seed: int = 0,
        size: int = 4,
        timing: Timing = QUICK,
        committee: Committee | None = None,
        loss: float = 0.0,
        make: Callable[..., BftCore] = BftCore,
    ) -> None:
        self.seed, self.timing, self.loss, self.make = seed, timing, loss, make
        self.rng = Random(f"bft world/{seed}")
        self.names = [f"n{number}" for number in range(1, size + 1)]
        self.committee = committee or Committee.usual("world", 1, self.names)
        self.notary = Notary(tuple(self.names))
        self.genesis = genesis(self.committee).digest
        self.now = 1_000_000
        self.delay_us, self.sync_us = (100, 3_000), (100, 3_000)
        self.repeats = self.late = 0.0
        self.arrives: Filter = lambda source, dest, message: True
        self.committed: list[bytes] = []
        self.chains: list[bytes] = [bytes(32)]
        self.read_index: dict[tuple[str, int], int] = {}
        self.stats: Counter[str] = Counter()
        self.messages = 0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._verified: set[bytes] = set()
        self.hosts = {name: Host(name) for name in self.names}
        for name in self.names:
            self.boot(name)

    # ------------------------------------------------------------------------------------------------- time and nodes

    def after(self, delay: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def step(self) -> None:
        late = min(
            (host for host in self.hosts.values() if host.core is not None),
            key=lambda host: host.up.deadline,
            default=None,
        )
        due = late.up.deadline if late is not None else 1 << 62
        if self._events and self._events[0][0] <= due:
            self.now, _, action = heapq.heappop(self._events)
            action()
            return
        assert late is not None
        self.now = max(self.now, due)
        self.give(late, "timeout", self.now)
        assert late.up.deadline > self.now, f"{late.name}: a time-out that was handled is due again at once"

    def run(self, duration: int, until: Callable[[], bool] = lambda: False) -> bool:
        end = self.now + duration
        while not until():
            due = [host.up.deadline for host in self.hosts.values() if host.core is not None]
            due += [self._events[0][0]] if self._events else []
            if min(due, default=1 << 62) > end:
                self.now = end
                return until()
            self.step()
        return True

    def fresh(self, name: str, life: int) -> BftCore:
        rng = Random(f"{self.seed}/{name}/{life}")
        return self.make(name, self.committee, self.notary.keyring(name), rng, self.timing)

    def boot(self, name: str) -> None:
        host = self.hosts[name]
        if host.core is not None:
            return
        host.life += 1
        core = self.fresh(name, host.life)
        core.recover(host.disk, host.snapshot)
        host.out, host.synced, host.installing = Out(), 0, 0
        host.index = host.snapshot.index if host.snapshot else 0
        host.chain = host.snapshot.chain if host.snapshot else bytes(32)
        host.core = core
        self.give(host, "start", self.now)

    def crash(self, name: str) -> None:
        """Power is lost: of the batches under way a prefix stays."""
        host = self.hosts[name]
        if host.core is None:
            return
        for _, batch, anew in list(host.flying)[: self.rng.randint(0, len(host.flying))]:
            self._to_disk(host, batch, anew)
        host.flying.clear()
        host.gate.clear()
        host.core = None
        self.stats["crash"] += 1

    # -------------------------------------------------------------------------------------------------------- inputs

    def give(self, host: Host, method: str, *args: Any) -> Any:
        core, out = host.up, host.out
        answer = getattr(core, method)(*args, out)
        self._drain(host)
        return answer

    def propose(self, name: str, *payloads: bytes) -> Refusal | None:
        asked = [(int(EntryKind.BLOCK), payload) for payload in payloads]
        refusal: Refusal | None = self.give(self.hosts[name], "propose", asked, self.now)
        return refusal

    def read(self, name: str, token: int) -> None:
        self.read_index[name, token] = len(self.committed)
        self.give(self.hosts[name], "read", token, self.now)

    def _drain(self, host: Host) -> None:
        out = host.out
        wait, now = list(out.wait), list(out.now)
        for _, message in now:
            assert type(message) not in (Vote, Timeout, Proposal), f"{host.name} says {message} at once"
        if out.records:
            self._write(host, list(out.records), False)
        committed, reads, refused = list(out.committed), list(out.reads), list(out.refused_reads)
        install, ticket = out.install, out.ticket
        out.clear()
        for dest, message in now:
            self._send(host.name, dest, wire.encode(message))
        for dest, message in wait:
            if ticket > host.synced:
                host.gate.append((ticket, dest, wire.encode(message)))
            else:
                self._send(host.name, dest, wire.encode(message))
        for token, index in reads:
            floor = self.read_index.pop((host.name, token))
            assert index >= floor, (
                f"{host.name}: a read at {index}; {floor} was handed out before it was asked"
            )
            self.stats["reads"] += 1
        for token, _ in refused:
            self.read_index.pop((host.name, token))
            self.stats["refused reads"] += 1
        if install is not None:
            self._fetch(host, *install)
        for entry in committed:
            self._apply(host, entry)

    def _heard(self, host: Host, message: Any) -> None:
        kind = type(message)
        if kind is Vote:
            self._once(host, "vote", message.round, message.block)
            if ("sent vote", message.round) not in host.said:
                assert message.round > host.given_up, (
                    f"{host.name} votes in round {message.round}; it gave {host.given_up} up"
                )
                host.said["sent vote", message.round] = b""
        elif kind is Timeout:
            self._verify(message.high_qc, message.tc)
            self._once(host, "timeout", message.round, wire.encode(message))
            host.given_up = max(host.given_up, message.round)
        elif kind is Proposal:
            block = decode_block(message.block)
            self._verify(block.justify, message.tc)
            self._once(host, "proposal", block.round, message.block)

    def _once(self, host: Host, kind: str, round: int, what: bytes) -> None:
        before = host.said.setdefault((kind, round), what)
        assert before == what, f"{host.name} signs two different {kind}s in round {round}"

    def _verify(self, qc: bytes, tc: bytes) -> None:
        keyring = self.notary.keyring(self.names[0])
        if qc not in self._verified:
            decode_qc(qc).verify(self.committee, keyring, self.genesis)
            self._verified.add(qc)
        if tc and tc not in self._verified:
            decode_tc(tc).verify(self.committee, keyring, self.genesis)
            self._verified.add(tc)

    def _write(self, host: Host, records: list[Record], anew: bool) -> None:
        """`anew`: they replace all that was written before."""
        number, life, ticket = next(self._count), host.life, host.out.ticket
        host.flying.append((number, records, anew))

        def done() -> None:
            if host.life != life or host.core is None or not host.flying or host.flying[0][0] > number:
                return
            if host.stalled:
                self.after(5_000, done)
                return
            while host.flying and host.flying[0][0] <= number:
                self._to_disk(host, *host.flying.popleft()[1:])
            host.synced = ticket
            while host.gate and host.gate[0][0] <= ticket:
                _, dest, data = host.gate.popleft()
                self._send(host.name, dest, data)
            self.give(host, "persisted", ticket, self.now)

        self.after(self.rng.randint(*self.sync_us), done)

    def _to_disk(self, host: Host, records: list[Record], anew: bool) -> None:
        host.disk = list(records) if anew else host.disk + records

    def _send(self, source: str, dest: str, data: bytes) -> None:
        self.messages += 1
        # Here, and not when it is asked for: what never left its node was never said.
        self._heard(self.hosts[source], wire.decode(data))
        if self.rng.random() < self.loss or not self.arrives(source, dest, data):
            self.stats["lost"] += 1
            return
        for _ in range(2 if self.rng.random() < self.repeats else 1):
            delay = self.rng.randint(*self.delay_us)
            if self.rng.random() < self.late:
                self.stats["late"] += 1
                delay += self.rng.randint(100_000, 1_500_000)
            self.after(delay, lambda: self.deliver(source, dest, data))

    def deliver(self, source: str, dest: str, data: bytes) -> None:
        host = self.hosts[dest]
        if host.core is not None:
            self.give(host, "receive", source, wire.decode(data), self.now)

    # ------------------------------------------------------------------------------------------------- the replica's part

    def _apply(self, host: Host, entry: bytes) -> None:
        index, _, kind = entry_position(entry)
        assert index == host.index + 1, f"{host.name}: entry {index} is handed out behind {host.index}"
        host.index = index
        host.chain = sha256(host.chain + entry).digest()
        if index <= len(self.committed):
            assert self.committed[index - 1] == entry, (
                f"{host.name}: another entry {index} than somebody else's"
            )
        else:
            self.committed.append(entry)
            self.chains.append(host.chain)
            if index % 8 == 0:
                self._still_there(host)
        if kind == EntryKind.DIGEST or kind == EntryKind.CHECKPOINT:
            digest = sha256(b"state" + host.chain).digest()
            self.give(host, "applied", index, digest, self.now)
        if kind == EntryKind.CHECKPOINT:
            term = entry_position(entry)[1]
            root = sha256(b"root" + host.chain).digest()
            meta = SnapshotMeta(index, term, host.chain, tuple(self.names), root, 100)
            life = host.life
            self.after(self.rng.randint(100, 20_000), lambda: self._snapshot(host, life, meta))

    def _still_there(self, host: Host) -> None:
        """Rule 3: what is handed out is durable here."""
        again = self.fresh(host.name, 0)
        again.recover(host.disk, host.snapshot)
        held = again.observe().last_index
        assert held >= host.index, f"{host.name}: {host.index} is handed out; a restart would find {held}"

    def _snapshot(self, host: Host, life: int, meta: SnapshotMeta) -> None:
        if host.core is None or host.life != life or (host.snapshot and host.snapshot.index >= meta.index):
            return
        host.snapshot = host.snapshots[meta.index] = meta
        self.stats["snapshot"] += 1
        self.give(host, "snapshot_taken", meta, self.now)
        self._rotate(host)

    def _rotate(self, host: Host) -> None:
        """Begin the journal anew with the whole state, behind everything on its way."""
        self._write(host, host.up.state_records(), True)

    def _fetch(self, host: Host, peer: str, meta: SnapshotMeta) -> None:
        """Fetch a snapshot, if the peer still has it."""
        assert peer != host.name
        assert meta.index > host.index, f"{host.name} is at {host.index} and wants a snapshot of {meta.index}"
        life, theirs = host.life, self.hosts[peer].snapshots.get(meta.index)
        if theirs is None or host.installing >= meta.index:
            self.stats["fetch again"] += 1
            return
        assert meta == theirs, f"{host.name} asks for another snapshot of {meta.index} than there is"
        host.installing = meta.index

        def done() -> None:
            if host.core is None or host.life != life or host.index >= meta.index:
                return
            host.snapshot = host.snapshots[meta.index] = meta
            self.after(self.rng.choice((0, 30_000)), restore)

        def restore() -> None:
            if host.core is None or host.life != life:
                return
            if host.index >= meta.index:
                self.give(host, "snapshot_taken", meta, self.now)
            else:
                host.index, host.chain = meta.index, meta.chain
                assert self.chains[meta.index] == meta.chain
                self.stats["installed"] += 1
                self.give(host, "snapshot_installed", meta, self.now)
            self._rotate(host)

        self.after(self.rng.randint(1_000, 100_000), done)

    # --------------------------------------------------------------------------------------------------------- in the end

    def payloads(self) -> list[bytes]:
        """What has been handed out, without marks."""
        return [
            entry_payload(entry) for entry in self.committed if entry_position(entry)[2] == EntryKind.BLOCK
        ]

    def settle(self, patience: int = 20_000_000, without: tuple[str, ...] = ()) -> None:
        """Everybody is up, nothing is lost: something new is handed out at every node, and all of them have everything."""
        self.loss = self.repeats = self.late = 0.0
        self.arrives = lambda source, dest, message: source not in without and dest not in without
        there = [name for name in self.names if name not in without]
        for name in there:
            self.hosts[name].stalled = False
            self.boot(name)
        marks = {b"settle/%d/%s" % (self.now, name.encode()): name for name in there}
        asked = 0

        def done() -> bool:
            nonlocal asked
            if self.now >= asked:
                # Who fetches a state forgets what waits; a client would ask again.
                asked = self.now + 1_000_000
                payloads = set(self.payloads())
                for mark, name in marks.items():
                    if mark not in payloads:
                        self.propose(name, mark)
            alike = all(self.hosts[name].index == len(self.committed) for name in there)
            return alike and marks.keys() <= set(self.payloads())

        assert self.run(patience, done), f"no progress in {patience / 1e6:g} s: {self.explain()}"

    def explain(self) -> str:
        return "; ".join(
            f"{h.name} {h.index} {h.core.observe() if h.core else 'down'}" for h in self.hosts.values()
        )

    def storm(self, rounds: int) -> None:
        """Crashes, blackouts, partitions, stalled disks, proposals to anybody, reads."""
        rng = self.rng
        self.loss, self.repeats = rng.choice((0.0, 0.02, 0.15)), rng.choice((0.0, 0.1))
        self.late = rng.choice((0.0, 0.02))
        self.delay_us = (100, rng.choice((2_000, 20_000)))
        for number in range(rounds):
            self.run(rng.choice((500, 5_000, 30_000, 150_000)))
            draw = rng.random()
            name = rng.choice(self.names)
            host = self.hosts[name]
            if draw < 0.45 and host.core is not None:
                self.propose(
                    name,
                    *(b"%d/%d/" % (number, k) + bytes(rng.randrange(60)) for k in range(rng.randint(1, 3))),
                )
            elif draw < 0.55 and host.core is not None and (name, number) not in self.read_index:
                self.read(name, number)
            elif draw < 0.65:
                self.crash(name)
            elif draw < 0.8:
                self.boot(name)
            elif draw < 0.85:
                host.stalled = not host.stalled
            elif draw < 0.93:
                self._cut(rng.choice(("none", "one", "halves", "one-way")))
            elif draw < 0.96:
                self.stats["blackout"] += 1
                for each in self.names:
                    self.crash(each)
                self.run(rng.choice((0, 10_000)))
                for each in self.names:
                    self.boot(each)

    def _cut(self, shape: str) -> None:
        rng = self.rng
        apart = set(rng.sample(self.names, 1 if shape == "one" else len(self.names) // 2))
        if shape == "none":
            self.arrives = lambda source, dest, message: True
        elif shape == "one-way":
            self.arrives = lambda source, dest, message: source not in apart
        else:
            self.arrives = lambda source, dest, message: (source in apart) == (dest in apart)
        self.stats[f"cut {shape}"] += 1
