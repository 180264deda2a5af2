"""A virtual run that never happened: moments, history, schedule and facts, plausible enough to look at.

Drawn from one seed. Five nodes in three domains, a leader that replicates to the others, clients that write and query,
a partition, a power cut, a pause, a clogged link, a second election, and (if asked) a violation at the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sim.check.history import Operation
from sim.faults.fault import Fault
from sim.report.facts import RunFacts, Violation
from sim.virtual.trace import Trace

DOMAINS = {"n1": "east", "n2": "east", "n3": "west", "n4": "west", "n5": "harbour"}
NODES = list(DOMAINS)


@dataclass
class Made:
    """What the reports take."""

    trace: Trace
    history: list[Operation]
    schedule: list[Fault]
    facts: RunFacts


class Maker:
    """Plays the run from its beginning to its end."""

    def __init__(self, seed: int, seconds: float, violated: bool, writes_per_s: int) -> None:
        self.rng = random.Random(seed)
        self.seed, self.end, self.violated = seed, int(seconds * 1e6), violated
        self.gap = 1_000_000 // writes_per_s
        self.told: list[tuple[int, str, str, str, dict]] = []
        self.history: list[Operation] = []
        self.number = 0
        s = self.end
        self.schedule = [
            Fault(0, "partition", s * 15 // 100, s * 27 // 100, {"shape": "bridge", "nodes": ["n1", "n2"]}),
            Fault(1, "power-cut", s * 40 // 100, s * 55 // 100, {"domain": "east"}),
            Fault(2, "clog", s * 45 // 100, s * 60 // 100, {"link": ["n3", "n5"], "ms": 40}),
            Fault(3, "pause", s * 65 // 100, s * 69 // 100, {"node": "n4"}),
            Fault(5, "fsync-error", s * 80 // 100, s * 90 // 100, {"node": "n5"}),
        ]
        self.bites = {0: 0, 1: 0, 2: 0, 3: 0, 5: 0}

    def tell(self, at: int, kind: str, node: str = "", peer: str = "", **data: object) -> None:
        self.told.append((at, kind, node, peer, data))

    def dark(self, node: str, at: int) -> bool:
        cut = self.schedule[1]
        return DOMAINS.get(node) == "east" and cut.at <= at < cut.until + 30_000

    def paused(self, node: str, at: int) -> bool:
        return node == "n4" and self.schedule[3].at <= at < self.schedule[3].until

    def severed(self, a: str, b: str, at: int) -> bool:
        cut = self.schedule[0]
        sides = {"n1": 0, "n2": 0, "n4": 1, "n5": 1}
        return cut.at <= at < cut.until and sides.get(a, 9) + sides.get(b, 9) == 1

    def message(self, at: int, a: str, b: str, name: str, note: object) -> int | None:
        """Send one; when it arrives, None if it never does."""
        self.number += 1
        number = self.number
        self.tell(at, "send", a, b, id=number, message=name, note=note)
        if self.severed(a, b, at):
            self.bite(0, at)
            self.tell(at, "drop", a, b, id=number, message=name, why="cut", fault=0)
            return None
        arrives = at + int(self.rng.lognormvariate(6.2, 0.4))
        clog = self.schedule[2]
        if {a, b} == {"n3", "n5"} and clog.at <= at < clog.until:
            self.bite(2, at)
            arrives += 40_000
        if arrives >= self.end:
            return None
        if self.dark(b, arrives):
            self.tell(arrives, "drop", a, b, id=number, message=name, why="down", fault=1)
            return None
        if self.rng.random() < 0.004:
            self.tell(arrives, "drop", a, b, id=number, message=name, why="lost", fault=None)
            return None
        self.tell(arrives, "deliver", a, b, id=number)
        if self.rng.random() < 0.004 and arrives + 900 < self.end:
            self.tell(arrives + 900, "deliver", a, b, id=number)
        return arrives

    def bite(self, number: int, at: int) -> None:
        if not self.bites[number] or self.rng.random() < 0.02:
            self.tell(at, "bite", number=number)
        self.bites[number] += 1

    def elect(self, at: int, node: str, term: int) -> int:
        """Pre-vote, votes, and a role change everywhere; when it leads."""
        self.tell(at, "role", node, role="precandidate", term=term - 1, leader=None)
        for ask, reply in (("PreVote", "PreVoteReply"), ("RequestVote", "RequestVoteReply")):
            answered = []
            for peer in NODES:
                if peer == node or self.dark(peer, at):
                    continue
                there = self.message(at, node, peer, ask, f"term={term} last={term * 3}")
                if there is not None:
                    back = self.message(there + 60, peer, node, reply, f"term={term} granted=true")
                    answered.append(back or at)
            at = max([*answered, at]) + 5
            if ask == "PreVote":
                self.tell(at, "role", node, role="candidate", term=term, leader=None)
        self.tell(at, "role", node, role="leader", term=term, leader=node)
        for peer in NODES:
            if peer != node and not self.dark(peer, at):
                self.tell(at + 700, "role", peer, role="follower", term=term, leader=node)
        self.tell(at, "mark", node, name="raft.elected_after_timeout")
        return at

    def replicate(self, at: int, leader: str, index: int, term: int) -> int:
        """One round of entries; when the leader knows it committed."""
        self.tell(at, "log", leader, **self.indices(index, index - 1, index - 1))
        self.tell(at, "write", leader, bytes=312, file="journal-0001")
        took = int(self.rng.uniform(150, 900))
        self.tell(at + took, "sync", leader, took=took)
        acks = []
        for peer in NODES:
            if peer == leader or self.dark(peer, at):
                continue
            there = self.message(at, leader, peer, "AppendEntries", f"term={term} prev={index - 1} n=1")
            if there is None or self.paused(peer, there):
                continue
            self.tell(there, "write", peer, bytes=312, file="journal-0001")
            synced = there + int(self.rng.uniform(150, 900))
            if synced >= self.end or self.dark(peer, synced):
                continue
            self.tell(synced, "sync", peer, took=synced - there)
            self.tell(synced, "log", peer, **self.indices(index, index, index - 1))
            back = self.message(synced, peer, leader, "AppendEntriesReply", f"index={index}")
            if back is not None:
                acks.append(back)
        done = sorted(acks)[1] if len(acks) > 1 else at + 5_000
        if index % 9 == 0:
            self.message(at - 400, f"c{1 + index % 3}", leader, "Submit", f"seq={index}")
            self.message(done, leader, f"c{1 + index % 3}", "Outcome", f"index={index}")
        self.tell(min(done, self.end), "log", leader, **self.indices(index, index, index))
        return done

    def indices(self, last: int, durable: int, commit: int) -> dict:
        return {
            "last_index": last,
            "durable_index": durable,
            "commit_index": commit,
            "applied_index": max(commit - self.rng.choice((0, 0, 1)), 0),
        }

    def write(self, at: int, done: int | None, index: int, client: int, outcome: str = "ok") -> None:
        seq = len(self.history)
        self.history.append(
            Operation(
                "write", f"c{client}", at, done, outcome, session=client, seq=seq, attempts=1,
                index=index if outcome == "ok" else None, place=0 if outcome == "ok" else None,
                command=b"append k%d v%d" % (seq % 7, seq), result=b"ok" if outcome == "ok" else None,
            )
        )  # fmt: skip

    def query(self, at: int, index: int, client: int, node: str) -> None:
        self.history.append(
            Operation(
                "query", f"c{client}", at, at + int(self.rng.uniform(400, 2500)), "ok", index=index, query=b"get k1",
                result=b"v%d" % index, consistency="linearizable", tier="fresh", source="model", node=node,
            )
        )  # fmt: skip

    def play(self) -> Made:
        cut, pause = self.schedule[1], self.schedule[3]
        for node in NODES:
            self.tell(0, "boot", node, life=1, notes="fresh")
            self.tell(0, "role", node, role="follower", term=0, leader=None)
        self.tell(0, "phase", name="faults", text="faults may strike")
        for fault in self.schedule[:4]:
            self.tell(fault.at, "fault", number=fault.number, name=fault.kind, text=str(fault))
            self.tell(fault.until, "calm", number=fault.number)
        self.tell(
            self.end * 75 // 100, "phase", name="quorum", text="a quorum is healed; everything else stays"
        )
        self.tell(self.end * 92 // 100, "phase", name="healed", text="all is healed")
        for node in ("n1", "n2"):
            self.bite(1, cut.at)
            self.tell(cut.at + 40, "down", node, why="power", unsynced=312 if node == "n1" else 0)
            self.tell(cut.until + 30_000, "boot", node, life=2, notes="a torn tail of 117 bytes dropped")
            self.tell(cut.until + 31_000, "role", node, role="follower", term=3, leader="n3")
        self.bite(3, pause.at)
        self.tell(pause.at, "pause", "n4", until=pause.until)
        self.tell(self.end * 62 // 100, "event", "n2", name="installed", fields={"index": 40, "from": "n3"})
        leader, term, index = "n1", 1, 0
        at = self.elect(160_000, leader, term) + 3_000
        while at < self.end - 30_000:
            if self.dark(leader, at):
                # Nobody answers until the next election: these clients never learn their outcome.
                for client in (1, 2):
                    self.write(at, None, 0, client, "unknown")
                self.write(at + 1_000, at + 90_000, 0, 3, "refused")
                leader, term = "n3", term + 2
                at = self.elect(cut.at + 187_000, leader, term) + 1_000
            index += 1
            done = self.replicate(at, leader, index, term)
            back = done + int(self.rng.uniform(200, 600))
            if back < self.end:
                self.write(at - int(self.rng.uniform(200, 600)), back, index, 1 + index % 3)
            if index % 3 == 0:
                self.query(at, index - 1, 4, self.rng.choice(NODES))
            at += max(int(self.rng.expovariate(1 / self.gap)), 1)
        violation = self.violate(index, leader) if self.violated else None
        self.told = [row for row in self.told if row[0] <= self.end]
        self.told.sort(key=lambda row: row[0])
        trace = Trace()
        for when, kind, node, peer, data in self.told:
            trace.tell(when, kind, node, peer, **data)
        facts = RunFacts(
            seed=self.seed,
            command=f"python scripts/partition.py replay {self.seed} --protocol raft --nodes 5",
            nodes=NODES,
            domains=DOMAINS,
            options={"protocol": "raft", "nodes": 5, "seconds": self.end / 1e6, "mode": "within budget"},
            outcome="correctness" if violation else "passed",
            violation=violation,
            marks={
                "raft.elected_after_timeout": 2,
                "journal.torn_tail_dropped": 1,
                "raft.conflict_truncated": 4,
            },
            bites=self.bites,
            trace_hash="5e1f" * 16,
        )
        return Made(trace, self.history, self.schedule, facts)

    def violate(self, index: int, leader: str) -> Violation:
        at = self.end * 86 // 100
        text = (
            f"n5 acknowledged entry {index - 9} before it was durable: read of c4 answered from entry {index - 12}, although "
            f"the write 2:{index - 9} had returned 1.2 ms before"
        )
        self.tell(at, "violation", "n5", oracle="linearizability", text=text)
        near = [
            place for place, op in enumerate(self.history) if op.returned and abs(op.returned - at) < 30_000
        ]
        return Violation("linearizability", at, text, ("n5", leader), tuple(near[-1:]))


def make(seed: int = 4711, seconds: float = 12.0, violated: bool = True, writes_per_s: int = 75) -> Made:
    """A run; about 34 moments a write."""
    return Maker(seed, seconds, violated, writes_per_s).play()
