"""Shapes of partitions, by name: which directed links between members are cut.

A shape is drawn for a `Setting` (who is there, who leads, who shares a power domain) and gives a *grudge*: the directed
pairs (sender, receiver) over which nothing passes. The name of a shape may carry a direction: `bridge` cuts both ways,
`bridge:out` only what the separated side sends, `bridge:in` only what it would hear. The same grudges are laid on
virtual links, on a relay's connections and on packets between network namespaces.

Sources: Jepsen's nemesis grudges (halves, bridge, majorities ring), Cloudflare's outage of 2020-11-02 (one-way), "Toward a
Generic Fault Tolerance Technique for Partial Network Partitioning" (OSDI 2020, partial partitions).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

Pair = tuple[str, str]
"""(sender, receiver): nothing that the sender says reaches the receiver."""

DIRECTIONS: Final = ("", "out", "in")


@dataclass(slots=True, frozen=True)
class Setting:
    """What a shape is drawn for. `nodes` in a fixed order; `domains`: node -> name of its power domain."""

    nodes: Sequence[str]
    leader: str | None = None
    domains: Mapping[str, str] = field(default_factory=dict)


Side = list[str]
Draw = Callable[[Setting, Random], list[Pair]]


@dataclass(slots=True, frozen=True)
class Shape:
    """A named shape. `quorum`: whether, among an odd number of three nodes or more, somebody can still talk with a
    majority, itself
    counted, in both directions, whatever is drawn."""

    name: str
    title: str
    draw: Draw
    quorum: bool


class ShapeError(ValueError):
    """No such shape or direction; the text says what there is."""


_SHAPES: dict[str, Shape] = {}


def _shape(name: str, title: str, quorum: bool = True) -> Callable[[Draw], Draw]:
    def enter(draw: Draw) -> Draw:
        _SHAPES[name] = Shape(name, title, draw, quorum)
        return draw

    return enter


def names() -> list[str]:
    """All shapes, in the order of their definition."""
    return list(_SHAPES)


def titles() -> dict[str, str]:
    """Name -> what it is."""
    return {shape.name: shape.title for shape in _SHAPES.values()}


def parse(spec: str) -> tuple[Shape, str]:
    """(shape, direction) of `name` or `name:direction`. Raises ShapeError."""
    name, _, direction = spec.partition(":")
    shape = _SHAPES.get(name)
    if shape is None:
        near = difflib.get_close_matches(name, _SHAPES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ShapeError(f"no partition shape {name!r}{hint} Known: {', '.join(_SHAPES)}")
    if direction not in DIRECTIONS:
        raise ShapeError(
            f"{spec!r}: a direction is 'out' or 'in' ({name}:out: the separated side is not heard)"
        )
    return shape, direction


def grudge(spec: str, setting: Setting, rng: Random) -> list[Pair]:
    """The directed pairs that `spec` cuts, sorted, each once. Raises ShapeError for an unknown name or direction."""
    shape, direction = parse(spec)
    if len(setting.nodes) < 2:
        return []  # no links
    pairs = shape.draw(setting, rng)
    order = {node: place for place, node in enumerate(setting.nodes)}
    if direction == "out":
        pairs = pairs[::2]
    elif direction == "in":
        pairs = pairs[1::2]
    return sorted(set(pairs), key=lambda pair: (order[pair[0]], order[pair[1]]))


# A draw lists both directions of every cut link side by side, the separated side's own sending first: that is what a
# direction selects by.


def _between(side: Sequence[str], rest: Sequence[str]) -> list[Pair]:
    return [pair for a in side for b in rest for pair in ((a, b), (b, a))]


def least_circle(spec: str, setting: Setting, among: Sequence[str], draws: int = 32) -> int:
    """The fewest nodes of `among` of which each hears each while `spec` is cut ("": nothing is), over so many draws. A shape cuts
    the same number of nodes off whoever they are, so a few draws show the worst case. For at most some tens of nodes."""
    least = len(among)
    for number in range(draws if spec else 0):
        cut = grudge(spec, setting, Random(number))
        apart = {pair for one, other in cut for pair in ((one, other), (other, one))}
        least = min(least, _largest_circle(list(among), apart))
    return least


def _largest_circle(nodes: list[str], apart: Container[Pair]) -> int:
    if not nodes:
        return 0
    first, *rest = nodes
    friends = [node for node in rest if (first, node) not in apart]
    found = 1 + _largest_circle(friends, apart)
    # Without the first one it can only be larger if somebody is left who does not hear it.
    return found if len(friends) == len(rest) else max(found, _largest_circle(rest, apart))


def _apart(setting: Setting, side: Sequence[str]) -> list[Pair]:
    return _between(side, [node for node in setting.nodes if node not in side])


def _shuffled(setting: Setting, rng: Random) -> list[str]:
    nodes = list(setting.nodes)
    rng.shuffle(nodes)
    return nodes


@_shape("one", "one node, drawn, is cut off")
def _one(setting: Setting, rng: Random) -> list[Pair]:
    return _apart(setting, [rng.choice(setting.nodes)])


@_shape("leader", "the leader is cut off (one node, drawn, while nobody leads)")
def _leader(setting: Setting, rng: Random) -> list[Pair]:
    drawn = rng.choice(setting.nodes)
    return _apart(setting, [setting.leader or drawn])


@_shape("follower", "one node that does not lead is cut off")
def _follower(setting: Setting, rng: Random) -> list[Pair]:
    return _apart(setting, [rng.choice([node for node in setting.nodes if node != setting.leader])])


@_shape("halves", "the first half of the nodes and the rest")
def _halves(setting: Setting, rng: Random) -> list[Pair]:
    return _apart(setting, setting.nodes[: len(setting.nodes) // 2])


@_shape("random-halves", "two halves, drawn")
def _random_halves(setting: Setting, rng: Random) -> list[Pair]:
    return _apart(setting, _shuffled(setting, rng)[: len(setting.nodes) // 2])


@_shape("minority-third", "up to a third of the nodes, and fewer than half, are cut off together")
def _minority_third(setting: Setting, rng: Random) -> list[Pair]:
    count = len(setting.nodes)
    return _apart(setting, _shuffled(setting, rng)[: max(1, min(-(-count // 3), (count - 1) // 2))])


@_shape("majority-third", "about two thirds on one side, the leader on the other")
def _majority_third(setting: Setting, rng: Random) -> list[Pair]:
    count = len(setting.nodes)
    nodes = _shuffled(setting, rng)
    if setting.leader is not None:
        nodes.sort(key=lambda node: node != setting.leader)
    return _apart(setting, nodes[: max(1, count // 3)])


@_shape("bridge", "two halves that hear nothing of each other, and one node that both can talk to")
def _bridge(setting: Setting, rng: Random) -> list[Pair]:
    _middle, *rest = _shuffled(setting, rng)
    half = len(rest) // 2
    return _between(rest[:half], rest[half:])


@_shape("leader-bridge", "a bridge on whose smaller side the leader stands")
def _leader_bridge(setting: Setting, rng: Random) -> list[Pair]:
    nodes = _shuffled(setting, rng)
    leader = setting.leader or nodes[0]
    rest = [node for node in nodes if node != leader]
    half = (len(rest) - 1) // 2
    return _between([leader, *rest[: half - 1]] if half else [leader], rest[max(half - 1, 0) : -1])


@_shape("majorities-ring", "every node sees a majority, and no two see the same one")
def _majorities_ring(setting: Setting, rng: Random) -> list[Pair]:
    ring = _shuffled(setting, rng)
    count = len(ring)
    reach = (count // 2 + 1) // 2  # neighbours seen on each side: with itself a majority, and not everybody
    pairs = []
    for place, node in enumerate(ring):
        for other in range(place + 1, count):
            distance = min(other - place, count - (other - place))
            if distance > reach:
                pairs += [(node, ring[other]), (ring[other], node)]
    if count == 3:  # a line: the smallest ring in which somebody is not seen
        pairs = [(ring[0], ring[2]), (ring[2], ring[0])]
    return pairs


@_shape("many-sides", "three sides or more, none of which hears another", quorum=False)
def _many_sides(setting: Setting, rng: Random) -> list[Pair]:
    nodes = _shuffled(setting, rng)
    count = min(rng.randint(3, 4), len(nodes))
    side_of = {node: place % count for place, node in enumerate(nodes)}
    return [
        pair
        for place, a in enumerate(nodes)
        for b in nodes[place + 1 :]
        if side_of[a] != side_of[b]
        for pair in ((a, b), (b, a))
    ]


@_shape("everyone", "no node hears any other", quorum=False)
def _everyone(setting: Setting, rng: Random) -> list[Pair]:
    nodes = setting.nodes
    return [pair for place, a in enumerate(nodes) for b in nodes[place + 1 :] for pair in ((a, b), (b, a))]


@_shape("grudge", "each node, by itself, refuses to hear some others", quorum=False)
def _grudge(setting: Setting, rng: Random) -> list[Pair]:
    nodes = setting.nodes
    pairs = [(a, b) for a in nodes for b in nodes if a != b and rng.random() < 0.3]
    if not pairs:
        first, second = rng.sample(nodes, 2)
        pairs = [(first, second)]
    # Directed as it is: a direction has nothing to choose from, so each pair stands for both of its places.
    return [pair for pair in pairs for _ in range(2)]


@_shape("single-link", "two nodes do not hear each other; everybody else hears both")
def _single_link(setting: Setting, rng: Random) -> list[Pair]:
    first, second = rng.sample(list(setting.nodes), 2)
    return [(first, second), (second, first)]


@_shape("leader-link", "the leader and one follower do not hear each other")
def _leader_link(setting: Setting, rng: Random) -> list[Pair]:
    first = setting.leader or rng.choice(setting.nodes)
    second = rng.choice([node for node in setting.nodes if node != first])
    return [(first, second), (second, first)]


@_shape("power-domain", "all links of one power domain's nodes with the others are cut", quorum=False)
def _power_domain(setting: Setting, rng: Random) -> list[Pair]:
    domains = list(dict.fromkeys(setting.domains.get(node, node) for node in setting.nodes))
    domain = rng.choice(domains)
    return _apart(setting, [node for node in setting.nodes if setting.domains.get(node, node) == domain])
