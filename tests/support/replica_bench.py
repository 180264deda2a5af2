"""One replica on a bench: around a scripted core, or as the only member of a real cluster. Its disk jobs are done when a test
says so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from consensus.core import (
    NEVER,
    CoreView,
    EntryKind,
    NodeId,
    Out,
    Record,
    Refusal,
    SnapshotMeta,
    Token,
    encode_entry,
)
from consensus.raft import RaftCore, Timing
from node import snapshot
from node.disk import JOURNAL, Job, Op
from node.journal import Journal
from node.kv import KvMachine
from node.machine import Machine
from node.protocol import OpenSession, SessionOpened, Submit
from node.replica import Effects, Replica, Settings
from node.requests import RequestCheck
from node.segment import Identity
from node.sessions import Group, encode_block
from node.state import ReplicatedState
from sim.virtual.disk import MemoryDisk

MEMBERS = ("n1", "n2", "n3")


class ScriptedCore:
    """Does nothing by itself. `then` is what it fills into `Out` when it is next called; `heard` what it was told."""

    def __init__(self, node: NodeId, members: Sequence[NodeId] = MEMBERS) -> None:
        self.deadline = NEVER
        self.heard: list[tuple[Any, ...]] = []
        self.refusal: Refusal | None = None
        self.proposed: list[tuple[int, bytes]] = []
        self.asked: list[Token] = []
        self.snapshots: list[SnapshotMeta] = []
        self._then: list[Callable[[Out], None]] = []
        self.view = CoreView(node, "follower", 1, None, None, 0, 0, 1, 0, tuple(members), {}, False)

    def then(self, fill: Callable[[Out], None]) -> None:
        self._then.append(fill)

    def _fill(self, out: Out) -> None:
        while self._then:
            self._then.pop(0)(out)

    def observe(self) -> CoreView:
        view = self.view
        return CoreView(*[getattr(view, name) for name in CoreView.__dataclass_fields__])

    def become(self, role: str, leader: NodeId | None, out: Out | None = None) -> None:
        self.view.role, self.view.leader = role, leader
        if out is not None:
            out.changed = True

    def recover(self, records: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        self.heard.append(("recover", list(records), snapshot))

    def start(self, now: int, out: Out) -> None:
        self._fill(out)

    def receive(self, sender: NodeId, message: Any, now: int, out: Out) -> None:
        self._fill(out)

    def timeout(self, now: int, out: Out) -> None:
        self._fill(out)

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        if self.refusal is None:
            self.proposed += payloads
        self._fill(out)
        return self.refusal

    def read(self, token: Token, now: int, out: Out, lazy: bool = False) -> None:
        self.asked.append(token)

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        self.heard.append(("persisted", ticket))
        self._fill(out)

    def applied(self, index: int, digest: bytes, now: int, out: Out) -> None:
        self.heard.append(("applied", index))

    def snapshot_taken(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        self.heard.append(("taken", meta.index))
        self.snapshots.append(meta)

    def snapshot_installed(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        self.heard.append(("installed", meta.index))
        self._fill(out)

    def resign(self, now: int, out: Out) -> None:
        self.heard.append(("resign",))
        self.become("follower", None, out)

    def state_records(self) -> list[Record]:
        return [(7, b"state")]


class MarkedCore(ScriptedCore):
    """Of a protocol whose log says when snapshots are taken."""

    snapshots_at_marks = True


class Bench:
    """A replica around a `ScriptedCore`; around a `MarkedCore`, where requests are signed."""

    def __init__(
        self,
        settings: Settings | None = None,
        machine: Machine | None = None,
        requests: RequestCheck | None = None,
        max_sessions: int = 4096,
        rerun_to: int = 0,
    ) -> None:
        """`rerun_to`: so far the log that was found at the start is said to go."""
        self.now = 1_000_000
        self.disk = MemoryDisk()
        self.identity = Identity("bench", "n1")
        self.disk.perform(Journal.create_ops(self.identity, 4096))
        self.journal, recovered = Journal.open(self.disk, self.identity, reserve=4096)
        self.core = ScriptedCore("n1") if requests is None else MarkedCore("n1", (*MEMBERS, "n4"))
        self.core.view.last_index = rerun_to
        self.state = ReplicatedState(machine or KvMachine(), max_sessions)
        # As long as a test says nothing else, a node is not bothered by its own barriers and marks.
        settings = settings or Settings(barrier=NEVER, digest=NEVER)
        self.replica = Replica(
            "n1",
            self.identity,
            self.core,
            self.journal,
            recovered,
            self.state,
            self.disk,
            None,
            settings,
            requests,
        )
        self.replica.start(self.now)
        self.replica.desk._next_pace = self.replica._digest_at = NEVER
        self.jobs: list[Job] = []
        self.effects = Effects()
        self.turn()
        self.log: list[bytes] = []

    def turn(self) -> Effects:
        self.effects = self.replica.turn(self.now)
        self.jobs += self.effects.jobs
        return self.effects

    def core_says(self, fill: Callable[[Out], None]) -> Effects:
        """Have the core fill its `Out` this way, then take a turn."""
        self.core.then(fill)
        self.replica.receive_peer("n2", "anything", self.now)
        return self.turn()

    def record(self, ticket: int, *waiting: tuple[NodeId, Any]) -> Effects:
        """The core persists one record under `ticket`, with messages that wait."""

        def fill(out: Out) -> None:
            out.records.append((1, b"record %d" % ticket))
            out.ticket = ticket
            out.wait += waiting

        return self.core_says(fill)

    def finish(self, job: Job) -> Effects:
        """The disk has done `job`."""
        self.jobs.remove(job)
        self.disk.perform(job.ops)
        self.replica.job_done(job.lane, job.number, self.now)
        return self.turn()

    def finish_all(self) -> None:
        while self.jobs:
            self.finish(self.jobs[0])

    def entry(self, *groups: Group, kind: int = EntryKind.BLOCK) -> bytes:
        """The next entry of the log."""
        payload = encode_block(groups) if kind == EntryKind.BLOCK else b""
        self.log.append(encode_entry(len(self.log) + 1, 1, kind, payload))
        return self.log[-1]

    def commit(self, *groups: Group, kind: int = EntryKind.BLOCK) -> Effects:
        """The core hands out the next entry."""
        entry = self.entry(*groups, kind=kind)
        return self.core_says(lambda out: out.committed.append(entry))

    def lead(self) -> Effects:
        return self.core_says(lambda out: self.core.become("leader", "n1", out))

    def follow(self, leader: NodeId | None) -> Effects:
        return self.core_says(lambda out: self.core.become("follower", leader, out))


class Alone:
    """The only member of a real cluster, whose power fails after a given number of disk operations."""

    def __init__(self, settings: Settings, seed: int = 0) -> None:
        self.settings, self.seed = settings, seed
        self.disk = MemoryDisk()
        self.identity = Identity("alone", "n1")
        self.disk.perform(Journal.create_ops(self.identity, 4096))
        self.now = 0
        self.life = 0
        self.operations = 0
        self.dies_at: int | None = None
        self.said: list[Any] = []
        self.boot()

    def boot(self) -> None:
        self.life += 1
        self.disk.restart()
        journal, recovered = Journal.open(self.disk, self.identity, archive=True, reserve=4096)
        core = RaftCore("n1", ["n1"], random.Random(self.life), Timing(retain_bytes=300))
        newest = snapshot.newest(self.disk, self.identity)
        state = ReplicatedState(KvMachine())
        self.replica = Replica(
            "n1", self.identity, core, journal, recovered, state, self.disk, newest, self.settings
        )
        self.jobs: list[Job] = []
        self.replica.start(self.now)

    def perform(self, ops: Sequence[Op]) -> bool:
        """False if the power failed on the way."""
        for op in ops:
            if self.operations == self.dies_at:
                return False
            self.operations += 1
            self.disk.perform([op])
        return True

    def turn(self) -> bool:
        """One turn and the jobs that are due: of the journal all, of snapshots one every third turn."""
        effects = self.replica.turn(self.now)
        self.jobs += effects.jobs
        self.said += [message for _, message in effects.clients]
        self.now += 10_000
        slow = self.now % 30_000 == 0
        for job in [*self.jobs]:
            if job.lane == JOURNAL or slow:
                slow = slow and job.lane == JOURNAL
                self.jobs.remove(job)
                if not self.perform(job.ops):
                    return False
                self.replica.job_done(job.lane, job.number, self.now)
        return True

    def open_session(self) -> int:
        for _ in range(100):
            self.replica.receive_client("client", OpenSession(1), self.now)
            self.turn()
            for message in self.said:
                if type(message) is SessionOpened:
                    return message.session
        raise AssertionError("no session after 100 turns")

    def submit(self, session: int, seq: int, command: bytes) -> None:
        self.replica.receive_client("client", Submit(session, max(0, seq - 4), [seq], [command]), self.now)
