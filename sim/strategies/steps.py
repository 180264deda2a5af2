"""A state machine over the virtual world: Hypothesis draws what happens next, the oracles watch, the end heals and judges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from sim.faults import shapes
from sim.faults.fault import Fault
from sim.faults.running import Running
from sim.oracles.oracle import Violation
from sim.strategies.draws import faults
from sim.virtual.plan import Plan
from sim.virtual.world import CoreFailed, World

NODES = st.integers(0, 6)
CLIENTS = st.integers(0, 6)
PLACES = st.integers(0, 20)


def _troubles(machine: WorldMachine) -> st.SearchStrategy[Fault]:
    return faults(kinds=machine.kinds, nodes=machine.plan.nodes)


class WorldMachine(RuleBasedStateMachine):
    """Use it as it is, `TestMine = WorldMachine.TestCase`, or as a base: another `plan` (protocol, machine, oracles, size), other
    `kinds` of faults, more rules (`self.world` is the world; run what may raise a verdict through `self.step`), more invariants.

    Clients do nothing by themselves: they write and ask by rules. A run begins with a leader and open sessions, and ends with
    every fault gone: all nodes must become alike, and the history must be linearizable."""

    plan: ClassVar[Plan] = Plan(0, clients=2, operations=0)
    kinds: ClassVar[Sequence[str]] = ()
    """What `trouble` draws from; none: the whole catalogue."""

    outages = Bundle("outages")
    troubles = Bundle("troubles")

    def __init__(self) -> None:
        super().__init__()
        self.world: World
        self.over = True
        self._faults = 0

    def step(self, action: Callable[..., Any], *arguments: Any) -> Any:
        """Do something to the world; after a verdict nothing more is asked of it."""
        try:
            return action(*arguments)
        except World.verdicts:
            self.over = True
            raise

    def node(self, number: int) -> Any:
        """The host of a drawn number."""
        return self.world.hosts[self.world.names[number % len(self.world.names)]]

    @initialize(seed=st.integers(0, 1000))
    def begin(self, seed: int) -> None:
        """Power on, and let everybody settle."""
        self.world = World(replace(self.plan, seed=seed))
        self.over = False
        self.step(self.world.begin)
        self.step(self.world.timeline.run, 400_000)
        for client in self.world.clients:
            client.active = False
            client.write_once()
        self.step(self.world.timeline.run, 600_000)

    # ----------------------------------------------------------------------------------------------------------- rules

    @rule(milliseconds=st.integers(1, 1000))
    def let_time_pass(self, milliseconds: int) -> None:
        """Everything goes on for a while."""
        self.step(self.world.timeline.run, self.world.timeline.now + 1000 * milliseconds)

    @rule(client=CLIENTS, commands=st.integers(1, 4))
    def write(self, client: int, commands: int) -> None:
        """A client submits commands (it asks for a session if it lost its own)."""
        chosen = self.world.clients[client % len(self.world.clients)]
        self.step(chosen.write_once, commands)

    @rule(client=CLIENTS)
    def ask(self, client: int) -> None:
        """A client asks a query."""
        self.step(self.world.clients[client % len(self.world.clients)].ask_once)

    @rule(target=outages, place=PLACES)
    def cut_power(self, place: int) -> str:
        """A place of the power tree goes dark."""
        world = self.world
        places = [*world.power.places(), *world.names]
        chosen = places[place % len(places)]
        for name in world.power.cut(chosen):
            self.step(world.hosts[name].cut_power)
        return chosen

    @rule(place=consumes(outages))
    def restore_power(self, place: str) -> None:
        """It has power again, and its nodes start."""
        for name in self.world.power.restore(place):
            self.step(self.world.hosts[name].boot)

    @rule(node=NODES)
    def kill(self, node: int) -> None:
        """A process dies; what it had written stays in the kernel."""
        self.step(self.node(node).kill)

    @rule(node=NODES)
    def start(self, node: int) -> None:
        """A process is started, if it does not run."""
        self.step(self.node(node).boot)

    @rule(target=troubles, shape=st.sampled_from(shapes.names()), ways=st.sampled_from(("", ":out", ":in")))
    def partition(self, shape: str, ways: str) -> Running:
        """Links between nodes are cut, in a shape."""
        return self._inject("partition", {"shape": shape + ways})

    @rule(target=troubles, node=NODES)
    def stall_disk(self, node: int) -> Running:
        """No sync of a node's disk returns."""
        return self._inject("disk stall", {"node": node % len(self.world.names)})

    @rule(target=troubles, fault=st.runner().flatmap(_troubles))
    def trouble(self, fault: Fault) -> Running:
        """Any fault of the catalogue."""
        return self._inject(fault.kind, fault.params)

    @rule(running=consumes(troubles))
    def calm(self, running: Running) -> None:
        """A fault ends."""
        self.step(self.world.calm, running)

    def _inject(self, kind: str, params: dict[str, Any]) -> Running:
        self._faults += 1
        now = self.world.timeline.now
        running: Running = self.step(self.world.inject, Fault(self._faults, kind, now, now, params))
        return running

    # ------------------------------------------------------------------------------------------------------- invariants

    @invariant()
    def nobody_failed(self) -> None:
        """No core, replica or machine has raised."""
        if not self.over and self.world.core_error:
            self.over = True
            raise CoreFailed(self.world.core_error)

    @invariant()
    def one_history(self) -> None:
        """Who has applied as much has the same history."""
        if self.over:
            return
        chains: dict[int, bytes] = {}
        for host in self.world.hosts.values():
            if host.replica is not None:
                state = host.replica.state
                if chains.setdefault(state.applied_index, state.chain) != state.chain:
                    self.over = True
                    raise Violation("one history", f"two histories up to {state.applied_index}", [host.name])

    def teardown(self) -> None:
        """Heal everything and judge, unless a verdict has been given already."""
        if not self.over:
            self.over = True
            self.world.settle()
