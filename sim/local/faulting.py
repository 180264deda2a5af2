"""The faults of a scenario, carried out on a running cluster: drawn, laid, healed, counted."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import trio

from node.io.client import Client
from sim import drawing
from sim.local.control import Control
from sim.local.layout import Cluster, ClusterError
from sim.local.links import Pair
from sim.local.live import Live
from sim.local.outages import leader_of
from sim.scenario import ON_LINKS, FaultPlan


class Faults:
    """Lays and heals faults by plan. `records` says what happened; each fault draws from a stream of its own, so that
    taking one out of a scenario leaves the others as they were."""

    def __init__(
        self,
        cluster: Cluster,
        power: Control,
        client: Client,
        live: Live,
        seed: int,
        quorum: Callable[[FaultPlan], bool] | None = None,
    ) -> None:
        """`quorum(plan)`: whether a fault leaves one, whatever is drawn; None: by majority."""
        self.records: list[dict[str, Any]] = []
        self._cluster = cluster
        self._power = power
        self._client = client
        self._live = live
        self._seed = seed
        self._quorum = quorum

    @property
    def undone(self) -> list[int]:
        """Instants at which faults were healed."""
        return [record["until_us"] for record in self.records if record["until_us"] is not None]

    async def run(self, number: int, plan: FaultPlan) -> None:
        """Carry the scenario's `number`-th fault out, `at_s` seconds from now. Raises ClusterError."""
        await trio.sleep(plan.at_s)
        leader = await leader_of(self._client)
        rng = drawing.stream(self._seed, number)
        record = drawing.new_record(number, plan, leader, self._quorum(plan) if self._quorum else None)
        label = record["label"]
        words = f"{plan.kind} {plan.what}"
        self._live.faults[label] = words
        self.records.append(record)
        if plan.kind in ON_LINKS:
            await self._on_links(plan, record, rng)
        else:
            await self._on_node(plan, record, rng)
        self._live.faults.pop(label, None)
        self._live.notes.append(f"healed {words}: {self._counted(record)}")

    async def collect(self) -> None:
        """Read the counts once more: connections that a fault killed may have lost bytes after it was healed."""
        records = [record for record in self.records if record["kind"] in ON_LINKS]
        found = await self._power.acall("faults", labels=[record["label"] for record in records])
        for record in records:
            self._take(record, found[record["label"]])

    def _counted(self, record: dict[str, Any]) -> str:
        counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in record["counts"].items())
        return counts or "nothing was lost or held up"

    def _take(self, record: dict[str, Any], found: dict[str, Any]) -> None:
        record["counts"], record["by_direction"] = found["counts"], found["by_direction"]
        lost = ("dropped_bytes", "dropped_packets") if record["kind"] == "partition" else ()
        wanted = lost or ("delayed_bytes", "dropped_packets")
        # Connections that were opened during a one-way cut are dead in both directions; only the one asked for counts here.
        record["bit"] = any(
            row.get(name)
            for row in record["by_direction"]
            if f"{row['sender']}>{row['receiver']}" in record["pairs"]
            for name in wanted
        )

    # ------------------------------------------------------------------------------------------ links

    def directions(self, plan: FaultPlan, leader: str | None, rng: random.Random) -> list[Pair]:
        """The directions that a fault of links is laid on. Raises ClusterError if it needs a leader and there is none."""
        domains = {place.id: place.domain for place in self._cluster.nodes}
        try:
            return drawing.directions(plan, domains, leader, rng)
        except drawing.Undrawable as error:
            raise ClusterError(str(error)) from None

    async def _on_links(self, plan: FaultPlan, record: dict[str, Any], rng: random.Random) -> None:
        pairs = self.directions(plan, record["leader"], rng)
        record["pairs"] = [f"{a}>{b}" for a, b in pairs]
        arguments: dict[str, Any] = {"label": record["label"], "pairs": [list(pair) for pair in pairs]}
        if plan.kind == "delay":
            arguments |= {
                "delay_us": int(plan.delay_ms * 1000),
                "jitter_us": int(plan.jitter_ms * 1000),
                "seed": self._seed,
            }
        elif plan.kind == "rate":
            arguments["bytes_per_s"] = max(1, int(plan.kbytes_per_s * 1000))
        laid = await self._power.acall(plan.kind, **arguments)
        record["at_us"] = laid["laid_at"]
        self._live.notes.append(f"{plan.kind} {plan.what}: {_shown(record['pairs'])}")
        await trio.sleep(plan.for_s)
        healed = await self._power.acall("heal", label=record["label"])
        record["until_us"] = healed["healed_at"]
        self._take(record, healed)

    # ------------------------------------------------------------------------------------------ processes

    def _pick(self, plan: FaultPlan, leader: str | None, rng: random.Random) -> str:
        try:
            return drawing.victim(plan, [place.id for place in self._cluster.nodes], leader, rng)
        except drawing.Undrawable as error:
            raise ClusterError(str(error)) from None

    async def _on_node(self, plan: FaultPlan, record: dict[str, Any], rng: random.Random) -> None:
        record["node"] = node = self._pick(plan, record["leader"], rng)
        do, undo, done, undone = {
            "pause": ("pause", "resume", "paused_at", "resumed_at"),
            "kill": ("kill", "start", "killed_at", "started_at"),
        }[plan.kind]
        record["at_us"] = (await self._power.acall(do, node=node))[done]
        record["progress"] = record["progress"] and len(self._cluster.nodes) > 2
        self._live.notes.append(f"{plan.kind} {node}")
        await trio.sleep(plan.for_s)
        record["until_us"] = (await self._power.acall(undo, node=node))[undone]
        record["bit"] = True
        record["counts"] = {f"{done.removesuffix('_at')}_us": record["until_us"] - record["at_us"]}


def _shown(pairs: Sequence[str], most: int = 8) -> str:
    more = f" and {len(pairs) - most} more" if len(pairs) > most else ""
    return ", ".join(pairs[:most]) + more
