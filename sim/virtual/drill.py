"""The main job on virtual time: the scenario that `sim.local.drill` carries out on real processes, on a virtual world.

The nodes are the same replicas with the same journal bytes; disks, network, power and clocks are virtual. A run leaves the same
folder (`history.jsonl`, `metrics.jsonl`, `run.json`, the nodes' data folders), and the same checks judge it. Everything but
the real time that it took is a function of scenario and seed.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

from consensus import marks
from consensus.core import CoreView
from consensus.raft import Timing
from node.io import config
from node.io.client_types import Event
from sim import drawing
from sim.byzantine.naming import strategy_name
from sim.check.history import HistoryWriter
from sim.local.judge import Signatures, judge
from sim.local.lies import LIES_FILE, Lies
from sim.oracles.calm import Undisturbed
from sim.oracles.oracle import hooks
from sim.report import lanes
from sim.report.facts import RunFacts, Violation
from sim.scenario import Scenario, ScenarioError
from sim.virtual.bft_committee import CLUSTER, EPOCH, notary
from sim.virtual.client import Client
from sim.virtual.drill_client import DrillClient
from sim.virtual.drill_faults import Troubles
from sim.virtual.drill_load import KvLoad, RankingLoad, VirtualLoad
from sim.virtual.explain import of_host
from sim.virtual.host import Host
from sim.virtual.plan import Plan
from sim.virtual.subjects import SubjectError
from sim.virtual.trace import Trace
from sim.virtual.world import OK, VIOLATION, World
from sim.workload.stream import Stream

LANES: Final = "lanes.html"
SHORT_S: Final = 40.0
"""Up to so many seconds of faults a run of a key-value load is told in full, message by message."""

START: Final = 30_000_000
"""So long (us) may nodes and clients take to be ready."""
CATCH_UP: Final = 30_000_000
SETTLE: Final = 32_000_000
SAMPLE: Final = 250_000
BEHIND_CUT: Final = 1_500_000
"""How long the load goes on behind the last cut that was undone (us)."""
BEHIND_HEAL_MS: Final = 500
"""And behind the last fault that was healed, on top of the time that writes are given to go on."""
STEP: Final = 1_000


class DrillWorld(World):
    """A world whose clients are those of a drill."""

    def __init__(self, plan: Plan, domains: dict[str, str], trace: Trace | None) -> None:
        self.domains = domains
        super().__init__(plan, trace, on_crash="go_on")

    def make_client(self, name: str) -> Client:
        """See `World.make_client`."""
        return cast(Client, DrillClient(self, name, self.domains))


def run(
    scenario: Scenario, seed: int, folder: Path, command: str = "", stream: Stream | None = None
) -> dict[str, Any]:
    """Carry the scenario out and judge it; the verdict. `folder` is there and takes everything. `command`: the line that makes
    this run again. `stream`: what a ranking machine learns from. Raises ScenarioError for one that this world cannot run."""
    if (scenario.workload.machine == "ranking") != (stream is not None):
        raise ScenarioError(
            "a ranking machine needs a stream to learn from, and no other machine can use one"
        )
    command = command or f"python scripts/drill.py run {scenario.name} --seed {seed} --world virtual"
    drill = _Drill(scenario, seed, folder, command, stream)
    drill.run()
    return judge(folder, scenario, stream, signatures=drill.signatures)


class _Drill:
    def __init__(
        self, scenario: Scenario, seed: int, folder: Path, command: str, stream: Stream | None
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._folder = folder
        self._command = command
        if stream is not None:
            stream = stream.head(min(scenario.writes.interactions or len(stream), len(stream)))
        shape = scenario.cluster
        self._domains = drawing.deal(shape.nodes, shape.domains)
        self._trace = Trace() if stream is None and _seconds(scenario) <= SHORT_S else None
        try:
            plan = plan_of(scenario, seed, self._domains)
            self._world = DrillWorld(plan, self._domains, self._trace)
        except (SubjectError, ValueError) as error:
            raise ScenarioError(f"[cluster]: {error}") from None
        self._rows: list[dict[str, Any]] = []
        clients = cast("list[DrillClient]", self._world.clients)
        self._clients = clients
        self._load: VirtualLoad = (
            KvLoad(self._world, scenario, clients, seed)
            if stream is None
            else RankingLoad(self._world, scenario, clients[0], stream, seed)
        )
        self._with_stream = stream is not None
        self._troubles = Troubles(self._world, scenario, self._domains, seed, self._event)
        self._surprises: list[str] = []
        self._violation = ""
        self._load_us = (0, 0)
        self._behind: list[str] = []
        self._evidence: dict[str, list[dict[str, Any]]] = {}
        """What each node has shown at any time: it stands in its memory, and a power cut takes it."""
        self._liars = {liar.node: strategy_name(liar.strategy) for liar in scenario.liars}

    @property
    def signatures(self) -> Signatures | None:
        """Who tells whether a member has signed something; None where members sign nothing."""
        if self._world.protocol.requests is None:
            return None
        keys = notary(tuple(self._world.names), self._world.plan.clients)
        return Signatures(CLUSTER, EPOCH, keys.verify)

    def run(self) -> None:
        """Carry the scenario out, and leave everything about it in the folder."""
        began = time.perf_counter()
        marks.clear()
        world = self._world
        world.on_changed.append(self._changed)
        for client in self._clients:
            client.events = self._client_event
        outcome = OK
        try:
            self._play()
        except world.verdicts as error:
            outcome = VIOLATION
            name, text, nodes = getattr(error, "oracle", "stopped"), str(error), getattr(error, "nodes", [])
            self._violation = f"{name}: {getattr(error, 'text', text)}"
            self._behind = self._behind or ["the run was stopped by an oracle"]
            if self._trace is not None:
                self._trace.tell(
                    world.timeline.now, "violation", oracle=name, text=self._violation, nodes=nodes
                )
        if world.core_error:
            self._surprises.append(f"a process ended by itself: {world.core_error}")
        self._surprises += self._troubles.problems
        self._troubles.close(world.timeline.now)
        self._write(time.perf_counter() - began)
        if self._trace is not None:
            self._picture(outcome)

    def _play(self) -> None:
        world, load, troubles, timeline = self._world, self._load, self._troubles, self._world.timeline
        troubles.begin_lying(self._liars)
        world.begin()
        timeline.at(0, self._sample)
        if not self._until(lambda: all(client.ready for client in self._clients), START):
            self._surprises.append(f"not ready after {START / 1e6:g} s\n{world.explain()}")
        load.open()
        self._until(lambda: not load.unsettled, START)
        begin = timeline.now
        self._load_us = (begin, begin)
        troubles.begin()
        load.begin(self._enough)
        while not load.over:
            timeline.run(timeline.now + STEP)
            self._load_us = (begin, timeline.now)
        # What is still to be undone is; a cut that the load did not live to see is one that did not happen.
        troubles.over = True
        self._until(lambda: troubles.quiet, SETTLE)
        self._until(lambda: not load.unsettled, SETTLE)
        self._until(lambda: not self._lagging(), CATCH_UP)
        self._behind = self._lagging()
        for hook in hooks(world.oracles, "finished"):
            hook()

    def _until(self, done: Callable[[], bool], most: int) -> bool:
        timeline = self._world.timeline
        end = timeline.now + most
        while not done():
            if timeline.now >= end:
                return False
            timeline.run(timeline.now + 5_000)
        return True

    def _enough(self, seconds: float) -> bool:
        """See `sim.local.drill.Drill._enough`: the rule is the same."""
        plan = self._scenario
        if (not plan.seconds and self._with_stream) or seconds < plan.seconds or not self._troubles.done:
            return False
        behind = {"cut": BEHIND_CUT, "fault": round((plan.require.max_progress_ms + BEHIND_HEAL_MS) * 1e3)}
        until = [at + behind[what] for what, at in self._troubles.undone_at]
        return self._world.timeline.now > max(until, default=0)

    def _lagging(self) -> list[str]:
        """Who has not applied everything, or not compared its digest there; in words."""
        top = max(host.replica.state.applied_index if host.replica else 0 for host in self._honest())
        found = []
        for host in self._honest():
            replica = host.replica
            if replica is None:
                found.append(of_host(host))
                continue
            own = replica.digests.own
            marked = own.index if own else None
            last = replica.core.observe().last_index
            if (replica.state.applied_index, marked, last) != (top, top, top):
                found.append(f"{host.name}: {replica.state.applied_index} of {top}, digest at {marked}")
        return found

    def _hosts(self) -> list[Host]:
        return list(self._world.hosts.values())

    def _honest(self) -> list[Host]:
        return [host for host in self._hosts() if host.name not in self._liars]

    # -------------------------------------------------------------------------------------------------- metrics

    def _event(self, event: str, **fields: Any) -> None:
        self._rows.append({"t": self._world.timeline.now, "event": event, **fields})

    def _client_event(self, event: Event) -> None:
        if event.kind in ("leader", "resend", "session", "session_lost"):
            self._event(f"client_{event.kind}", node=event.node, detail=event.detail)

    def _changed(self, host: Host, view: CoreView) -> None:
        self._event("role", node=host.name, domain=self._domains[host.name], role=view.role, term=view.term)

    def _sample(self, _: Any) -> None:
        now = self._world.timeline.now
        for host in self._hosts():
            domain = self._domains[host.name]
            row: dict[str, Any] = {"t": now, "node": host.name, "domain": domain}
            row["power"] = "dark" if domain in self._troubles.dark else "lit"
            row["role"] = None
            if host.replica is not None and host.paused_until <= now:
                status = host.replica.status(host.clock.read(now))
                names = {"role": "role", "term": "term", "commit": "commit_index", "applied": "applied_index",
                         "age_us": "age_us", "tier": "tier"}  # fmt: skip
                row |= {short: status[name] for short, name in names.items()}
                self._take_in(host.name, status)
            self._rows.append(row)
        self._world.timeline.after(SAMPLE, self._sample)

    def _take_in(self, node: str, status: dict[str, Any]) -> None:
        note = f"{node}: {status['quarantined']}"
        if status["quarantined"] and node not in self._liars and note not in self._surprises:
            self._surprises.append(note)
        held = self._evidence.setdefault(node, [])
        held += [piece for piece in status.get("facts", {}).get("evidence", ()) if piece not in held]

    # --------------------------------------------------------------------------------------------------- folder

    def _write(self, real_s: float) -> None:
        world, folder, troubles = self._world, self._folder, self._troubles
        with HistoryWriter(folder / "history.jsonl") as history:
            for operation in world.history:
                history.add(operation)
        with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in self._rows)
        digests = {}
        for host in self._hosts():
            data = folder / "cluster" / "nodes" / host.name / "data"
            data.mkdir(parents=True, exist_ok=True)
            for name in host.disk.listing():
                (data / name).write_bytes(host.disk.contents(name))
            if host.replica is None or host.name in self._liars:
                continue
            own = host.replica.digests.own
            if own is not None:
                digests[host.name] = [own.index, own.digest.hex()]
            self._take_in(host.name, host.replica.status(host.clock.read(world.timeline.now)))
        for name, how in self._liars.items():
            told = Lies(folder / "cluster" / "nodes" / name / LIES_FILE, how, self._seed)
            lies = world.hosts[name].lies
            for what, count in lies.counts.items() if lies is not None else ():
                told.add(what, count)
            told.write()
        # That one looks at a part of a run that a drill does not have.
        watching = [oracle.name for oracle in world.oracles if not isinstance(oracle, Undisturbed)]
        facts = {
            "scenario": self._scenario.name,
            "seed": self._seed,
            "command": self._command,
            "begin_us": 0,
            "load_begin_us": self._load_us[0],
            "load_end_us": self._load_us[1],
            "duration_s": round(world.timeline.now / 1e6, 1),
            "real_s": round(real_s, 2),
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cuts": sorted(troubles.cuts, key=lambda cut: int(cut["at_us"])),
            "faults": sorted(troubles.records, key=lambda fault: int(fault["number"])),
            "nodes": {
                name: {
                    "domain": domain,
                    "data": f"cluster/nodes/{name}/data",
                    **({"lies": self._liars[name]} if name in self._liars else {}),
                }
                for name, domain in self._domains.items()
            },
            "links": "virtual",
            "machine": self._scenario.workload.machine,
            "protocol": self._scenario.cluster.protocol,
            "evidence": self._evidence,
            **self._load.facts(),
            "caught_up": not self._behind,
            "behind": self._behind,
            "surprises": self._surprises,
            "digests": digests,
            "oracles": {"names": watching, "violation": self._violation},
            "messages": len(world.ledger) + world.dropped,
            "dropped": world.dropped,
        }
        (folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def _picture(self, outcome: str) -> None:
        """A lane a node, message by message."""
        assert self._trace is not None
        world = self._world
        violation = None
        if outcome != OK:
            name, _, text = self._violation.partition(": ")
            violation = Violation(name, world.timeline.now, text)
        shape = self._scenario.cluster
        facts = RunFacts(
            self._seed,
            self._command,
            world.names,
            {name: path.rsplit("/", 1)[0] for name, path in world.power.paths.items()},
            {"scenario": self._scenario.name, "nodes": shape.nodes, "domains": shape.domains,
             "timing": world.plan.timing, "settings": world.plan.settings,
             "workload": dataclasses.asdict(self._scenario.workload)},
            outcome,
            violation,
            dict(marks.reached()),
            self._troubles.bites,
        )  # fmt: skip
        lanes.render(self._folder / LANES, self._trace, world.history, self._troubles.schedule, facts)


def _seconds(scenario: Scenario) -> float:
    """How long a scenario's load lasts at least."""
    ends = [cut.at_s + cut.dark_s for cut in scenario.cuts]
    ends += [fault.at_s + fault.for_s for fault in scenario.faults]
    return max([scenario.seconds, *ends])


def plan_of(scenario: Scenario, seed: int, domains: dict[str, str]) -> Plan:
    """The world that a scenario asks for: its nodes, domains and times, the defaults being those of a node's config.toml.
    Raises ScenarioError."""
    timing = _known(scenario.cluster.timing, config.Timing(), "timing")
    storage = _known(scenario.cluster.storage, config.Storage(), "storage")
    limits = config.Limits()
    committee = scenario.cluster.committee
    return Plan(
        seed,
        protocol=scenario.cluster.protocol,
        machine=scenario.workload.machine,
        nodes=scenario.cluster.nodes,
        clients=scenario.workload.clients if scenario.workload.machine == "kv" else 1,
        domains=tuple(f"site/{domain}/{name}" for name, domain in domains.items()),
        timing=_raft_times(timing) if committee is None else _bft_times(timing, storage),
        committee=None if committee is None else (committee.stop, committee.lie),
        settings={
            "barrier": timing["barrier_ms"] * 1000,
            "fresh": timing["fresh_ms"] * 1000,
            "digest": timing["digest_ms"] * 1000,
            "session_ttl": timing["session_ttl_s"] * 1_000_000,
            "max_command_bytes": limits.max_command_bytes,
            "max_sessions": limits.max_sessions,
            "queries_in_queue": limits.queries_in_queue,
            "snapshot_bytes": storage["snapshot_bytes"],
        },
    )


def _raft_times(timing: dict[str, int]) -> dict[str, int]:
    """As `node.io.protocols` makes them for a real node."""
    return {
        "heartbeat": timing["heartbeat_ms"] * 1000,
        "election": timing["election_ms"] * 1000,
        "stall": max(4 * timing["election_ms"] * 1000, Timing().stall),
        "uncommitted_bytes": config.Limits().max_inflight_bytes,
    }


def _bft_times(timing: dict[str, int], storage: dict[str, int]) -> dict[str, int]:
    """The same for a member of a committee."""
    return {
        "round": timing["round_ms"] * 1000,
        "idle": timing["idle_ms"] * 1000,
        "resend": max(timing["round_ms"] * 2000 // 3, 20_000),
        "stall": max(3 * timing["round_ms"] * 1000, 500_000),
        "snapshot_bytes": storage["snapshot_bytes"],
        "author_bytes": config.Limits().max_inflight_bytes,
    }


def _known(given: dict[str, int], defaults: Any, table: str) -> dict[str, int]:
    """The numbers of a table of config.toml with overrides; those that this world has no use for are refused."""
    numbers = {item.name: item for item in dataclasses.fields(defaults) if "low" in item.metadata}
    numbers.pop("reserve_bytes", None)
    for key, value in given.items():
        item = numbers.get(key)
        if item is None:
            raise ScenarioError(
                f"[cluster] {table}: {key!r} means nothing on virtual time; known there: {', '.join(numbers)}"
            )
        low, high = item.metadata["low"], item.metadata["high"]
        if type(value) is not int or not low <= value <= high:
            raise ScenarioError(
                f"[cluster] {table}: {key} must be an integer from {low} to {high}, not {value!r}"
            )
    return {name: given.get(name, getattr(defaults, name)) for name in numbers}
