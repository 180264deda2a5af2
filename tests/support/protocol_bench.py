"""A cluster of protocol cores, whatever their protocol, with a seeded network, disks that lose what was not synced, and the laws
of `consensus.core` held against every single answer of every core. An AssertionError names the law, the node and the input.

It plays the replica's part: the gate of the ordering rules, the journal, snapshots. Nothing of a core is looked at but what the
contract shows: its `Out`, its deadline, `observe()`, `state_records()`.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from consensus import wire
from consensus.core import (
    Core,
    CoreView,
    EntryKind,
    NodeId,
    Out,
    Record,
    Refusal,
    SnapshotMeta,
    entry_payload,
    entry_position,
)

LEADERLESS = "replica"
"""The role of the nodes of a protocol in which all of them take requests."""

Make = Callable[[NodeId, Sequence[NodeId], Random], Core]


def show(out: Out, deadline: int) -> tuple[Any, ...]:
    """Everything that a core asks for, as a value that later changes cannot reach."""
    messages = [[(dest, wire.encode(message)) for dest, message in box] for box in (out.now, out.wait)]
    refused = [(token, repr(refusal)) for token, refusal in out.refused_reads]
    asked = (list(out.committed), list(out.reads), refused, out.install, out.changed)
    return (list(out.records), out.ticket, messages, *asked, deadline)


def stand(view: CoreView) -> tuple[Any, ...]:
    """What a node must never forget once it has let anybody know."""
    if view.role == LEADERLESS:
        # Its round follows from what others have signed, and so does what it holds of the log; its own words do not.
        return tuple(view.facts[name] for name in ("voted_round", "timeout_round", "proposed_round"))
    return view.term, view.voted_for, view.last_index


@dataclass
class Life:
    """What went into a core and came out of it, from `recover` on."""

    node: str
    number: int
    records: list[Record]
    snapshot: SnapshotMeta | None
    inputs: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    outputs: list[tuple[Any, ...]] = field(default_factory=list)


class Node:
    """One node; `core` is None while it is down."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.number = 0
        self.core: Core | None = None
        self.out = Out()
        self.disk: list[Record] = []
        self.snapshot: SnapshotMeta | None = None
        self.flying: deque[tuple[int, list[Record]]] = deque()
        self.gate: deque[tuple[int, str, bytes]] = deque()
        self.synced = 0
        self.handed_out = 0
        self.marks: list[int] = []
        """Marks that have just been handed out."""
        self.stalled = False
        self.resigned = False
        self.waiting: dict[int, int] = {}
        """Barriers asked for: token -> what had been handed out anywhere by then."""
        self.life = Life(name, 0, [], None)

    @property
    def up(self) -> Core:
        assert self.core is not None, f"{self.name} is down"
        return self.core


class Bench:
    """Drive it with `run`, `crash`, `boot`, `propose`, `read`...; times in microseconds."""

    def __init__(self, make: Make, size: int = 3, seed: int = 0, loss: float = 0.0) -> None:
        self.make, self.seed, self.loss = make, seed, loss
        self.rng = Random(f"bench/{seed}")
        self.now = 1_000_000
        self.names = [f"n{number}" for number in range(1, size + 1)]
        self.nodes = {name: Node(name) for name in self.names}
        self.committed: list[bytes] = []
        self.leaders: dict[int, str] = {}
        self.refused: list[bytes] = []
        self.look_every = 1
        self.accepted: list[bytes] = []
        """Payloads that were taken in where everybody does."""
        self.lives: list[Life] = []
        self.answered = 0
        self.installed = 0
        self.sync_us = (100, 8_000)
        self.delay_us = (100, 5_000)
        self.repeats = 0.0
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._looks = itertools.count()
        self._waits = itertools.count()
        for name in self.names:
            self.boot(name)
        view = self.nodes[self.names[0]].up.observe()
        self.leaderless = view.role == LEADERLESS
        # Where everybody signs all the time, looking at what a restart would give each time takes most of the time.
        self.look_every = 12 if self.leaderless else 1

    # ------------------------------------------------------------------------------------------------ time and nodes

    def _after(self, delay: int, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._count), action))

    def step(self) -> None:
        """The next thing happens."""
        late = min(
            (node for node in self.nodes.values() if node.core is not None),
            key=lambda node: node.up.deadline,
            default=None,
        )
        due = late.up.deadline if late is not None else 1 << 62
        if self._events and self._events[0][0] <= due:
            self.now, _, action = heapq.heappop(self._events)
            action()
            return
        assert late is not None, "nobody is up and nothing is under way"
        self.now = max(self.now, due)
        self.give(late, "timeout", self.now)
        assert late.up.deadline > self.now, f"{late.name}: a time-out that was handled is due again at once"

    def run(self, duration: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, or what is left of it until `until()`; whether that came."""
        end = self.now + duration
        while not until():
            upcoming = [node.up.deadline for node in self.nodes.values() if node.core is not None]
            upcoming += [self._events[0][0]] if self._events else []
            if min(upcoming, default=1 << 62) > end:
                self.now = end
                return until()
            self.step()
        return True

    def boot(self, name: str) -> None:
        """Start a node that is down, from what its disk holds."""
        node = self.nodes[name]
        if node.core is not None:
            return
        node.number += 1
        node.life = Life(name, node.number, list(node.disk), node.snapshot)
        self.lives.append(node.life)
        node.core = self.fresh(node.life)
        node.out, node.synced, node.waiting, node.resigned = Out(), 0, {}, False
        node.handed_out = node.snapshot.index if node.snapshot else 0
        self.give(node, "start", self.now)

    def fresh(self, life: Life) -> Core:
        """A core at the beginning of a life."""
        core = self.make(life.node, self.names, Random(f"{self.seed}/{life.node}/{life.number}"))
        core.recover(life.records, life.snapshot)
        return core

    def crash(self, name: str) -> None:
        """Power is lost: of the batches under way a prefix stays."""
        node = self.nodes[name]
        if node.core is None:
            return
        keep = self.rng.randint(0, len(node.flying))
        for _, batch in list(node.flying)[:keep]:
            node.disk += batch
        node.flying.clear()
        node.gate.clear()
        node.core = None

    # ------------------------------------------------------------------------------------------------------- inputs

    def give(self, node: Node, method: str, *args: Any) -> Any:
        """One input to a core, and every law that can be looked at behind it."""
        core, out = node.up, node.out
        assert out.ticket >= node.synced
        ticket, before = out.ticket, core.observe()
        if method != "timeout" and self.now < core.deadline and next(self._looks) % 5 == 0:
            self._looks_change_nothing(node)
        # As bytes: what a core does with a message's lists must not reach the record of what it was given.
        kept = (args[0], wire.encode(args[1]), args[2]) if method == "receive" else args
        node.life.inputs.append((method, kept))
        answer = getattr(core, method)(*args, out)
        node.life.outputs.append(show(out, core.deadline))
        what = f"{node.name}, {method} at {self.now}"
        assert bool(out.records) == (out.ticket > ticket), (
            f"{what}: a ticket names records: {len(out.records)} records, ticket {ticket} became {out.ticket}"
        )
        self._view(node, before, what)
        self._messages(node, what)
        self._drain(node, what)
        return answer

    def _looks_change_nothing(self, node: Node) -> None:
        core = node.up
        deadline, seen, state = core.deadline, core.observe(), core.state_records()
        assert core.observe() == seen, f"{node.name}: observe() changes what it shows"
        out = Out()
        out.ticket = node.out.ticket
        core.timeout(self.now, out)
        early = f"{node.name}: timeout at {self.now}, before its deadline {deadline}, is not without effect"
        assert show(out, core.deadline) == show(_empty(out.ticket), deadline), early
        after = replace(
            core.observe(), storage_stalled=seen.storage_stalled
        )  # that depends on the time alone
        assert (after, core.state_records()) == (seen, state), early

    def _view(self, node: Node, before: CoreView, what: str) -> None:
        view = node.up.observe()
        assert view == node.up.observe(), f"{what}: observe() changes what it shows"
        assert (view.node, tuple(view.members)) == (node.name, tuple(self.names)), f"{what}: {view}"
        assert view.term >= before.term, f"{what}: the term falls from {before.term} to {view.term}"
        assert view.commit_index >= before.commit_index, f"{what}: the commit index falls"
        assert view.durable_index <= view.last_index, (
            f"{what}: durable {view.durable_index}, last {view.last_index}"
        )
        if view.role == "leader":
            assert not node.resigned, f"{what}: it has resigned, and leads"
            other = self.leaders.setdefault(view.term, node.name)
            assert other == node.name, f"{what}: {other} and {node.name} both lead term {view.term}"

    def _messages(self, node: Node, what: str) -> None:
        out = node.out
        for dest, message in (*out.now, *out.wait):
            assert dest in self.names, f"{what}: a message to {dest}, who is no member"
            assert dest != node.name, f"{what}: a message to itself"
            again = wire.decode(wire.encode(message))
            assert again == message, f"{what}: {message} comes out of the wire format as {again}"
        if out.wait and next(self._waits) % self.look_every == 0:
            # Rules 1 and 2: what waits leaves when everything recorded so far is durable; that must be all that it can assert.
            found = self._recovered(node, [*node.disk, *self._unsynced(node), *out.records])
            now = node.up.observe()
            assert stand(found) == stand(now), (
                f"{what}: {out.wait[0][1]} will leave, though a restart then gives term, vote and last index "
                f"{stand(found)}; they are {stand(now)}"
            )

    def _unsynced(self, node: Node) -> list[Record]:
        return [record for _, batch in node.flying for record in batch]

    def _recovered(self, node: Node, records: list[Record]) -> CoreView:
        core = self.make(node.name, self.names, Random(0))
        try:
            core.recover(records, node.snapshot)
        except ValueError as error:
            raise AssertionError(
                f"{node.name}: the records it asked for do not rebuild it: {error}"
            ) from error
        return core.observe()

    def _drain(self, node: Node, what: str) -> None:
        """The replica's part."""
        out = node.out
        for dest, message in out.now:
            self._send(node.name, dest, wire.encode(message))
        for dest, message in out.wait:
            if out.ticket > node.synced:
                node.gate.append((out.ticket, dest, wire.encode(message)))
            else:
                self._send(node.name, dest, wire.encode(message))
        if out.records:
            node.flying.append((out.ticket, list(out.records)))
            self._sync(node, out.ticket, node.number)
        if out.committed:
            self._handed_out(node, what)
        for token, index in out.reads:
            assert token in node.waiting, f"{what}: a barrier {token} that nobody waits for"
            floor = node.waiting.pop(token)
            assert index >= floor, (
                f"{what}: barrier at index {index}; {floor} had been handed out before it was asked for"
            )
            self.answered += 1
        for token, refusal in out.refused_reads:
            assert token in node.waiting, f"{what}: a refused barrier {token} that nobody waits for"
            assert refusal.reason, f"{what}: a refusal without words"
            del node.waiting[token]
        if out.install is not None and out.install[1].index > node.handed_out:
            meta, number = out.install[1], node.number
            self._after(self.rng.randint(1_000, 60_000), lambda: self._install(node, number, meta))
        out.clear()
        marks, node.marks = node.marks, []
        for index in marks:
            # Every replica has the same state there, by the log alone.
            self.give(node, "applied", index, index.to_bytes(32, "big"), self.now)

    def _handed_out(self, node: Node, what: str) -> None:
        for entry in node.out.committed:
            index, _, kind = entry_position(entry)
            if kind in (EntryKind.DIGEST, EntryKind.CHECKPOINT):
                node.marks.append(index)
            assert index == node.handed_out + 1, (
                f"{what}: entry {index} is handed out behind {node.handed_out}"
            )
            node.handed_out = index
            if index <= len(self.committed):
                assert self.committed[index - 1] == entry, (
                    f"{what}: another entry {index} than somebody else's"
                )
            else:
                assert index == len(self.committed) + 1, f"{what}: entry {index} out of nowhere"
                self.committed.append(entry)
        if next(self._waits) % self.look_every:
            return
        held = self._recovered(node, node.disk).last_index
        assert held >= node.handed_out, (
            f"{what}: entry {node.handed_out} is handed out (rule 3); a restart now would find {held} entries"
        )

    def _sync(self, node: Node, ticket: int, number: int) -> None:
        def done() -> None:
            if node.number != number or node.core is None or node.synced >= ticket:
                return
            if node.stalled:
                self._after(5_000, done)
                return
            while node.flying and node.flying[0][0] <= ticket:
                node.disk += node.flying.popleft()[1]
            node.synced = ticket
            while node.gate and node.gate[0][0] <= ticket:
                _, dest, data = node.gate.popleft()
                self._send(node.name, dest, data)
            self.give(node, "persisted", ticket, self.now)

        self._after(self.rng.randint(*self.sync_us), done)

    def _send(self, source: str, dest: str, data: bytes) -> None:
        if self.rng.random() < self.loss:
            return
        for _ in range(2 if self.rng.random() < self.repeats else 1):
            self._after(self.rng.randint(*self.delay_us), lambda: self._deliver(source, dest, data))

    def _deliver(self, source: str, dest: str, data: bytes) -> None:
        node = self.nodes[dest]
        if node.core is not None:
            self.give(node, "receive", source, wire.decode(data), self.now)

    # -------------------------------------------------------------------------------------------------------- asking

    def leader(self) -> Node | None:
        """The node that leads the highest term; where everybody takes requests, one that does."""
        leading = [
            node
            for node in self.nodes.values()
            if node.core is not None
            and (node.core.observe().role == "leader" or (self.leaderless and not node.resigned))
        ]
        return max(leading, key=lambda node: node.up.observe().term, default=None)

    def propose(self, node: Node, *payloads: bytes) -> Refusal | None:
        """Ask for entries; a refusal must leave no trace."""
        view = node.up.observe()
        before = view.last_index
        asked = [(int(EntryKind.BLOCK), payload) for payload in payloads]
        refusal: Refusal | None = self.give(node, "propose", asked, self.now)
        if refusal is None and self.leaderless:
            self.accepted += payloads
        elif refusal is None:
            assert node.up.observe().last_index == before + len(payloads), (
                f"{node.name} accepts without appending"
            )
        else:
            assert refusal.reason, f"{node.name} refuses without words"
            assert node.up.observe().last_index == before, f"{node.name} refuses and appends all the same"
            self.refused += payloads
        return refusal

    def read(self, node: Node, token: int) -> None:
        """Ask for a read barrier."""
        node.waiting[token] = len(self.committed)
        self.give(node, "read", token, self.now)

    def resign(self, node: Node) -> None:
        """Let a node lead no more."""
        node.resigned = True
        self.give(node, "resign", self.now)

    def snapshot(self, name: str) -> None:
        """Take a snapshot where a node stands, and begin its journal anew with its state records."""
        node = self.nodes[name]
        if not self._written(node):
            return
        index = self._snapshot_index(node)
        if index <= (node.snapshot.index if node.snapshot is not None else 0):
            return
        term = entry_position(self.committed[index - 1])[1]
        meta = SnapshotMeta(index, term, bytes(32), tuple(self.names), bytes(32), 0)
        node.snapshot = meta
        self.give(node, "snapshot_taken", meta, self.now)
        if not self._written(node):
            return
        before = stand(node.up.observe())
        node.disk = list(node.up.state_records())
        assert stand(self._recovered(node, node.disk)) == before, (
            f"{name}: state_records do not rebuild the state"
        )

    def _written(self, node: Node) -> bool:
        """Whether a node is up and nothing is on its way to its disk; who writes all the time is given a little while."""
        if self.leaderless and node.core is not None and not node.stalled:
            self.run(100_000, lambda: not node.flying)
        return node.core is not None and not node.flying and not node.out.records

    def _snapshot_index(self, node: Node) -> int:
        """Where a node may take a snapshot: where it stands, or at the last mark that asks for one."""
        index = node.handed_out
        if getattr(node.up, "snapshots_at_marks", False):
            while index and entry_position(self.committed[index - 1])[2] != EntryKind.CHECKPOINT:
                index -= 1
        return index

    def _install(self, node: Node, number: int, meta: SnapshotMeta) -> None:
        if node.core is None or node.number != number or meta.index <= node.handed_out:
            return
        node.snapshot = meta
        node.handed_out = meta.index
        self.installed += 1
        self.give(node, "snapshot_installed", meta, self.now)

    # --------------------------------------------------------------------------------------------------------- in the end

    def payloads(self) -> list[bytes]:
        """What has been committed, without the protocol's own entries."""
        return [
            entry_payload(entry) for entry in self.committed if entry_position(entry)[2] == EntryKind.BLOCK
        ]

    def settle(self, patience: int = 30_000_000) -> None:
        """Everybody is up, nothing is lost: something new must be committed, and everybody must have everything."""
        self.loss = self.repeats = 0.0
        for node in self.nodes.values():
            node.stalled = False
            self.boot(node.name)
        mark, asked = b"settle/%d/" % len(self.lives), 0

        def done() -> bool:
            nonlocal asked
            there = any(payload.startswith(mark) for payload in self.payloads()[-50:])
            if self.now >= asked and not there:
                leader = self.leader()
                if leader is not None and not leader.resigned:
                    asked = self.now + 500_000
                    self.propose(leader, mark + b"%d" % self.now)
            return there and all(node.handed_out == len(self.committed) for node in self.nodes.values())

        assert self.run(patience, done), (
            f"no progress in {patience / 1e6:g} s though everybody is well: {self.explain()}"
        )
        assert not set(self.refused) & set(self.payloads()), "something was committed that had been refused"

    def explain(self) -> str:
        """Where everybody stands."""
        return "; ".join(
            f"{n.name} handed out {n.handed_out}, {n.core.observe() if n.core else 'down'}"
            for n in self.nodes.values()
        )

    def replay(self) -> None:
        """Every life again with the same inputs: the outputs must be the same."""
        for life in self.lives:
            core, out = self.fresh(life), Out()
            for number, ((method, args), said) in enumerate(zip(life.inputs, life.outputs, strict=True)):
                if method == "receive":
                    args = (args[0], wire.decode(args[1]), args[2])
                getattr(core, method)(*args, out)
                assert show(out, core.deadline) == said, (
                    f"{life.node}, life {life.number}: input {number}, {method}, has another answer the second time"
                )
                out.clear()


def _empty(ticket: int) -> Out:
    out = Out()
    out.ticket = ticket
    return out


def storm(bench: Bench, rounds: int) -> None:
    """Crashes, starts, stalled disks, snapshots, proposals to anybody, reads, with lost and repeated messages."""
    rng = bench.rng
    bench.loss, bench.repeats = rng.choice((0.0, 0.05, 0.2)), rng.choice((0.0, 0.2))
    bench.delay_us = (100, rng.choice((2_000, 30_000)))
    for number in range(rounds // 2 if bench.leaderless else rounds):
        bench.run(rng.choice((500, 5_000, 50_000, 300_000)))
        node = bench.nodes[rng.choice(bench.names)]
        draw = rng.random()
        if node.core is None:
            bench.boot(node.name)
        elif draw < 0.12:
            bench.crash(node.name)
        elif draw < 0.2:
            node.stalled = not node.stalled
        elif draw < 0.35:
            bench.snapshot(node.name)
        elif draw < 0.45:
            bench.read(node, number)
        else:
            who = bench.leader() or node
            bench.propose(
                who if rng.random() < 0.8 else node,
                *(b"%d/%d" % (number, k) for k in range(rng.randint(1, 3))),
            )
