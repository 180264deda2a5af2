"""The main job on real processes: a cluster under load while the power of its domains is cut and its network broken."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import trio

from node.io.client import Client, open_client
from node.io.client_types import ClientError, Event, NodeUnavailable
from sim.byzantine.naming import strategy_name
from sim.check.history import HistoryWriter
from sim.local import control, layout, namespaces
from sim.local.control import Control
from sim.local.faulting import Faults
from sim.local.kv_load import KvLoad
from sim.local.layout import RELAY, Cluster, ClusterError
from sim.local.links import OUTSIDE, LinksError, now_us
from sim.local.live import Live, Watcher
from sim.local.load import Load, RankingLoad
from sim.local.outages import Outages
from sim.scenario import Scenario, leaves_quorum
from sim.workload.stream import Stream

__all__ = ["Drill", "Live", "Watcher"]

SAMPLE_S: Final = 0.25
CATCH_UP_S: Final = 30.0
START_S: Final = 30.0
BEHIND_LAST_S: Final = 1.5
"""How long the load goes on behind the last cut that was undone."""
BEHIND_HEAL_MS: Final = 500
"""And behind the last fault that was healed, on top of the time that writes are given to go on."""


class Drill:
    """One run. `run` leaves `history.jsonl`, `metrics.jsonl`, `run.json` and the nodes' folders under `folder`."""

    def __init__(
        self,
        scenario: Scenario,
        stream: Stream | None,
        folder: Path,
        seed: int,
        command: str,
        watcher: Watcher,
        links: str = RELAY,
    ) -> None:
        """`stream`: what a ranking machine learns from; None for another machine. `links`: see `Cluster.network`."""
        self.scenario = scenario
        self.folder = folder
        self.seed = seed
        self.command = command
        self.links = links
        self.live = Live()
        self._watcher = watcher
        if stream is not None:
            stream = stream.head(min(scenario.writes.interactions or len(stream), len(stream)))
        self._stream = stream
        self._outages: Outages | None = None
        self._faults: Faults | None = None
        self._surprises: list[str] = []
        self._begin_us = 0
        self._statuses: dict[str, dict[str, Any]] = {}
        self._evidence: dict[str, list[dict[str, Any]]] = {}
        """What each node has shown at any time: it stands in its memory, and a power cut takes it."""

    def run(self) -> None:
        """Carry the scenario out. Raises ClusterError; whatever happens, no process and no namespace is left behind."""
        shape = self.scenario.cluster
        cluster = layout.create(
            self.folder / "cluster", shape.nodes, shape.domains, self.scenario.workload.machine,
            settings={"timing": shape.timing, "storage": shape.storage}, network=self.links,
            protocol=shape.protocol, stop=shape.stop, lie=shape.lie,
            liars={liar.node: strategy_name(liar.strategy) for liar in self.scenario.liars},
        )  # fmt: skip
        self._begin_us = now_us()
        control.start(cluster.folder, die_with_parent=True)
        power = Control(cluster.folder)
        run_id = power.namespaces
        try:
            with contextlib.ExitStack() as inside:
                if run_id is not None:
                    inside.enter_context(namespaces.entered(namespaces.path_of(run_id, OUTSIDE)))
                trio.run(self._main, cluster, power)
        except BaseException as error:
            leaves = list(_leaves(error))
            # Behind a nursery an interrupt comes in a group, and not as what the caller waits for.
            if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
                raise KeyboardInterrupt from None
            known = [leaf for leaf in leaves if isinstance(leaf, ClientError | ClusterError | LinksError)]
            if len(known) < len(leaves):
                raise
            words = "; ".join([str(known[0]), *self._surprises])
            raise ClusterError(f"the run could not be made: {words}") from None
        finally:
            self._tell("taking the cluster down")
            try:
                if power.running:
                    power.down()
            finally:
                if run_id is not None:
                    namespaces.remove(run_id)  # what is left if the supervisor was killed

    def _tell(self, phase: str | None = None) -> None:
        if phase is not None:
            self.live.phase = phase
        self.live.seconds = (now_us() - self._begin_us) / 1e6
        self._watcher(self.live)

    async def _main(self, cluster: Cluster, power: Control) -> None:
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
                    seed=self.seed, events=noted, signing=cluster.signing,
                ) as client,
                trio.open_nursery() as nursery,
            ):  # fmt: skip
                nursery.start_soon(self._follow, events, row)
                nursery.start_soon(self._sample, cluster, client, row)
                self._tell("waiting for a leader")
                await client.wait_connected(leader=True, timeout_s=START_S)
                load: Load
                if self._stream is None:
                    load = KvLoad(self.scenario, cluster, history, self.seed, noted)
                else:
                    load = RankingLoad(self.scenario, self._stream, client, history, self.seed)
                self.live.load = load
                self._tell("getting ready")
                async with load.opened():
                    load_begin = now_us()
                    load_end = await self._load(cluster, power, client, load)
                    self._tell("letting every node catch up")
                    await load.settle()
                    behind = await self._catch_up(cluster, client)
                    assert self._faults is not None
                    await self._faults.collect()
                    self._write_facts(cluster, load, load_begin, load_end, behind)
                nursery.cancel_scope.cancel()

    async def _load(self, cluster: Cluster, power: Control, client: Client, load: Load) -> int:
        """Carry out load, cuts and faults; the instant at which the last operation was begun (us)."""
        scenario = self.scenario
        self.live.load_s = scenario.seconds
        if not self.live.load_s and self._stream is not None:
            self.live.load_s = len(self._stream) / scenario.writes.batch / scenario.writes.per_s
        self._outages = Outages(cluster, power, client, self.live, random.Random(f"{self.seed}/drill"))
        self._faults = Faults(
            cluster, power, client, self.live, self.seed, lambda fault: leaves_quorum(fault, scenario)
        )
        self._tell("under load")
        async with trio.open_nursery() as nursery:
            for cut in scenario.cuts:
                nursery.start_soon(self._outages.run, cut)
            for number, fault in enumerate(scenario.faults, 1):
                nursery.start_soon(self._faults.run, number, fault)
            await load.run(self._enough)
            load_end = now_us()
            # What is still to be undone is; a cut that the load did not live to see is one that did not happen.
            while self.live.dark or self.live.faults:
                await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
        return load_end

    def _enough(self, seconds: float) -> bool:
        """Whether the load may end after so many seconds: the time asked for is over, every cut and fault was made and undone,
        and the load went on for a while behind the last one. With no time asked for, a stream's end is the end."""
        plan = self.scenario
        if (not plan.seconds and self._stream is not None) or seconds < plan.seconds:
            return False
        assert self._outages is not None
        assert self._faults is not None
        cuts, faults = self._outages.undone, self._faults.undone
        if (len(cuts), len(faults)) != (len(plan.cuts), len(plan.faults)):
            return False
        until = [at + BEHIND_LAST_S * 1e6 for at in cuts]
        until += [at + (plan.require.max_progress_ms + BEHIND_HEAL_MS) * 1e3 for at in faults]
        return now_us() > max(until, default=0)

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
        self._take_in(place.id, status)
        if status["quarantined"] and not place.lies:
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

    def _take_in(self, node: str, status: dict[str, Any]) -> None:
        self._statuses[node] = status
        held = self._evidence.setdefault(node, [])
        held += [piece for piece in status.get("facts", {}).get("evidence", ()) if piece not in held]

    async def _catch_up(self, cluster: Cluster, client: Client) -> list[str]:
        """Wait until every honest node has applied the same and compared its digest there; who is left, in words."""
        until = trio.current_time() + CATCH_UP_S
        behind: list[str] = ["nobody answered"]
        while trio.current_time() < until and behind:
            statuses: dict[str, dict[str, Any]] = {}
            for place in cluster.nodes:
                if place.lies:
                    continue
                try:
                    statuses[place.id] = await client.status(place.id, timeout_s=1)
                    self._take_in(place.id, statuses[place.id])
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

    def _write_facts(
        self, cluster: Cluster, load: Load, load_begin: int, load_end: int, behind: list[str]
    ) -> None:
        assert self._outages is not None
        assert self._faults is not None
        facts = {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "command": self.command,
            "begin_us": self._begin_us,
            "load_begin_us": load_begin,
            "load_end_us": load_end,
            "duration_s": round((now_us() - self._begin_us) / 1e6, 1),
            "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cuts": sorted(self._outages.records, key=lambda cut: int(cut["at_us"])),
            "faults": sorted(self._faults.records, key=lambda fault: int(fault["number"])),
            "nodes": {
                place.id: {
                    "domain": place.domain,
                    "data": str(cluster.data_folders()[place.id].relative_to(self.folder.resolve())),
                    **({"lies": place.lies} if place.lies else {}),
                }
                for place in cluster.nodes
            },
            "links": self.links,
            "machine": self.scenario.workload.machine,
            "protocol": self.scenario.cluster.protocol,
            "evidence": self._evidence,
            **load.facts(),
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


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error
