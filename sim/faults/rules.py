"""What the parameters of a kind of fault may be: so that an edited schedule is refused in words before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sim import edited
from sim.edited import Check, shown
from sim.faults import shapes

if TYPE_CHECKING:
    from sim.faults.kind import Params, Terrain

MOST_US: Final = 10**10
"""The longest time in a plan, in microseconds: close to three hours."""
LEAST_PACE: Final = 100
"""Microseconds: what goes on and on with shorter pauses hardly ever lets the rest of a world get on."""


@dataclass(slots=True, frozen=True)
class Rule:
    """What one parameter may be. `wrong(value, params, terrain)` says what is wrong, empty if nothing is; without a terrain
    it is not asked which nodes and places there are. `fitted(value, nodes)`: what means the same among fewer nodes."""

    wrong: Callable[[Any, Params, Terrain | None], str]
    needed: bool = True
    fitted: Callable[[Any, int], Any] | None = None


Rules = Mapping[str, Rule]


def plain(check: Check) -> Rule:
    """A rule that asks for nothing but the value."""
    return Rule(lambda value, params, terrain: check(value))


def optional(rule: Rule) -> Rule:
    """The same of a parameter that may be left out."""
    return replace(rule, needed=False)


SHARE: Final = plain(edited.SHARE)
FLAG: Final = plain(edited.flag)
WAIT: Final = plain(edited.whole(0, MOST_US))
"""Microseconds of something that comes to an end whatever they are."""
PACE: Final = plain(edited.whole(LEAST_PACE, MOST_US))
"""Microseconds of something that goes on for ever."""


def whole(low: int, high: int) -> Rule:
    """An integer of a range."""
    return plain(edited.whole(low, high))


def one_of(*allowed: str) -> Rule:
    """One of some texts."""
    return plain(edited.one_of(*allowed))


def _now_and_then(value: Any) -> str:
    if type(value) is int and (value == 0 or LEAST_PACE <= value <= MOST_US):
        return ""
    return f"{shown(value)} is neither 0 nor an integer from {LEAST_PACE:,} to {MOST_US:,}"


NOW_AND_THEN: Final = plain(_now_and_then)
"""Microseconds of something that goes on for ever, or 0 for once."""


def _shape(value: Any) -> str:
    if type(value) is not str:
        return f"{shown(value)} is not the name of a shape"
    try:
        shapes.parse(value)
    except shapes.ShapeError as error:
        return str(error)
    return ""


SHAPE: Final = plain(_shape)
LINKS: Final = plain(lambda value: "" if value in ("all", "clients") else _shape(value))


def _at_most_high(value: Any, params: Params, terrain: Terrain | None) -> str:
    high = params.get("high", 0)
    wrong = edited.whole(0, MOST_US)(value)
    return wrong or (f"{value:,} is above high, {high:,}" if type(high) is int and value > high else "")


LOW: Final = Rule(_at_most_high)
"""The lower end of a range whose upper end is the parameter `high`."""


def _node(words: str, numbers: bool, names: bool, leader: bool) -> Rule:
    def wrong(value: Any, params: Params, terrain: Terrain | None) -> str:
        nodes = terrain.nodes if terrain else None
        if type(value) is int and numbers and value >= 0 and (nodes is None or value < len(nodes)):
            return ""
        if type(value) is str and (
            (leader and value == "leader") or (names and (nodes is None or value in nodes))
        ):
            return ""
        known = f"; there are {', '.join(nodes)}" if nodes else ""
        return f"{shown(value)} is not {words}{known}"

    return Rule(wrong, fitted=lambda value, nodes: value % nodes if type(value) is int else value)


NUMBER: Final = _node("the number of a node, from 0", numbers=True, names=False, leader=False)
NAME: Final = _node("the name of a node", numbers=False, names=True, leader=False)
NUMBER_OR_LEADER: Final = _node(
    "the number of a node, from 0, or 'leader'", numbers=True, names=False, leader=True
)
NODE: Final = _node(
    "the name of a node, its number, from 0, or 'leader'", numbers=True, names=True, leader=True
)


def _place(value: Any, params: Params, terrain: Terrain | None) -> str:
    if type(value) is not str:
        return f"{shown(value)} is not a place"
    if value == "leader" or terrain is None or value in terrain.places or value in terrain.nodes:
        return ""
    known = ", ".join((*terrain.places, *terrain.nodes))
    return f"{shown(value)} is not a place of the power tree, a node or 'leader'; there are {known}"


PLACE: Final = Rule(_place)


def _by_node(check: Check, words: str) -> Rule:
    def wrong(value: Any, params: Params, terrain: Terrain | None) -> str:
        if not isinstance(value, list):
            return f"{shown(value)} is not a list, {words}"
        if terrain is not None and len(value) > len(terrain.nodes):
            return f"{len(value)} values for {len(terrain.nodes)} nodes"
        return next((f"[{place}]: {wrong}" for place, one in enumerate(value) if (wrong := check(one))), "")

    return Rule(wrong, fitted=lambda value, nodes: value[:nodes] if isinstance(value, list) else value)


RATES_OF_CLOCKS: Final = _by_node(
    edited.whole(-900_000, 900_000), "node by node, of parts per million; 0: left alone"
)


def objection(rules: Rules, params: Params, terrain: Terrain | None) -> str:
    """The first thing that is wrong, with the name of the parameter; empty: nothing is."""
    for name, value in params.items():
        if name not in rules:
            known = f"known: {', '.join(rules)}" if rules else "this kind has no parameters"
            return f"params: unknown {shown(name)}; {known}"
        wrong = rules[name].wrong(value, params, terrain)
        if wrong:
            return f"params.{name}: {wrong}"
    missing = [name for name, rule in rules.items() if rule.needed and name not in params]
    return f"params: {missing[0]!r} is missing" if missing else ""
