"""The main job on real processes: a cluster learns a stream while the power of its domains is cut and restored."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from node.io.client import Client, open_client
from node.io.client_types import ClientError, Event, NodeUnavailable
from sim.check.history import HistoryWriter, Operation
from sim.local import control, layout
from sim.local.control import Control
from sim.local.layout import Cluster, ClusterError
from sim.local.load import Ranker, Writer
from sim.local.relay import now_us
from sim.scenario import PowerCut, Scenario
from sim.workload.stream import Stream

SAMPLE_S: Final = 0.25
CATCH_UP_S: Final = 30.0
START_S: Final = 30.0
RECOVERY_S: Final = 20.0
BEHIND_LAST_CUT_S: Final = 1.5
CAUGHT_UP: Final = 200
"""Entries between the first and the last replica that count as caught up."""


@dataclass(slots=True)
class Live:
    """What is going on, for whoever watches."""

    phase: str = "starting"
    seconds: float = 0.0
    load_s: float = 0.0
    leader: str | None = None
    dark: dict[str, str] = field(default_factory=dict)
    """Dark domains, and the nodes in them."""
    cuts: int = 0
    writes: Writer | None = None
    ranks: Ranker | None = None
    notes: list[str] = field(default_factory=list)


Watcher = Callable[[Live], None]


class Drill:
    """One run. `run` leaves `history.jsonl`, `metrics.jsonl`, `run.json` and the nodes' folders under `folder`."""

    def __init__(
        self, scenario: Scenario, stream: Stream, folder: Path, seed: int, command: str, watcher: Watcher
    ) -> None:
        self.scenario = scenario
        self.folder = folder
        self.seed = seed
        self.command = command
        self.live = Live()
        self._watcher = watcher
        count = scenario.writes.interactions or len(stream)
        self._stream = stream.head(min(count, len(stream)))
        self._rng = random.Random(f"{seed}/drill")
        self._cuts: list[dict[str, Any]] = []
        self._cut_domains: list[str] = []
        self._one_outage = trio.Lock()
        self._surprises: list[str] = []
        self._begin_us = 0
        self._statuses: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Carry the scenario out. Raises ClusterError; whatever happens, no process is left behind."""
        shape = self.scenario.cluster
        cluster = layout.create(
            self.folder / "cluster", shape.nodes, shape.domains, "ranking",
            settings={"timing": shape.timing, "storage": shape.storage},
        )  # fmt: skip
        self._begin_us = now_us()
        control.start(cluster.folder, die_with_parent=True)
        power = Control(cluster.folder)
        try:
            trio.run(self._main, cluster, power)
        except* (ClientError, ClusterError) as group:
            words = "; ".join([str(_leaf(group)), *self._surprises])
            raise ClusterError(f"the run could not be made: {words}") from None
        finally:
            self._tell("taking the cluster down")
            power.down()

    def _tell(self, phase: str | None = None) -> None:
        if phase is not None:
            self.live.phase = phase
        self.live.seconds = (now_us() - self._begin_us) / 1e6
        self._watcher(self.live)

    async def _main(self, cluster: Cluster, power: Control) -> None:
        scenario = self.scenario
        metrics = (self.folder / "metrics.jsonl").open("w", encoding="utf-8", buffering=1 << 16)
        with metrics, HistoryWriter(self.folder / "history.jsonl") as history:

            def row(values: dict[str, Any]) -> None:
                metrics.write(json.dumps(values, separators=(",", ":")) + "\n")

            def noted(event: Event) -> None:
                if event.kind in ("leader", "resend", "session", "session_lost"):
                    row(
                        {
                            "t": now_us(),
                            "event": f"client_{event.kind}",
                            "node": event.node,
                            "detail": event.detail,
                        }
                    )

            async with (
                power.watching() as events,
                open_client(
                    cluster.members(), cluster.client_tls(), cluster=cluster.cluster, name="load",
                    seed=self.seed, events=noted,
                ) as client,
                trio.open_nursery() as nursery,
            ):  # fmt: skip
                nursery.start_soon(self._follow, events, row)
                nursery.start_soon(self._sample, cluster, client, row)
                self._tell("waiting for a leader")
                await client.wait_connected(leader=True, timeout_s=START_S)
                writer = Writer(client, history, scenario.writes)
                rng = random.Random(f"{self.seed}/rank")
                users = _Frozen(writer)
                ranker = Ranker(client, history, scenario.rank, rng, users.get)
                self.live.writes, self.live.ranks = writer, ranker
                self._tell("loading the catalogue")
                invoke = now_us()
                await writer.catalogue(self._stream.catalogue_commands())
                history.add(
                    Operation(
                        "open",
                        client.name,
                        invoke,
                        now_us(),
                        "unknown",
                        error="opened by the client on its own",
                    )
                )
                load_begin = now_us()
                load_end = await self._load(nursery, cluster, power, client, writer, ranker)
                self._tell("letting every node catch up")
                await writer.settle(scenario.writes.deadline_s)
                behind = await self._catch_up(cluster, client)
                self._write_facts(writer, load_begin, load_end, behind)
                nursery.cancel_scope.cancel()

    async def _load(
        self,
        nursery: trio.Nursery,
        cluster: Cluster,
        power: Control,
        client: Client,
        writer: Writer,
        ranker: Ranker,
    ) -> int:
        """Carry out load and cuts; the instant at which the last update was begun (us)."""
        scenario = self.scenario
        batches = list(self._stream.batches(scenario.writes.batch))
        self.live.load_s = scenario.seconds or len(batches) / scenario.writes.per_s
        self._tell("learning")
        async with trio.open_nursery() as load:
            load.start_soon(ranker.run, nursery)
            for cut in scenario.cuts:
                load.start_soon(self._cut, cluster, power, client, cut)
            await writer.run(batches, self._enough)
            load_end = now_us()
            # Cuts still to be undone are; a cut that the load did not live to see is one that did not happen.
            while self.live.dark:
                await trio.sleep(0.05)
            load.cancel_scope.cancel()
        return load_end

    def _enough(self, seconds: float) -> bool:
        """Whether the load may end after so many seconds: the time asked for is over, every cut was made and undone, and
        the load went on for a while behind the last one. With no time asked for, the stream's end is the end."""
        if not self.scenario.seconds or seconds < self.scenario.seconds:
            return False
        undone = [cut["restored_at_us"] for cut in self._cuts if "restored_at_us" in cut]
        return len(undone) == len(self.scenario.cuts) and (
            not undone or now_us() - max(undone) > BEHIND_LAST_CUT_S * 1e6
        )

    async def _cut(self, cluster: Cluster, power: Control, client: Client, plan: PowerCut) -> None:
        await trio.sleep(plan.at_s)
        if plan.after_recovery:
            # One outage at a time: on a slow machine two cuts may have become due while a domain was coming back.
            async with self._one_outage:
                await self._await_recovery(cluster, client)
                await self._cut_and_restore(cluster, power, client, plan)
        else:
            await self._cut_and_restore(cluster, power, client, plan)

    async def _cut_and_restore(
        self, cluster: Cluster, power: Control, client: Client, plan: PowerCut
    ) -> None:
        domain, leader = await self._choose(cluster, client, plan)
        self._cut_domains.append(domain)
        self.live.dark[domain] = ", ".join(place.id for place in cluster.of_domain(domain))
        result = await power.acall("cut", domain=domain, trap=plan.trap, seed=self._rng.getrandbits(32))
        losses = list(result["losses"].values())
        record: dict[str, Any] = {
            "domain": domain,
            "at_us": result["cut_at"],
            "leader_domain": leader is not None and leader in cluster.of_domain(domain),
            "between_write_and_fsync": bool(result["held"]),
            "unsynced_bytes_dropped": sum(loss["dropped_bytes"] for loss in losses),
            "torn": sum(bool(loss["torn_bytes"]) for loss in losses),
            "nodes": [place.id for place in cluster.of_domain(domain)],
        }
        self._cuts.append(record)
        self.live.cuts += 1
        self.live.notes.append(
            f"cut {domain}{' (the leader)' if record['leader_domain'] else ''}: "
            f"{record['unsynced_bytes_dropped']} unsynced bytes dropped"
            + (", between a write and its fsync" if record["between_write_and_fsync"] else "")
        )
        await trio.sleep(plan.dark_s)
        restored = await power.acall("restore", domain=domain)
        record["restored_at_us"] = restored["restored_at"]
        self.live.dark.pop(domain, None)
        self.live.notes.append(f"restored {domain}")

    async def _await_recovery(self, cluster: Cluster, client: Client) -> None:
        with trio.move_on_after(RECOVERY_S):
            while True:
                applied = []
                for place in cluster.nodes:
                    try:
                        applied.append((await client.status(place.id, timeout_s=0.5))["applied_index"])
                    except NodeUnavailable:
                        break
                if len(applied) == len(cluster.nodes) and max(applied) - min(applied) < CAUGHT_UP:
                    return
                await trio.sleep(0.1)

    async def _choose(self, cluster: Cluster, client: Client, plan: PowerCut) -> tuple[str, Any]:
        """(domain, place of the leader)."""
        leader = None
        for _ in range(100):
            if client.leader is not None:
                leader = cluster.node(client.leader)
                break
            await trio.sleep(0.05)
        leading = leader.domain if leader is not None else None
        if plan.domain == "leader":
            if leading is None:
                raise ClusterError("no leader is known; the cut of its domain cannot be made")
            return leading, leader
        if plan.domain == "untouched":
            lit = [name for name in cluster.domains if name not in self.live.dark]
            fresh = [name for name in lit if name not in self._cut_domains] or lit
            fresh.sort(key=lambda name: name == leading)
            return fresh[0], leader
        if plan.domain not in cluster.domains:
            raise ClusterError(f"the scenario cuts {plan.domain!r}; domains are {', '.join(cluster.domains)}")
        return plan.domain, leader

    async def _follow(
        self, events: trio.MemoryReceiveChannel[dict[str, Any]], row: Callable[..., None]
    ) -> None:
        async for event in events:
            at = event.pop("at", None) or event.pop("t", None) or now_us()
            row({"t": at, **event})
            if event.get("event") == "exit" and not event.get("expected"):
                tail = " | ".join(event.get("tail") or [])
                self._surprises.append(
                    f"{event.get('node')} ended by itself (code {event.get('code')}): {tail[:300]}"
                )

    async def _sample(self, cluster: Cluster, client: Client, row: Callable[..., None]) -> None:
        while True:
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for place in cluster.nodes:
                    nursery.start_soon(self._sample_node, place, client, row)
            self.live.leader = client.leader
            self._tell()
            await trio.sleep_until(began + SAMPLE_S)

    async def _sample_node(self, place: layout.Place, client: Client, row: Callable[..., None]) -> None:
        values: dict[str, Any] = {"node": place.id, "domain": place.domain}
        power = "dark" if place.domain in self.live.dark else "lit"
        try:
            status = await client.status(place.id, timeout_s=SAMPLE_S)
        except NodeUnavailable:
            row({"t": now_us(), **values, "power": power, "role": None})
            return
        self._statuses[place.id] = status
        if status["quarantined"]:
            note = f"{place.id}: {status['quarantined']}"
            if note not in self._surprises:
                self._surprises.append(note)
        names = {"role": "role", "term": "term", "commit": "commit_index", "applied": "applied_index",
                 "age_us": "age_us", "tier": "tier"}  # fmt: skip
        row(
            {
                "t": now_us(),
                **values,
                "power": power,
                **{short: status[name] for short, name in names.items()},
            }
        )

    async def _catch_up(self, cluster: Cluster, client: Client) -> list[str]:
        """Wait until every node has applied the same and compared its digest there; who is left, in words."""
        until = trio.current_time() + CATCH_UP_S
        behind: list[str] = ["nobody answered"]
        while trio.current_time() < until and behind:
            statuses: dict[str, dict[str, Any]] = {}
            for place in cluster.nodes:
                try:
                    statuses[place.id] = await client.status(place.id, timeout_s=1)
                except NodeUnavailable as error:
                    statuses[place.id] = {"error": str(error)}
            self._statuses = statuses
            top = max((status.get("applied_index", 0) for status in statuses.values()), default=0)
            behind = [
                f"{name}: {status.get('error') or status['applied_index']} of {top}, "
                f"digest at {status.get('digest_index')}"
                for name, status in statuses.items()
                if status.get("applied_index") != top or status.get("digest_index") != top
            ]
            await trio.sleep(0.1)
        return behind

    def _write_facts(self, writer: Writer, load_begin: int, load_end: int, behind: list[str]) -> None:
        facts = {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "command": self.command,
            "begin_us": self._begin_us,
            "load_begin_us": load_begin,
            "load_end_us": load_end,
            "duration_s": round((now_us() - self._begin_us) / 1e6, 1),
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cuts": sorted(self._cuts, key=lambda cut: int(cut["at_us"])),
            "writes_begun": writer.begun,
            "writes_unsettled": writer.open,
            "interactions_sent": writer.interactions,
            "caught_up": not behind,
            "behind": behind,
            "surprises": self._surprises,
            "digests": {
                name: [status["digest_index"], status["digest"]]
                for name, status in self._statuses.items()
                if status.get("digest")
            },
        }
        (self.folder / "run.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Frozen:
    """Users whose updates every node had durable long before the first cut can matter: those acknowledged in the first
    two seconds of the load."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._users: list[int] = []
        self._since: float | None = None

    def get(self) -> list[int]:
        known = self._writer.known_users
        if not known:
            return []
        now = trio.current_time()
        if self._since is None:
            self._since = now
        if now - self._since < 1.0:
            return []
        if not self._users:
            self._users = list(known)
        return self._users
