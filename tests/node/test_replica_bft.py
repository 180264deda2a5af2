"""Whole replicas around real BFT cores: signed requests in, equal answers out of every node, snapshots at the log's marks."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from signers import Ring, Signer

from consensus import wire
from consensus.bft.committee import Committee
from consensus.bft.core import BftCore
from consensus.bft.timing import Timing
from node import snapshot
from node.journal import Journal, read_segments
from node.kv import KvMachine, append, get
from node.protocol import Answer, Chunk, ChunkRequest, Consistency, Introduce, Outcome, Query, SessionOpened
from node.replica import Replica, Settings
from node.requests import RequestCheck
from node.segment import Identity
from node.state import ReplicatedState
from sim.check.audit import ArchivedLog
from sim.check.bft_log import translate
from sim.check.folders import Item
from sim.virtual.disk import MemoryDisk
from sim.virtual.keys import Notary

NAMES = ("n1", "n2", "n3", "n4")
COMMITTEE = Committee.usual("bench", 1, NAMES)
TIMING = Timing(idle=20_000, round=100_000, resend=50_000, mark_heights=3, snapshot_bytes=600)
SETTINGS = Settings(barrier=100_000)
STEP = 5_000


class Town:
    """The replicas, a network that delivers everything at once, disks that are quick."""

    def __init__(self) -> None:
        self.now = 0
        self.notary = Notary(NAMES)
        self.ring = Ring()
        self.disks = {name: MemoryDisk() for name in NAMES}
        for name in NAMES:
            self.disks[name].perform(Journal.create_ops(Identity("bench", name), 4096))
        self.replicas: dict[str, Replica] = {}
        self.said: dict[str, list[Any]] = {name: [] for name in NAMES}
        self.roots: dict[int, set[bytes]] = {}
        self.mail: deque[tuple[str, str, Any]] = deque()
        for name in NAMES:
            self.boot(name)

    def boot(self, name: str) -> None:
        disk, identity = self.disks[name], Identity("bench", name)
        disk.restart()
        journal, recovered = Journal.open(disk, identity, archive=True, reserve=4096)
        machine = KvMachine()
        check = RequestCheck("bench", self.ring.verify, machine.check)
        core = BftCore(name, COMMITTEE, self.notary.keyring(name), random.Random(name), TIMING, check.check)
        self.replicas[name] = replica = Replica(
            name, identity, core, journal, recovered, ReplicatedState(machine), disk,
            snapshot.newest(disk, identity), SETTINGS, check,
        )  # fmt: skip
        replica.start(self.now)

    def ask(self, name: str, message: Any) -> None:
        self.replicas[name].receive_client("client", message, self.now)

    def run(self, milliseconds: int) -> None:
        until = self.now + milliseconds * 1000
        while self.now < until:
            for name in list(self.replicas):
                self._turn(name)
            while self.mail:
                source, dest, message = self.mail.popleft()
                if dest in self.replicas:
                    self.replicas[dest].receive_peer(source, message, self.now)
                    self._turn(dest)
            self.now += STEP

    def _turn(self, name: str) -> None:
        replica = self.replicas[name]
        again = True
        while again:
            effects = replica.turn(self.now)
            again = effects.again
            for dest, message in [*effects.peers, *effects.bulk]:
                copy = wire.decode(wire.encode(message))
                self.mail.append((name, dest, copy))
            self.said[name] += [message for _, message in effects.clients]
            for kind, fields in effects.events:
                if kind == "snapshot":
                    found = snapshot.pieces(self.disks[name], fields["index"])
                    self.roots.setdefault(found.meta.index, set()).add(found.meta.root)
            for job in effects.jobs:
                self.disks[name].perform(job.ops)
                replica.job_done(job.lane, job.number, self.now)
                again = True

    def answers(self, name: str, kind: type) -> list[Any]:
        return [message for message in self.said[name] if type(message) is kind]

    def open(self, signer: Signer) -> int:
        for name in NAMES:
            self.ask(name, Introduce(signer.key))
        self.ask("n2", signer.open(1))
        self.run(200)
        opened = [self.answers(name, SessionOpened) for name in NAMES]
        assert opened[0]
        assert all(said == opened[0] for said in opened)
        return opened[0][0].session

    def source(self, folder: Path) -> Iterator[Item]:
        views = read_segments(self.disks[folder.name])
        records = [
            (view.name, record) for view in views for batch in view.batches for record in batch.records
        ]
        return translate(iter(records))


def test_what_one_node_takes_in_every_node_answers_alike_and_the_journals_hold_the_same_log() -> None:
    town = Town()
    ann = town.ring.signer("ann")
    session = town.open(ann)
    for seq in range(1, 31):
        town.ask(NAMES[seq % 4], ann.submit(session, seq - 1, [seq], [append(b"k", b"%04d;" % seq * 8)]))
        town.run(20)
    town.run(300)
    said = [town.answers(name, Outcome) for name in NAMES]
    assert {seq for outcome in said[0] for seq in outcome.seqs} == set(range(1, 31))
    assert said[0] == said[1] == said[2] == said[3]
    states = [town.replicas[name].state for name in NAMES]
    assert len({(state.applied_index, state.chain, state.digest()) for state in states}) == 1
    # Everybody took snapshots, of the same states.
    assert len(town.roots) > 1
    assert all(len(roots) == 1 for roots in town.roots.values())
    assert len({town.replicas[name].snapshot_index for name in NAMES}) == 1
    log = ArchivedLog({name: Path(name) for name in NAMES}, town.source, members=4)
    assert log.report.passed
    assert log.report.chain == states[0].chain.hex()
    assert len(list(log)) == states[0].applied_index
    town.ask("n3", Query(9, Consistency.LINEARIZABLE, 0, 1_000_000, get(b"k")))
    town.run(200)
    (answer,) = town.answers("n3", Answer)
    assert answer.chain == states[0].chain


def test_the_same_bundle_brought_by_every_node_takes_effect_once() -> None:
    town = Town()
    ann = town.ring.signer("ann")
    session = town.open(ann)
    for name in NAMES:
        # With something else beside it, so that every node's batch is another.
        town.ask(name, ann.submit(session, 0, [1], [append(b"k", b"once;")]))
        town.ask(name, town.ring.signer(f"client of {name}").open(1))
    town.run(400)
    (first, *rest) = town.answers("n1", Outcome)
    assert len(rest) == 3
    assert all(outcome == first for outcome in rest)
    assert len(town.replicas["n1"].state.sessions) == 5
    assert town.replicas["n1"].state.machine.query(get(b"k")).count(b"once;") == 1
    assert town.replicas["n1"].state.commands_applied == 1


def test_a_node_that_was_dark_takes_a_certified_snapshot_and_then_has_the_same_state() -> None:
    town = Town()
    ann = town.ring.signer("ann")
    session = town.open(ann)
    town.run(100)
    del town.replicas["n4"]
    for seq in range(1, 41):
        town.ask(NAMES[seq % 3], ann.submit(session, seq - 1, [seq], [append(b"k", b"%04d;" % seq * 8)]))
        town.run(60)
    assert town.replicas["n1"].snapshot_index > 30
    pieces = 0

    def count(message: Any) -> int:
        return type(message) in (Chunk, ChunkRequest)

    town.boot("n4")
    for _ in range(100):
        town.run(20)
        pieces += sum(count(message) for _, _, message in town.mail)
        if town.replicas["n4"].state.applied_index == town.replicas["n1"].state.applied_index:
            break
    states = [town.replicas[name].state for name in NAMES]
    assert len({(state.applied_index, state.chain, state.digest()) for state in states}) == 1
    assert town.replicas["n4"].snapshot_index > 30
    log = ArchivedLog({name: Path(name) for name in NAMES}, town.source, members=4)
    assert log.report.passed
    assert len(list(log)) == states[0].applied_index


def test_after_a_power_cut_of_everybody_a_client_is_answered_again_and_nothing_is_done_twice() -> None:
    town = Town()
    ann = town.ring.signer("ann")
    session = town.open(ann)
    bundles = [ann.submit(session, 0, [seq], [append(b"k", b"<%d>" % seq * 30)]) for seq in range(1, 13)]
    for bundle in bundles:
        town.ask("n1", bundle)
        town.run(30)
    town.run(200)
    before = {name: town.answers(name, Outcome) for name in NAMES}
    for name in NAMES:
        town.disks[name].cut(random.Random(name))
        town.said[name] = []
        town.boot(name)
        town.ask(name, Introduce(ann.key))
    for _ in range(4):
        # A node that has yet to find out what was final cannot say anything; asked again, it can.
        for bundle in bundles:
            for name in NAMES:
                town.ask(name, bundle)
        town.run(500)
    for name in NAMES:
        again = {tuple(outcome.seqs): outcome for outcome in town.answers(name, Outcome)}
        assert again == {tuple(outcome.seqs): outcome for outcome in before[name]}
    value = town.replicas["n2"].state.machine.query(get(b"k"))
    assert all(value.count(b"<%d>" % seq * 30) == 1 for seq in range(1, 13))
