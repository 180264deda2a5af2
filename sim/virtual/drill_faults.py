"""A scenario's faults and power cuts, carried out on a virtual world: drawn, laid, healed, counted, as on a real cluster.

Each is a course in the sense of `sim.faults.running`: a generator that does something and yields the microseconds to wait. Here
the drill moves them on. `records` and `cuts` are what run.json says of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from consensus.core import NEVER
from sim import drawing
from sim.drawing import ALL, Undrawable
from sim.faults.fault import Fault
from sim.faults.running import Running
from sim.scenario import ON_LINKS, FaultPlan, PowerCut, Scenario, leaves_quorum
from sim.virtual.loss import FATES, LOST
from sim.virtual.network import Condition, Link
from sim.virtual.subjects import SubjectError
from sim.virtual.world import World

LEADER_WAIT: Final = 5_000_000
"""So long (us) is waited for somebody who leads."""
HONEST_LEADERS: Final = 200
"""How often it is looked who leads, if that must not be a liar."""
HONEST_WAIT: Final = 10_000
"""Microseconds between two such looks: where every round has another leader it is soon somebody else."""
RECOVERY: Final = 20_000_000
"""So long (us) a cut waits until everybody is back from the one before."""
CAUGHT_UP: Final = 200
"""Entries between the first and the last replica that count as caught up."""
TRAP_WAIT: Final = 2_000_000
TRAP_POLL: Final = 50
"""Microseconds: less than any sync takes."""

Course = Generator[int, None, None]
Note = Callable[..., None]
"""Called with an event's name and fields, for metrics.jsonl."""


class Toll(Running):
    """What a fault did in one direction."""

    def __init__(self, world: World, fault: Fault, pair: tuple[str, str]) -> None:
        super().__init__(world, fault)
        self.pair = pair

    def counts(self) -> dict[str, int]:
        """`dropped_messages`, `delayed_messages`, as far as there were any."""
        found = {
            "dropped_messages": self.bites["dropped"],
            "delayed_messages": self.bites["delayed"] + self.bites["queued"],
        }
        return {name: count for name, count in found.items() if count}


class Troubles:
    """Everything that befalls the nodes of one drill."""

    def __init__(
        self, world: World, scenario: Scenario, domains: dict[str, str], seed: int, note: Note
    ) -> None:
        self.records: list[dict[str, Any]] = []
        self.cuts: list[dict[str, Any]] = []
        self.problems: list[str] = []
        """What could not be carried out, and why."""
        self.schedule: list[Fault] = []
        """The faults as the world saw them, cuts among them, in the order of their beginning: for pictures."""
        self.bites: dict[int, int] = {}
        """Number in `schedule` -> how often it truly did something."""
        self.dark: dict[str, None] = {}
        self.undone_at: list[tuple[str, int]] = []
        """(`cut` or `fault`, when it was undone)."""
        self.over = False
        """Nothing new may begin."""
        self._world = world
        self._timeline = world.timeline
        self._scenario = scenario
        self._domains = domains
        self._seed = seed
        self._note = note
        self._to_come = 0
        self._in_force = 0
        self._lying: list[Running] = []
        self._touched: list[str] = []
        self._cutting = False

    def begin(self) -> None:
        """Begin to carry everything out, from now on."""
        for cut in self._scenario.cuts:
            self._start(cut.at_s, self._cut(cut))
        for number, fault in enumerate(self._scenario.faults, 1):
            self._start(fault.at_s, self._fault(number, fault))

    def begin_lying(self, liars: Mapping[str, str]) -> None:
        """From now to the end these nodes lie, each by the strategy of that name. Raises SubjectError."""
        world = self._world
        for node, name in liars.items():
            if world.protocol.liar is None:
                raise SubjectError(f"nobody who takes part in {world.protocol.name} may lie")
            strategy = world.protocol.liar(world, node, name, world.streams.of(f"liar/{node}"))
            running = Running(world, self._schedule("byzantine", NEVER, {"node": node, "variant": name}))
            self._lying.append(running)
            world.hosts[node].lie(strategy, running)

    @property
    def done(self) -> bool:
        """Whether everything has been made and undone, or could not be made."""
        return not self._to_come

    @property
    def quiet(self) -> bool:
        """Whether nothing is in force."""
        return not self._in_force

    def close(self, now: int) -> None:
        """The run has ended: what is in force ends with it."""
        for running in self._lying:
            number = running.fault.number
            self.schedule[number - 1] = dataclasses.replace(running.fault, until=now)
            self.bites[number] = sum(running.bites.values())
        for record in self.records:
            record["until_us"] = record["until_us"] if record["until_us"] is not None else now

    # -------------------------------------------------------------------------------------------------- courses

    def _start(self, at_s: float, course: Course) -> None:
        self._to_come += 1
        self._timeline.after(round(at_s * 1e6), self._step, course)

    def _step(self, course: Course) -> None:
        try:
            self._timeline.after(next(course), self._step, course)
        except StopIteration:
            self._to_come -= 1
        except Undrawable as error:
            self.problems.append(str(error))
            self._to_come -= 1

    def _leader(self) -> Generator[int, None, str | None]:
        for _ in range(LEADER_WAIT // 50_000):
            leader = self._world.leader()
            if leader is not None:
                return leader
            yield 50_000
        return None

    def _enter(self, kind: str, for_us: int, params: dict[str, Any]) -> Fault:
        self._in_force += 1
        return self._schedule(kind, for_us, params)

    def _schedule(self, kind: str, for_us: int, params: dict[str, Any]) -> Fault:
        now = self._timeline.now
        fault = Fault(len(self.schedule) + 1, kind, now, now + for_us, params)
        self.schedule.append(fault)
        if self._world.trace is not None:
            self._world.trace.tell(now, "fault", number=fault.number, name=kind, text=str(fault))
        return fault

    def _leave(self, fault: Fault, bites: int) -> None:
        self._in_force -= 1
        self.bites[fault.number] = bites
        if self._world.trace is not None:
            self._world.trace.tell(self._timeline.now, "calm", number=fault.number)

    # --------------------------------------------------------------------------------------------------- faults

    def _fault(self, number: int, plan: FaultPlan) -> Course:
        leader = yield from self._leader()
        if self.over:
            return
        record = drawing.new_record(number, plan, leader, leaves_quorum(plan, self._scenario))
        rng = drawing.stream(self._seed, number)
        if plan.kind in ON_LINKS:
            pairs = drawing.directions(plan, self._domains, leader, rng)
            yield from self._on_links(plan, record, pairs)
        else:
            node = drawing.victim(plan, self._world.names, leader, rng)
            yield from self._on_node(plan, record, node)
        self.undone_at.append(("fault", self._timeline.now))

    def _on_links(self, plan: FaultPlan, record: dict[str, Any], pairs: list[tuple[str, str]]) -> Course:
        network = self._world.network
        record["pairs"] = [f"{a}>{b}" for a, b in pairs]
        record["at_us"] = self._timeline.now
        self.records.append(record)
        params = {"shape": plan.shape} if plan.shape else {"links": plan.what}
        fault = self._enter(plan.kind, round(plan.for_s * 1e6), params)
        self._note(plan.kind, label=record["label"], pairs=[list(pair) for pair in pairs])
        laid: list[tuple[Toll, list[Link]]] = []
        for pair in pairs:
            toll = Toll(self._world, fault, pair)
            links = network.between(*pair)
            laid.append((toll, links))
            condition = self._condition(plan, toll)
            for link in links:
                if condition is None:
                    link.cut(toll)
                else:
                    link.lay(condition)
        yield round(plan.for_s * 1e6)
        for toll, links in laid:
            for link in links:
                link.mend(toll)
                link.lift(toll)
        record["until_us"] = self._timeline.now
        self._count(record, [toll for toll, _ in laid])
        self._leave(fault, sum(sum(toll.bites.values()) for toll, _ in laid))
        names = ("label", "kind", "counts", "by_direction")
        self._note("heal", **{name: record[name] for name in names})

    def _condition(self, plan: FaultPlan, toll: Toll) -> Condition | None:
        """What is laid on a link; None: a cut."""
        if plan.kind == "delay":
            low = round(plan.delay_ms * 1000)
            return Condition("delay", toll, toll.rng, low=low, high=low + round(plan.jitter_ms * 1000))
        if plan.kind == "rate":
            per_s = max(1, round(plan.kbytes_per_s * 1000))
            # What is too much waits, as it does in a relay.
            return Condition("capacity", toll, toll.rng, high=NEVER, bytes_per_s=per_s)
        return None

    def _count(self, record: dict[str, Any], tolls: list[Toll]) -> None:
        counts: dict[str, int] = {}
        for toll in tolls:
            found = toll.counts()
            if found:
                record["by_direction"].append({"sender": toll.pair[0], "receiver": toll.pair[1], **found})
            for name, count in found.items():
                counts[name] = counts.get(name, 0) + count
        record["counts"] = counts
        record["bit"] = bool(counts)

    def _on_node(self, plan: FaultPlan, record: dict[str, Any], node: str) -> Course:
        host = self._world.hosts[node]
        for_us = round(plan.for_s * 1e6)
        record["node"], record["at_us"] = node, self._timeline.now
        record["progress"] = record["progress"] and len(self._world.names) > 2
        self.records.append(record)
        fault = self._enter(plan.kind, for_us, {"node": node})
        self._note(plan.kind, node=node, domain=self._domains[node])
        record["bit"] = host.running
        if plan.kind == "pause":
            host.pause(self._timeline.now + for_us)
        else:
            host.kill()
        yield for_us
        if plan.kind == "pause":
            host.resume()
        else:
            host.boot()
        record["until_us"] = self._timeline.now
        done = "paused_us" if plan.kind == "pause" else "killed_us"
        record["counts"] = {done: record["until_us"] - record["at_us"]}
        self._note("resume" if plan.kind == "pause" else "start", node=node, domain=self._domains[node])
        self._leave(fault, int(record["bit"]))

    # ----------------------------------------------------------------------------------------------------- cuts

    def _cut(self, plan: PowerCut) -> Course:
        if plan.after_recovery:
            # One outage at a time: this one may have become due while a domain was coming back.
            while self._cutting:
                yield 10_000
            self._cutting = True
            try:
                yield from self._recovered()
                yield from self._outage(plan)
            finally:
                self._cutting = False
        else:
            yield from self._outage(plan)

    def _recovered(self) -> Course:
        for _ in range(RECOVERY // 100_000):
            replicas = [host.replica for host in self._world.hosts.values() if not host.lied]
            applied = [replica.state.applied_index for replica in replicas if replica is not None]
            if len(applied) == len(replicas) and max(applied) - min(applied) < CAUGHT_UP:
                return
            yield 100_000

    def _outage(self, plan: PowerCut) -> Course:
        leader = yield from self._leader_to_cut(plan)
        if self.over:
            return
        leading = None if leader is None else self._domains[leader]
        domains = self._to_cut(plan, leading)
        for domain in domains:
            self._touched.append(domain)
            self.dark[domain] = None
        hosts = [host for host in self._world.hosts.values() if self._domains[host.name] in domains]
        if plan.trap:
            for _ in range(TRAP_WAIT // TRAP_POLL):
                if any(host.running and host.disk.unsynced_bytes for host in hosts):
                    break
                yield TRAP_POLL
        now = self._timeline.now
        name = plan.domain if plan.domain == ALL else domains[0]
        fault = self._enter("outage", round(plan.dark_s * 1e6), {"place": name})
        held = [host for host in hosts if host.running and host.disk.unsynced_bytes]
        record: dict[str, Any] = {
            "domain": name,
            "at_us": now,
            "leader_domain": leading in domains,
            "between_write_and_fsync": bool(held),
            "nodes": [host.name for host in hosts],
        }
        self.cuts.append(record)
        for domain in domains:
            self._world.power.cut(f"site/{domain}")
        losses = []
        for host in hosts:
            # One that died with unsynced bytes in the kernel alone has lost them; for the others it is drawn.
            host.disk.fates = LOST if plan.trap and held[:1] == [host] else FATES
            losses.append(host.cut_power())
            host.disk.fates = FATES
        record["unsynced_bytes_dropped"] = sum(loss.dropped_bytes for loss in losses)
        record["torn"] = sum(bool(loss.torn_bytes) for loss in losses)
        for domain in domains:
            self._note("cut", domain=domain)
        yield round(plan.dark_s * 1e6)
        for domain in domains:
            for node in self._world.power.restore(f"site/{domain}"):
                self._world.hosts[node].boot()
            del self.dark[domain]
            self._note("restore", domain=domain)
        record["restored_at_us"] = self._timeline.now
        self.undone_at.append(("cut", self._timeline.now))
        self._leave(fault, len(hosts))

    def _leader_to_cut(self, plan: PowerCut) -> Generator[int, None, str | None]:
        """Who leads now. Where its domain is to be cut, one that has no liar in it."""
        for _ in range(HONEST_LEADERS):
            leader = yield from self._leader()
            if plan.domain != "leader" or leader is None or self._domains[leader] not in self._spared():
                return leader
            yield HONEST_WAIT
        raise Undrawable("nobody but liars has led of late; the cut of the leader's domain cannot be made")

    def _spared(self) -> dict[str, None]:
        """Domains that only a cut of them by name falls on: those of liars."""
        return {self._domains[name]: None for name in self._world.liars}

    def _to_cut(self, plan: PowerCut, leading: str | None) -> list[str]:
        names = list(dict.fromkeys(self._domains.values()))
        chosen = names
        if plan.domain != ALL:
            chosen = [drawing.domain_to_cut(plan, names, leading, self.dark, self._touched, self._spared())]
        for domain in chosen:
            if domain in self.dark:
                raise Undrawable(f"domain {domain} is dark already; it cannot be cut again")
        return chosen
