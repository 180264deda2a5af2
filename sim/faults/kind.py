"""What a kind of fault is.

A kind is a generator function `course(world, running)`: it does its harm, yields how many microseconds to wait
before it goes on, and
undoes everything in a `finally` when its time is over. Whenever it truly does something it calls
`running.bite(what)`; a run whose
faults never bite proves nothing. Parameters are plain JSON values, drawn beforehand (`draw`), so that a schedule can be saved and
edited; what is drawn while a fault is at work comes from `running.rng`, its own stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from consensus.core import NEVER
from sim.faults.rules import Rules
from sim.faults.running import Course, Running

if TYPE_CHECKING:
    from sim.virtual.world import World

UNTIL_THE_END: Final = NEVER
"""Yielded by a course that waits for its time to be over."""

Params = dict[str, Any]


class FaultError(ValueError):
    """No such kind of fault, or parameters that it does not know."""


@dataclass(slots=True, frozen=True)
class Terrain:
    """What a fault's parameters are drawn for."""

    nodes: Sequence[str]
    places: Sequence[str]
    """Places in the power tree, the root first."""
    damageable: Sequence[str]
    """Nodes whose disks may be damaged for good: a minority, unless a run is meant to go over the budget."""
    liars: Sequence[str] = ()
    """Those of them that may lie, where the protocol allows for liars: who lies counts as damaged."""


@dataclass(slots=True, frozen=True)
class Kind:
    """A kind of fault. `damages`: it may cost a node its disk for good. `lies`: it makes a node
    lie. `variants`: what it is counted by, one at a time. `params`: what its parameters may be, by name; None: they are not
    checked."""

    name: str
    title: str
    course: Callable[[World, Running], Course]
    draw: Callable[[Random, Terrain], Params]
    variants: tuple[str, ...] = ()
    damages: bool = False
    lies: bool = False
    params: Rules | None = None
