"""The power cuts of a scenario, carried out on a running cluster."""

from __future__ import annotations

import contextlib
import random
from typing import Any, Final

import trio

from node.io.client import Client
from node.io.client_signed import SignedWrites
from node.io.client_types import NodeUnavailable
from sim import drawing
from sim.drawing import ALL
from sim.local.control import Control
from sim.local.layout import Cluster, ClusterError
from sim.local.live import Live
from sim.scenario import PowerCut

RECOVERY_S: Final = 20.0
LEADERS: Final = 200
"""How often it is asked who leads, if that must not be a liar."""
CAUGHT_UP: Final = 200
"""Entries between the first and the last replica that count as caught up."""


class Outages:
    """Cuts and restores domains by plan. `records` says what happened."""

    def __init__(
        self, cluster: Cluster, power: Control, client: Client, live: Live, rng: random.Random
    ) -> None:
        self.records: list[dict[str, Any]] = []
        self._cluster = cluster
        self._power = power
        self._client = client
        self._live = live
        self._rng = rng
        self._cut_domains: list[str] = []
        self._one_outage = trio.Lock()

    async def run(self, plan: PowerCut) -> None:
        """Carry one cut out, `at_s` seconds from now. Raises ClusterError."""
        await trio.sleep(plan.at_s)
        if plan.after_recovery:
            # One outage at a time: on a slow machine two cuts may have become due while a domain was coming back.
            async with self._one_outage:
                await self._await_recovery()
                await self._cut_and_restore(plan)
        else:
            await self._cut_and_restore(plan)

    @property
    def undone(self) -> list[int]:
        """Instants at which power came back."""
        return [cut["restored_at_us"] for cut in self.records if "restored_at_us" in cut]

    async def _cut_and_restore(self, plan: PowerCut) -> None:
        live, cluster = self._live, self._cluster
        domain, leader = await self._choose(plan)
        domains = cluster.domains if domain == ALL else (domain,)
        places = [place for name in domains for place in cluster.of_domain(name)]
        self._cut_domains += domains
        for name in domains:
            live.dark[name] = ", ".join(place.id for place in cluster.of_domain(name))
        seed = self._rng.getrandbits(32)
        result = await self._power.acall("cut", domain=domain, trap=plan.trap, seed=seed)
        losses = list(result["losses"].values())
        record: dict[str, Any] = {
            "domain": domain,
            "at_us": result["cut_at"],
            "leader_domain": leader is not None and leader in places,
            "between_write_and_fsync": bool(result["held"]),
            "unsynced_bytes_dropped": sum(loss["dropped_bytes"] for loss in losses),
            "torn": sum(bool(loss["torn_bytes"]) for loss in losses),
            "nodes": [place.id for place in places],
        }
        self.records.append(record)
        live.cuts += 1
        live.notes.append(
            f"cut {domain}{' (the leader)' if record['leader_domain'] else ''}: "
            f"{record['unsynced_bytes_dropped']} unsynced bytes dropped"
            + (", between a write and its fsync" if record["between_write_and_fsync"] else "")
        )
        await trio.sleep(plan.dark_s)
        for name in domains:
            restored = await self._power.acall("restore", domain=name)
            record["restored_at_us"] = restored["restored_at"]
            live.dark.pop(name, None)
        live.notes.append(f"restored {domain}")

    async def _await_recovery(self) -> None:
        honest = [place for place in self._cluster.nodes if not place.lies]
        with trio.move_on_after(RECOVERY_S):
            while True:
                applied = []
                for place in honest:
                    try:
                        applied.append((await self._client.status(place.id, timeout_s=0.5))["applied_index"])
                    except NodeUnavailable:
                        break
                if len(applied) == len(honest) and max(applied) - min(applied) < CAUGHT_UP:
                    return
                await trio.sleep(0.1)

    async def _choose(self, plan: PowerCut) -> tuple[str, Any]:
        """(domain, place of the leader)."""
        cluster = self._cluster
        spared = {cluster.node(name).domain: None for name in cluster.liars}
        for _ in range(LEADERS):
            name = await leader_of(self._client)
            leader = cluster.node(name) if name is not None else None
            leading = leader.domain if leader is not None else None
            # Where every round has another leader it is soon somebody else than a liar.
            if plan.domain != "leader" or leading not in spared:
                break
            await trio.sleep(0.01)
        else:
            raise ClusterError(
                "nobody but liars has led of late; the cut of the leader's domain cannot be made"
            )
        if plan.domain == ALL:
            return ALL, leader
        try:
            domain = drawing.domain_to_cut(
                plan, cluster.domains, leading, self._live.dark, self._cut_domains, spared
            )
            return domain, leader
        except drawing.Undrawable as error:
            raise ClusterError(str(error)) from None


async def leader_of(client: Client) -> str | None:
    """The leader's name; where every round has another one, that of the round in which somebody answers. None if there is none
    within five seconds."""
    for _ in range(100):
        if isinstance(client.writes, SignedWrites):
            for node in client.connected:
                with contextlib.suppress(NodeUnavailable):
                    leader: str | None = (await client.status(node, timeout_s=0.5))["facts"]["leader"]
                    if leader is not None:
                        return leader
            await trio.sleep(0.05)
            continue
        if client.leader is not None:
            return client.leader
        await trio.sleep(0.05)
    return None
