"""A seeded world of whole replicas: real core, journal bytes and sessions on virtual disks, a network that loses, repeats and
reorders, power that is cut with bytes unsynced, clients that retry under the same numbers at other nodes.

Time is virtual; the whole run is a function of the seed. `World.run_story` plays faults, heals, waits for progress and
holds what clients saw against the log; `World.bites` counts how often each fault really did something.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
from replica_clients import LOG_KEY, Client

from consensus import wire
from consensus.raft import RaftCore, Timing
from consensus.raft.messages import AppendEntriesReply, RequestVote, RequestVoteReply
from node import snapshot
from node.disk import JOURNAL, SNAPSHOT, Job, Op, Sync, SyncDirectory
from node.journal import Journal, merge, read_segments
from node.kv import KvMachine, get
from node.machine import Machine
from node.protocol import Chunk, ChunkRequest, DigestReport, Outcome
from node.replica import Replica, Settings
from node.segment import Identity
from node.snapshot import SnapshotError
from node.state import ReplicatedState
from sim.check.folders import Damage, Item
from sim.check.history import Operation
from sim.check.replicated import NodeState
from sim.check.whole import Checked, check_everything
from sim.virtual.disk import MemoryDisk

TIMING = Timing(heartbeat=25_000, election=120_000, stall=2_000_000, retain_bytes=800)
SETTINGS = Settings(
    barrier=60_000,
    fresh=300_000,
    digest=250_000,
    session_ttl=1_200_000,
    max_command_bytes=4096,
    max_sessions=7,
    queries_in_queue=12,
    snapshot_bytes=6000,
)
TURN = 40
"""Microseconds from something's arrival to the turn that handles it, together with what else has arrived."""


class Host:
    """A machine in the world: its disk, and the replica on it while the power is on."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.disk = MemoryDisk()
        self.identity = Identity("world", name)
        self.disk.perform(Journal.create_ops(self.identity, reserve=16384))
        self.replica: Replica | None = None
        self.life = 0
        self.slow = 1
        self.lanes: dict[int, deque[Job]] = {}
        self.working: dict[int, bool] = {}
        self.turn_at = -1
        self.timer_at = -1
        self.role = ""
        self.sessions = 0
        # The strongest of what was said to others, which no later life may contradict.
        self.term_said = 0
        self.voted_said: dict[int, str] = {}
        self.held_said: dict[int, int] = {}  # term -> highest index said to be held in it

    def boot(self) -> None:
        world = self.world
        self.life += 1
        self.disk.restart()
        journal, recovered = Journal.open(self.disk, self.identity, archive=True, reserve=16384)
        notes: list[str] = []
        newest = snapshot.newest(self.disk, self.identity, notes)
        assert not notes, notes
        world.bites["torn tails"] += recovered.torn_bytes > 0
        rng = world.rng(f"core/{self.name}/{self.life}")
        core = RaftCore(self.name, world.names, rng, world.timing)
        state = ReplicatedState(world.machine_of(self.name), world.settings.max_sessions)
        self.replica = Replica(
            self.name, self.identity, core, journal, recovered, state, self.disk, newest, world.settings
        )
        self._stand_by_what_was_said()
        self.lanes = {JOURNAL: deque(), SNAPSHOT: deque()}
        self.working = {JOURNAL: False, SNAPSHOT: False}
        self.turn_at = self.timer_at = -1
        self.role = ""
        self.replica.start(world.now)
        self.poke()

    def _stand_by_what_was_said(self) -> None:
        assert self.replica is not None
        view = self.replica.core.observe()
        assert view.term >= self.term_said, (
            f"{self.name} said term {self.term_said}, came back in {view.term}"
        )
        voted = self.voted_said.get(view.term)
        assert voted is None or voted == view.voted_for, f"{self.name} forgot its vote in term {view.term}"
        held = self.held_said.get(view.term, 0)
        assert view.last_index >= held, f"{self.name} said it holds {held}, came back with {view.last_index}"

    def note_said(self, dest: str, message: Any) -> None:
        """Rule 1, seen from outside: what leaves must be what a power cut in this instant would leave."""
        kind = type(message)
        if kind not in (AppendEntriesReply, RequestVote, RequestVoteReply):
            return
        self.term_said = max(self.term_said, message.term)
        if kind is RequestVote:
            self.voted_said[message.term] = self.name
        elif kind is RequestVoteReply and message.granted:
            self.voted_said[message.term] = dest
        elif kind is AppendEntriesReply and message.success:
            self.held_said[message.term] = max(self.held_said.get(message.term, 0), message.index)

    def poke(self) -> None:
        """Something has arrived: a turn follows soon."""
        if self.turn_at < 0 and self.replica is not None:
            self.turn_at = self.world.now + TURN
            life = self.life
            self.world.at(TURN, lambda: self.turn(life))

    def turn(self, life: int) -> None:
        replica = self.replica
        if replica is None or life != self.life:
            return
        self.turn_at = -1
        world = self.world
        before = replica.state.applied_index
        effects = replica.turn(world.now)
        world.saw_turn(self, before)
        for job in effects.jobs:
            self.lanes[job.lane].append(job)
            self.work(job.lane)
        for dest, message in effects.peers:
            self.note_said(dest, message)
            world.send(self.name, dest, message, "peer")
        for dest, message in effects.bulk:
            world.send(self.name, dest, message, "bulk")
        for connection, message in effects.clients:
            world.saw_reply(self, message, before)
            connection.deliver(message)  # type: ignore[attr-defined]
        for name, fields in effects.events:
            world.events.append((world.now, self.name, name, fields))
            world.bites[name] += 1
        if effects.again:
            self.poke()
        due = max(replica.deadline, world.now + TURN)
        if self.timer_at <= world.now or due < self.timer_at:
            self.timer_at = due
            world.at(due - world.now, lambda: self.ring(life, due))

    def ring(self, life: int, due: int) -> None:
        if life == self.life and self.timer_at == due:
            self.timer_at = -1
            self.poke()

    # -- disk

    def work(self, lane: int) -> None:
        """Perform what has queued up in a lane, as one write and one sync; a sync takes time, and the power may go meanwhile."""
        queue = self.lanes[lane]
        if self.working[lane] or not queue:
            return
        self.working[lane] = True
        jobs = list(queue) if lane == JOURNAL else [queue[0]]
        for _ in jobs:
            queue.popleft()
        ops = merge([job.ops for job in jobs]) if len(jobs) > 1 else jobs[0].ops
        self.go_on(self.life, lane, deque(ops), jobs[-1].number)

    def go_on(self, life: int, lane: int, ops: deque[Op], number: int) -> None:
        if life != self.life or self.replica is None:
            return
        if ops and isinstance(ops[0], Sync | SyncDirectory):
            self.disk.perform([ops.popleft()])  # the time that it takes has passed
        while ops and not isinstance(ops[0], Sync | SyncDirectory):
            self.disk.perform([ops.popleft()])
        if ops:
            low, high = (100, 3000) if lane == JOURNAL else (500, 12_000)
            took = self.world.rng_of("disk/" + self.name).randint(low, high) * self.slow
            self.world.at(took, lambda: self.go_on(life, lane, ops, number))
            return
        self.working[lane] = False
        self.replica.job_done(lane, number, self.world.now)
        self.poke()
        self.work(lane)

    # -- power

    def cut(self) -> None:
        """The power goes: memory is lost, and of unsynced bytes and names what the disk's law says."""
        if self.replica is None:
            return
        self.replica = None
        self.life += 1
        loss = self.disk.cut(self.world.rng_of("power/" + self.name))
        self.world.bites["cuts"] += 1
        self.world.bites["cuts with unsynced bytes"] += loss.unsynced_bytes > 0
        self.world.bites["names undone"] += loss.entries_undone > 0


class World:
    """`size` replicas and `clients` clients; everything drawn from `seed`."""

    def __init__(
        self,
        seed: int,
        size: int = 3,
        clients: int = 4,
        machine_of: Callable[[str], Machine] = lambda name: KvMachine(),
        settings: Settings = SETTINGS,
        timing: Timing = TIMING,
    ) -> None:
        self.seed = seed
        self.now = 0
        self.machine_of, self.settings, self.timing = machine_of, settings, timing
        self.names = [f"n{i}" for i in range(1, size + 1)]
        self.severed: set[tuple[str, str]] = set()
        self.loss, self.repeat = 0.02, 0.02
        self.bites: Counter[str] = Counter()
        self.events: list[tuple[int, str, str, dict[str, Any]]] = []
        self.history: list[Operation] = []
        self.tokens: dict[tuple[int, int], bytes] = {}
        self.chains: dict[int, bytes] = {}
        self.digests: dict[int, tuple[bytes, bytes]] = {}
        self.outcomes: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.excused: set[str] = set()
        """Replicas of which a test knows that they have diverged; what they say is not held against the others."""
        self._rngs: dict[str, random.Random] = {}
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._hash = hashlib.sha256()
        self.hosts = {name: Host(self, name) for name in self.names}
        for host in self.hosts.values():
            host.boot()
        self.clients = [Client(self, f"c{i}") for i in range(clients)]

    def rng(self, name: str) -> random.Random:
        """A fresh stream of its own for `name`."""
        return random.Random(f"{self.seed}/{name}")

    def rng_of(self, name: str) -> random.Random:
        """The stream of `name`, going on where it was."""
        if name not in self._rngs:
            self._rngs[name] = self.rng(name)
        return self._rngs[name]

    @property
    def trace(self) -> str:
        """Hash of everything that was carried, and when."""
        return self._hash.hexdigest()

    # -- time

    def at(self, delay: int, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + delay, self._count, action))

    def run(self, duration: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Run for `duration`, or until something holds; whether it does."""
        end = self.now + duration
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if until():
                return True
        self.now = end
        return until()

    # -- network

    def carry(
        self, way: str, message: Any, arrive: Callable[[Any], None], open_: Callable[[], bool] = lambda: True
    ) -> None:
        """Carry a message in its encoded form, so that nobody shares an object with anybody."""
        rng = self.rng_of("link/" + way)
        data = wire.encode(message)
        copies = 0 if rng.random() < self.loss else 2 if rng.random() < self.repeat else 1
        for _ in range(copies):
            delay = rng.randint(150, 1500) if rng.random() < 0.9 else rng.randint(1500, 25_000)

            def deliver() -> None:
                if open_():
                    self._hash.update(b"%d %s " % (self.now, way.encode()) + data)
                    arrive(wire.decode(data))

            self.at(delay, deliver)

    def send(self, source: str, dest: str, message: Any, kind: str) -> None:
        if type(message) is DigestReport:
            self.saw_digest(source, message)

        def arrive(copy: Any) -> None:
            replica = self.hosts[dest].replica
            if replica is None:
                return
            try:
                replica.receive_peer(source, copy, self.now)
            except SnapshotError:
                self.bites["bad pieces"] += 1
            self.hosts[dest].poke()

        if type(message) in (Chunk, ChunkRequest):
            self.bites["pieces"] += 1
        self.carry(f"{source}>{dest}/{kind}", message, arrive, lambda: (source, dest) not in self.severed)

    def partition(self, side: list[str], one_way: bool = False) -> None:
        """Cut the links between `side` and the rest (with `one_way`: only from `side` outwards)."""
        for a in self.names:
            for b in self.names:
                if (a in side) != (b in side) and (a in side or not one_way):
                    self.severed.add((a, b))

    def heal(self) -> None:
        self.severed.clear()

    # -- what is checked all the time

    def saw_turn(self, host: Host, before: int) -> None:
        replica = host.replica
        assert replica is not None
        index, chain = replica.state.applied_index, replica.state.chain
        assert index >= before, f"{host.name} went back from {before} to {index}"
        known = self.chains.setdefault(index, chain)
        assert known == chain, f"{host.name} has another history at {index}"
        sessions, host.sessions = host.sessions, len(replica.state.sessions)
        self.bites["sessions expired"] += host.sessions < sessions and replica.view.role == "leader"
        if replica.view.role != host.role:
            host.role = replica.view.role
            self.bites["leader changes"] += host.role == "leader"

    def saw_digest(self, source: str, report: DigestReport) -> None:
        if source in self.excused:
            return
        known = self.digests.setdefault(report.index, (report.digest, report.chain))
        assert known == (report.digest, report.chain), f"{source} has diverged at {report.index}"
        self.bites["digests"] += 1

    def saw_reply(self, host: Host, message: Any, before: int) -> None:
        """Whoever answers for a command, and whenever: the place, the chain value and the result are the same."""
        if type(message) is not Outcome or host.name in self.excused:
            return
        for seq, place, result in zip(message.seqs, message.places, message.results, strict=True):
            said = (message.index, place, message.chain, result)
            known = self.outcomes.setdefault((message.session, seq), said)
            assert known == said, f"{message.session}:{seq} was answered with {known}, now with {said}"
            self.bites["retries answered from memory"] += message.index <= before

    # -- a story

    def run_story(self, duration: int = 3_000_000) -> Checked:
        """Faults for `duration`, then peace, then all checks. Raises AssertionError with the seed in its text."""
        try:
            rng = self.rng("story")
            end = self.now + duration
            while self.now < end:
                self.run(rng.randint(20_000, 300_000))
                self.misfortune(rng)
            self.settle()
            return self.check()
        except AssertionError as error:
            raise AssertionError(f"seed {self.seed}, {self.now} us: {error}") from error

    def misfortune(self, rng: random.Random) -> None:
        draw = rng.random()
        names = [name for name in self.names if self.hosts[name].replica is not None]
        leaders = [name for name in names if self.hosts[name].role == "leader"]
        dark = [name for name in self.names if name not in names]
        if draw < 0.4 and names:
            victims = rng.sample(names, rng.randint(1, len(names)))
            if leaders and rng.random() < 0.4:
                victims = leaders
            if rng.random() < 0.7:  # the moment between a write and its sync is the one that matters
                disk = self.hosts[victims[0]].disk
                self.run(20_000, lambda: disk.unsynced_bytes > 0)
            for name in victims:
                self.hosts[name].cut()
        elif draw < 0.6:
            self.partition(rng.sample(self.names, rng.randint(1, len(self.names) - 1)), rng.random() < 0.3)
            if rng.random() < 0.3:
                self.severed.add(("clients", rng.choice(self.names)))
        elif draw < 0.7:
            self.hosts[rng.choice(self.names)].slow = rng.choice((1, 10, 60))
        else:
            self.heal()
        for name in dark:
            if rng.random() < 0.7:
                self.hosts[name].boot()

    def settle(self) -> None:
        """Everything works again: everybody gets on, and everybody catches up."""
        self.heal()
        self.loss = 0.0
        for host in self.hosts.values():
            host.slow = 1
            if host.replica is None:
                host.boot()
        before = {client.name: client.done for client in self.clients}
        healed = self.now
        assert self.run(
            6 * self.settings.session_ttl,
            lambda: all(client.done > before[client.name] for client in self.clients),
        ), "no progress after everything was repaired"
        self.bites["recovery, ms"] += (self.now - healed) // 1000
        for client in self.clients:
            client.active = False
        # Idle sessions are swept now and then for ever, so everything applied is not a state that stays.
        assert self.run(2_000_000, self.all_alike), "the replicas do not come together"

    def all_alike(self) -> bool:
        reached = {
            (replica.state.applied_index, replica.core.observe().last_index)
            for host in self.hosts.values()
            if (replica := host.replica) is not None
        }
        (index, last), *others = reached
        return not others and index == last and not any(client.open for client in self.clients)

    def check(self) -> Checked:
        replicas = [host.replica for host in self.hosts.values() if host.replica is not None]
        assert len({replica.state.digest() for replica in replicas}) == 1, "the states differ"
        assert not any(replica.quarantined for replica in replicas)
        self._check_tokens(replicas[0])
        checked = self.check_history()
        problems = [finding for finding in checked.findings + checked.replay.findings if not finding.passed]
        assert not problems, problems
        assert checked.replay.acked_updates_lost == 0
        assert checked.replay.acked_updates > 0
        assert checked.audit.passed, checked.audit
        assert checked.audit.agreed_index == replicas[0].state.applied_index
        assert checked.audit.chain == replicas[0].state.chain.hex(), "the archived log is another one"
        for index, (digest, chain) in self.digests.items():
            assert checked.replay.digests[index] == digest, f"the digest at {index} is not the log's"
            assert checked.replay.chains[index] == chain
        self.bites["stories"] += 1
        self.bites["checked writes"] += checked.replay.acked_updates
        return checked

    def check_history(self) -> Checked:
        """What `sim.check` says of the history and of the segments on all disks."""
        return check_everything(
            self.history,
            {name: Path(name) for name in self.names if name not in self.excused},
            NodeState(KvMachine(), self.settings.max_sessions),
            fresh_limit_us=self.settings.fresh,
            digests_at=list(self.digests),
            members=len(self.names),
            source=self._read,
        )

    def _check_tokens(self, replica: Replica) -> None:
        """Exactly once, without any of the code that does it: each token stands in the one long value once if its append was
        acknowledged, else at most once."""
        (value,) = msgpack.unpackb(replica.state.query(get(LOG_KEY)))
        counts = Counter((value or b"").split(b";"))
        acked = {
            (o.session, o.seq) for o in self.history if o.op == "write" and o.outcome == "ok" and o.result
        }
        for name, token in self.tokens.items():
            count = counts.pop(token, 0)
            assert count == 1 if name in acked else count <= 1, f"{token!r} stands {count} times in the value"
        assert set(counts) <= {b""}, f"nobody wrote {list(counts)[:3]}"

    def _read(self, folder: Path) -> Iterator[Item]:
        for view in read_segments(self.hosts[folder.name].disk):
            for batch in view.batches:
                for record in batch.records:
                    yield view.name, record
            if view.end != "clean":
                yield Damage(view.name, view.end, view.words)


def main(first: int, last: int) -> None:
    """Play the stories of seeds first..last; print what failed and what bit."""
    bites: Counter[str] = Counter()
    for seed in range(first, last + 1):
        world = World(seed, size=3 if seed % 4 else 5)
        try:
            world.run_story()
        except AssertionError as error:
            print(error)
        bites += world.bites
    for name, count in sorted(bites.items()):
        print(f"{count:9} {name}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
