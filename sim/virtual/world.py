"""A whole cluster on virtual time: nodes, clients, links, power, faults, and the oracles that watch.

`World(plan).run()` is a function of the plan and the code: the same plan gives the same `Result.trace_hash` in any process.
Three parts follow each other: faults by the schedule; a drawn majority healthy and everybody else in permanent trouble, in which
progress is demanded; everything repaired, in which everybody must become alike.
"""

from __future__ import annotations

import time
import traceback
from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Any, Final

import msgpack

from consensus import marks
from consensus.core import Core
from node.replica import Settings
from sim.check.history import Operation
from sim.faults import catalogue
from sim.faults.fault import Fault
from sim.faults.kind import UNTIL_THE_END, Terrain
from sim.faults.running import Running
from sim.oracles.committed import CommittedLog
from sim.oracles.oracle import Oracle, Violation, hooks
from sim.oracles.standard import STANDARD
from sim.virtual import subjects
from sim.virtual.client import Client
from sim.virtual.clock import Clock
from sim.virtual.explain import explain
from sim.virtual.healing import Healing, Stuck
from sim.virtual.host import LOOK_AFTER, Host
from sim.virtual.judge import judge
from sim.virtual.network import Link, Network
from sim.virtual.plan import Plan
from sim.virtual.power import PowerTree
from sim.virtual.streams import Streams
from sim.virtual.timeline import Timeline
from sim.virtual.trace import Trace

CRASH: Final = "crash"
LIVENESS: Final = "liveness"
VIOLATION: Final = "violation"
VOID: Final = "void"
OK: Final = "ok"
"""What a run can come to."""


class CoreFailed(Exception):
    """A core, replica or machine raised an exception of its own."""


@dataclass(slots=True)
class Result:
    """What a run came to. Plain data: it crosses process borders."""

    plan: Plan
    outcome: str
    oracle: str = ""
    """Who objected: an oracle's name, `liveness`, or the class of the exception."""
    text: str = ""
    nodes: list[str] = field(default_factory=list)
    at: int = 0
    trace_hash: str = ""
    virtual_us: int = 0
    real_s: float = 0.0
    messages: int = 0
    dropped: int = 0
    turns: int = 0
    operations: int = 0
    acknowledged: int = 0
    bites: dict[str, int] = field(default_factory=dict)
    """Label of a fault -> how often it truly did something; 0: it was there, and nothing came of it."""
    details: dict[str, int] = field(default_factory=dict)
    """Label: what it did -> how often."""
    by_number: dict[int, int] = field(default_factory=dict)
    """The same for each fault of the schedule."""
    marks: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    """Other counts: elections, snapshots installed..."""
    lost: dict[str, str] = field(default_factory=dict)
    """Nodes that refused to start, with their reason."""
    recovery_us: int = 0
    """From the healthy majority's beginning until every client had made progress."""
    violation_moment: int | None = None


class World:
    """See the module's text. `verdicts` are the exceptions that end a run with a verdict. `on_crash`: `stop` ends the run when a
    core raises; `go_on` ends only that process, as on a real node, and the run's verdict may still be a violation."""

    verdicts = (Violation, Stuck, CoreFailed)

    def __init__(self, plan: Plan, trace: Trace | None = None, on_crash: str = "stop") -> None:
        """Raises subjects.SubjectError, catalogue.FaultError for a plan that cannot be carried out."""
        self.plan = plan
        self.trace = trace
        self.on_crash = on_crash
        self.timeline = Timeline()
        self.streams = Streams(plan.seed)
        self.protocol = subjects.protocol(plan.protocol)
        self.machine = subjects.machine(plan.machine)
        try:
            self.settings = Settings(**plan.settings)
        except TypeError as error:
            raise subjects.SubjectError(f"settings: {error}") from None
        self.coded = plan.coded
        self.bulk = plan.weather.bulk
        self.names = [f"n{number}" for number in range(1, plan.nodes + 1)]
        count = len(self.names)
        self.quorum, self.budget = self.protocol.quorum(count), self.protocol.budget(count)
        self.may_lie = self.protocol.liars(count)
        """How many nodes may lie."""
        if plan.committee is not None:
            self.budget, self.may_lie = plan.committee
            self.quorum = count - self.budget
        # What is wrong with its options must show here, not as nodes that cannot start.
        self.protocol.make(self.names[0], self.names, Random(0), plan)
        places = plan.domains
        self.power = PowerTree({name: places[k % len(places)] for k, name in enumerate(self.names)})
        self.sent = 0
        """Numbers messages, where somebody wants to tell them apart."""
        self.dropped = 0
        self.turns = 0
        self.marks_told: dict[str, int] = {}
        self.ledger = array("Q")
        """Every message that arrived: its time and its link. The cheap half of the trace hash."""
        self.notes: Counter[str] = Counter()
        self.history: list[Operation] = []
        self.excused: dict[str, str] = {}
        """Nodes of which something was damaged on purpose, with what."""
        self.diverged: dict[str, int] = {}
        """Nodes whose state was made to diverge, and behind which index: what they tell clients is not held against
        the others."""
        self.harmed: dict[str, int] = {}
        """The same, and never forgotten: what they gave away before they came right is still about."""
        self.liars: dict[str, str] = {}
        """Nodes that have ever lied, and by which strategy: what they say is held against nobody."""
        self.signed: dict[bytes, Any] = {}
        """Signature -> what a client has signed with it, where requests are signed."""
        self.core_error = ""
        self.phase = "faults"

        self.terrain = Terrain(self.names, self.power.places(), self.names)
        catalogue.check(plan.schedule, self.terrain)
        kinds = [*STANDARD, *self.protocol.oracles]
        kinds += [subjects.oracle(spec) for spec in plan.oracles]
        if not any(hasattr(kind, "log") for kind in kinds):
            kinds.append(CommittedLog)
        self.oracles: list[Oracle] = [kind(self) for kind in kinds]
        self.on_formatted = hooks(self.oracles, "formatted")
        self.on_recovered = hooks(self.oracles, "recovered")
        self.on_lost = hooks(self.oracles, "lost")
        self.on_recorded = hooks(self.oracles, "recorded")
        self.on_written = hooks(self.oracles, "written")
        self.on_synced = hooks(self.oracles, "synced")
        self.on_down = hooks(self.oracles, "went_down")
        self.on_changed = hooks(self.oracles, "changed")
        self.on_applied = hooks(self.oracles, "applied")
        self.on_entered = hooks(self.oracles, "entered")
        self.on_replied = hooks(self.oracles, "replied")
        self.on_invoked = hooks(self.oracles, "invoked")
        self.on_returned = hooks(self.oracles, "returned")
        self.on_said: dict[type, list[Any]] = {}
        self.on_overheard: dict[type, list[Any]] = {}
        for oracle in self.oracles:
            for kind in oracle.listens:
                self.on_said.setdefault(kind, []).append(oracle.said)
                if type(oracle).overheard is not Oracle.overheard:
                    self.on_overheard.setdefault(kind, []).append(oracle.overheard)

        clients = [f"c{number}" for number in range(1, plan.clients + 1)]
        self.network = Network(self, self.names, clients, plan.weather)
        drift = self.streams.of("clocks")
        self.hosts = {
            name: Host(
                self,
                name,
                Clock(drift.randrange(10**9), drift.randint(-plan.drift, plan.drift) if plan.drift else 0),
            )
            for name in self.names
        }
        for host in self.hosts.values():
            host.listen()
        self.clients = [self.make_client(name) for name in clients]
        self.running = [Running(self, fault) for fault in plan.schedule]

    def make_client(self, name: str) -> Client:
        """A client of that name; a world of another kind may have others, with the same face."""
        if self.protocol.client is not None:
            made: Client = self.protocol.client(self, name)
            return made
        return Client(self, name, self.plan.load)

    # ---------------------------------------------------------------------------------------------------- the run

    def run(self) -> Result:
        """Carry the plan out."""
        began = time.perf_counter()
        marks.clear()
        result = Result(self.plan, OK)
        try:
            self._play(result)
            if self.core_error:
                raise CoreFailed(self.core_error)
        except Violation as violation:
            result.outcome, result.oracle = VIOLATION, violation.oracle
            result.text, result.nodes = violation.text, violation.nodes
        except Stuck as stuck:
            result.outcome, result.oracle, result.text = LIVENESS, "liveness", str(stuck)
        except CoreFailed as failure:
            result.outcome, result.oracle, result.text = CRASH, "crash", str(failure)
        result.at = self.timeline.now
        if self.trace is not None and result.outcome != OK:
            self.trace.tell(
                result.at, "violation", oracle=result.oracle, text=result.text, nodes=result.nodes
            )
        self._sum_up(result)
        result.real_s = time.perf_counter() - began
        return result

    def _play(self, result: Result) -> None:
        self.begin()
        self.timeline.run(self.plan.duration)
        for running in self.running:
            self.calm(running)
        healing = Healing(self)
        if self.plan.over_budget and len(self.lost()) > self.budget:
            healing.too_few()
        else:
            if self.plan.quorum:
                result.recovery_us = healing.quorum_only()
            if healing.spread() and healing.noticed():
                return
            healing.all_healed()
        self._judge()

    def begin(self) -> None:
        """Format and boot every node, and set the schedule's faults. For whoever drives a world step by step instead of by `run`:
        then let time pass with `timeline.run`, and end with `settle`. All of them raise what `verdicts` names."""
        self.tell_phase("faults", "faults by the schedule")
        for host in self.hosts.values():
            for hook in self.on_formatted:
                hook(host)
            host.boot()
        for running in self.running:
            self.timeline.at(running.fault.at, self._begin, running)
            if running.fault.until > running.fault.at:
                self.timeline.at(running.fault.until, self.calm, running)

    def settle(self) -> None:
        """End every fault, repair everything, demand that all nodes become alike, and judge the whole run."""
        for running in self.running:
            self.calm(running)
        Healing(self).all_healed()
        self._judge()

    def inject(self, fault: Fault) -> Running:
        """Begin a fault now, whatever its times say; `calm` ends it."""
        catalogue.check([fault], self.terrain)
        running = Running(self, fault)
        self.running.append(running)
        self._begin(running)
        return running

    def calm(self, running: Running) -> None:
        """End a fault's course, if it still goes on."""
        course = running.course
        if course is not None:
            course.close()
            self._ended(running)

    def _judge(self) -> None:
        judge(self)
        for hook in hooks(self.oracles, "finished"):
            hook()

    def _begin(self, running: Running) -> None:
        if self.phase != "faults":
            return  # an edited schedule may reach beyond the part with faults
        if self.trace is not None:
            fault = running.fault
            self.trace.tell(
                self.timeline.now, "fault", number=fault.number, name=running.label, text=str(fault)
            )
        running.course = catalogue.KINDS[running.fault.kind].course(self, running)
        self._step(running)

    def _step(self, running: Running) -> None:
        course = running.course
        if course is None:
            return
        try:
            wait = next(course)
        except StopIteration:
            self._ended(running)
            return
        if wait < UNTIL_THE_END:
            self.timeline.after(wait, self._step, running)

    def _ended(self, running: Running) -> None:
        running.course = None
        if self.trace is not None:
            self.trace.tell(self.timeline.now, "calm", number=running.fault.number)

    def lost(self) -> dict[str, str]:
        """Nodes that refused to start, with their reasons."""
        return {host.name: host.lost for host in self.hosts.values() if host.lost}

    def explain(self) -> str:
        """Who is doing what, and who waits for whom."""
        return explain(self)

    # ------------------------------------------------------------------------------------------------ what happened

    def count(self, what: str) -> None:
        """Count something worth knowing of a run."""
        self.notes[what] += 1

    def synced(self, host: Host, job: int) -> None:
        """A node's disk holds journal job `job`."""
        for hook in self.on_synced:
            hook(host, job)

    def replica_event(self, host: Host, name: str, fields: dict[str, Any]) -> None:
        """Something that an operator would read in the log."""
        if name == "role":
            if fields["role"] == "leader":
                self.notes["leaders"] += 1
            return
        if name == "installed" and self.harmed:
            # Another state altogether: as good or as bad as that of whoever gave it.
            self.diverged.pop(host.name, None)
            # Whoever gave it may lead no more, or have restarted since: any of those that were ever harmed, before that index.
            givers = [other for other, harmed in self.harmed.items() if harmed <= fields["index"]]
            if givers:
                self.diverged[host.name] = fields["index"]
                self.harmed.setdefault(host.name, fields["index"])
                self.excused[host.name] = f"perhaps a snapshot of {givers[0]}, which had diverged"
        self.notes[name] += 1
        if self.trace is not None:
            self.trace.tell(self.timeline.now, "event", host.name, name=name, fields=fields)

    def core_failed(self, host: Host, error: Exception) -> None:
        """A core, replica or machine raised: on a real node the process ends."""
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
        words = f"{host.name}: {type(error).__name__}: {error} ({where})"
        if self.on_crash == "stop":
            raise CoreFailed(words) from error
        self.core_error = self.core_error or words
        host.crashed = words
        host.kill()

    def disk_failed(self, host: Host, error: Exception) -> None:
        """A disk refused: the node stops and says so. Somebody looks after it, and starts the machine again from nothing: after a
        failed fsync the kernel may show bytes that the disk does not have, and only a restart of the machine tells them apart."""
        self.notes["nodes stopped by their disk"] += 1
        host.crashed = f"stopped: {error}"
        host.cut_power()
        self.timeline.after(LOOK_AFTER, lambda node: node.look_after(), host)

    def tell_sent(self, number: int, link: Link, message: Any) -> None:
        """For a traced run: a message is on its way."""
        assert self.trace is not None
        body = message[1] if type(message) is tuple else message
        self.trace.tell(
            self.timeline.now, "send", link.source, link.dest,
            id=number, message=type(body).__name__, note=note_of(body),
        )  # fmt: skip

    def tell_phase(self, name: str, text: str) -> None:
        """A part of the run begins."""
        self.phase = name
        if self.trace is not None:
            self.trace.tell(self.timeline.now, "phase", name=name, text=text)

    def leader(self) -> str | None:
        """Who leads, as far as the nodes themselves say: the one of the highest term."""
        if self.protocol.leader is not None:
            return self.protocol.leader(self)
        best, found = -1, None
        for host in self.hosts.values():
            if host.view is not None and host.view.role == "leader" and host.view.term > best:
                best, found = host.view.term, host.name
        return found

    def core(self, name: str) -> Core | None:
        """A node's core, while it runs."""
        replica = self.hosts[name].replica
        return replica.core if replica else None

    def _sum_up(self, result: Result) -> None:
        result.virtual_us = self.timeline.now
        result.messages, result.dropped, result.turns = (
            len(self.ledger) + self.dropped,
            self.dropped,
            self.turns,
        )
        result.operations = len(self.history)
        result.acknowledged = sum(operation.outcome == "ok" for operation in self.history)
        for running in self.running:
            total = sum(running.bites.values())
            result.bites[running.label] = result.bites.get(running.label, 0) + total
            result.by_number[running.fault.number] = total
            for what, count in sorted(running.bites.items()):
                key = f"{running.label}: {what}"
                result.details[key] = result.details.get(key, 0) + count
        result.marks = dict(marks.reached())
        result.notes = dict(self.notes)
        result.lost = self.lost()
        rows = [
            (o.op, o.client, o.invoke, o.returned, o.outcome, o.index, o.place, o.chain, o.result)
            for o in self.history
        ]
        digest = sha256(self.ledger.tobytes())
        digest.update(msgpack.packb(rows, use_bin_type=True))
        result.trace_hash = digest.hexdigest()[:32]


def note_of(message: Any) -> str:
    """The fields of a message that are worth reading, in a few characters."""
    words = []
    for name in getattr(message, "__dataclass_fields__", ()):
        value = getattr(message, name)
        if isinstance(value, bool | int | str) or value is None:
            words.append(f"{name}={value}")
        elif isinstance(value, list):
            words.append(f"{name}[{len(value)}]")
    return " ".join(words)[:120]
