"""The part of a run in which nothing new breaks: progress with a drawn majority only; all alike when everything is repaired."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.faults.lasting import go_on_lying, trouble
from sim.oracles.oracle import Violation
from sim.virtual.host import TURN

if TYPE_CHECKING:
    from sim.virtual.world import World


class Stuck(Exception):
    """No progress where progress is promised; the text explains who waits for what."""


class Healing:
    """What a world demands once the schedule of faults is over. Raises Stuck and Violation."""

    def __init__(self, world: World) -> None:
        self._world = world

    def spread(self) -> bool:
        """Whether a diverged state has gone beyond what was damaged on purpose: its snapshot was fetched before a digest
        showed it. No replicated log survives that; all it can do is to notice."""
        world = self._world
        # Where members may lie, a state counts for something only if a quorum has signed it.
        leading = world.protocol.leader is None and world.leader() in world.diverged
        return len(world.diverged) > world.budget or leading

    def noticed(self) -> bool:
        """Whether the nodes find that a state has diverged. If they do not, it may have come right by itself, a later write
        having covered the harm: then everything is demanded as usual, and all states must be the log's."""
        world = self._world
        self.heal()
        world.tell_phase("healed", "a diverged state has spread; it must be noticed")
        world.timeline.run_until(
            world.timeline.now + world.plan.patience, lambda: bool(world.notes["diverged"])
        )
        if world.notes["diverged"]:
            self.asked_enough()
            world.notes["runs in which a diverged state spread, and was noticed"] += 1
            return True
        world.diverged.clear()
        return False

    def heal(self) -> None:
        """Take every trouble away but damage to disks."""
        world = self._world
        world.network.clear()
        world.bulk = min(world.bulk, 10)
        world.power.restore_all()
        for host in world.hosts.values():
            host.turn_cost = TURN
            host.slowness = 1
            host.trap = None
            host.come_clean()
            host.resume()
            host.unstall()
            host.disk.clear()
            host.look_after()

    def quorum_only(self) -> int:
        """Heal a drawn majority, leave everybody else in trouble for good, and demand progress. How long that took, in us."""
        world = self._world
        self.heal()
        rng = world.streams.of("quorum")
        alive = [name for name in world.names if not world.hosts[name].lost]
        need = world.quorum
        if len(alive) < need:
            raise Violation(
                "budget", f"only {len(alive)} of {len(world.names)} nodes are left: {world.lost()}", []
            )
        # Those whose state has diverged go on voting, and never lead: progress is promised by a majority of the others.
        sound = [name for name in alive if name not in world.diverged and name not in world.liars]
        if len(sound) < need:
            return 0  # see `spread`
        vital = world.names[: world.protocol.vital]
        drawn = [name for name in rng.sample(sound, need) if name not in vital]
        healthy = sorted([*vital, *drawn][:need])
        words = []
        for name in world.names:
            if name in healthy or world.hosts[name].lost:
                continue
            lies_on = name in world.liars and rng.random() < 0.6
            words.append(
                f"{name} {go_on_lying(world, name, rng) if lies_on else trouble(world, name, healthy, rng)}"
            )
        world.tell_phase("quorum", f"healthy: {', '.join(healthy)}; {', '.join(words)}")
        for client in world.clients:
            # It must ask for something, and be able to find the majority, whoever else keeps silent.
            client.leader = rng.choice(healthy)
            client.load = dataclasses.replace(client.load, sleep=0.0)
            world.timeline.after(rng.randrange(5_000), lambda who: who.act_once(), client)
        before = {client.name: client.done for client in world.clients}
        began = world.timeline.now

        def progress() -> bool:
            return all(client.done > before[client.name] for client in world.clients)

        if not self._wait(progress):
            if self.spread():
                return 0
            raise Stuck(
                f"no progress within {world.plan.patience / 1e6:g} s, although {', '.join(healthy)} are healthy and "
                f"connected\n{world.explain()}"
            )
        took = world.timeline.now - began
        world.timeline.run(max(world.timeline.now, began + world.plan.quorum))
        return took

    def too_few(self) -> None:
        """More nodes are lost than the protocol survives: each of them has said so, and nothing may be promised any more."""
        world = self._world
        self.heal()
        world.tell_phase("lost", f"a majority is lost: {world.lost()}")
        world.timeline.run(world.timeline.now + 1_000_000)  # what was on its way may still arrive
        before = sum(client.done for client in world.clients)
        world.timeline.run(world.timeline.now + max(world.plan.quorum, 1_000_000))
        if sum(client.done for client in world.clients) > before:
            raise Violation(
                "loss is reported", f"writes are acknowledged without a majority; lost: {world.lost()}"
            )
        self.asked_enough()
        world.notes["runs that reported their loss"] += 1

    def asked_enough(self) -> bool:
        """Go on until clients have asked for as much as the plan demands; whether they have. Where too little is left for that it
        is noted and no more."""
        world = self._world
        if len(world.history) < world.plan.operations:
            rng = world.streams.of("enough")
            for client in world.clients:
                # Where sessions live long, whoever sleeps through one would sleep through all of this; and where a diverged state
                # has spread, there may be no leader to open another.
                client.asks_on = True
                client.load = dataclasses.replace(client.load, sleep=0.0)
                world.timeline.after(rng.randrange(5_000), lambda who: who.act_once(), client)
            world.timeline.run_until(
                world.timeline.now + 20 * world.plan.patience,
                lambda: len(world.history) >= world.plan.operations,
            )
        enough = len(world.history) >= world.plan.operations
        if not enough:
            world.notes["runs with fewer operations than the plan demands"] += 1
        return enough

    def all_healed(self) -> None:
        """Repair everything, and demand that all become alike and everybody has a say again."""
        world = self._world
        self.heal()
        world.tell_phase("healed", "everything is repaired")
        if (
            not self.asked_enough()
            and not self.spread()
            and len(world.names) - len(world.lost()) >= world.quorum
        ):
            raise Stuck(
                f"only {len(world.history)} of {world.plan.operations} operations were asked for "
                f"{20 * world.plan.patience / 1e6:g} s after everything was repaired\n{world.explain()}"
            )
        for client in world.clients:
            client.active = False
        if not self._wait(self._alike):
            raise Stuck(
                f"the nodes have not become alike {world.plan.patience / 1e6:g} s after everything was repaired\n"
                f"{world.explain()}"
            )
        if world.protocol.takes_part is not None:
            running = [host.replica.core for host in world.hosts.values() if host.replica is not None]
            since = max((core.observe().term for core in running), default=0)
            if not self._wait(lambda: not self._silent(since)):
                raise Stuck(
                    f"{', '.join(self._silent(since))}: up to date and well connected, and without a say in anything for "
                    f"{world.plan.patience / 1e6:g} s\n{world.explain()}"
                )

    def _silent(self, since: int) -> list[str]:
        """Who is there and has had no say since that term."""
        world = self._world
        spoke = world.protocol.takes_part
        return [
            host.name
            for host in world.hosts.values()
            if spoke is not None
            and not host.lost
            and (host.replica is None or not spoke(host.replica.core, since))
        ]

    def _wait(self, done: Callable[[], bool]) -> bool:
        """Let time pass until `done()`, asked every five milliseconds; False: the patience is over."""
        world = self._world
        end = world.timeline.now + world.plan.patience
        while not done():
            if world.timeline.now >= end:
                return False
            world.timeline.run(world.timeline.now + 5_000)
        return True

    def _alike(self) -> bool:
        """Whether every node that is left has applied everything, and nobody waits for an answer."""
        world = self._world
        reached = None
        for host in world.hosts.values():
            if host.lost:
                continue
            if host.replica is None:
                return False
            applied = host.replica.state.applied_index
            if reached is None:
                reached = applied
            if applied != reached or host.replica.core.observe().last_index != applied:
                return False
        return not any(client.open for client in world.clients)
