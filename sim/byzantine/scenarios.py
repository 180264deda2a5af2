"""The scenarios of Twins (Bano et al., "Twins: BFT Systems Made Robust", OPODIS 2021), numbered: who hears whom in every round,
and who leads it.

Some nodes run twice, under one name and one key. A round gives every instance (the nodes in their order, then the second copies
of the first of them) a side, says which instances hear its votes, and names its leader, twins or not. Votes get a choice
of their own because here they go to everybody: a certificate that only a few know, from which most of the deep mistakes of
two-chain protocols come, would never arise if the votes went the way of everything else (`lockstep.links`).

Scenarios that differ only in which of several equal instances is which are one scenario, the canonical one. Its number follows
from counting orbits (Cauchy and Frobenius: an average over the symmetries of what each leaves alone), so the total is exact and
any number can be played without those before it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import factorial, prod
from typing import Final

MOST_IMAGES: Final = 1_000_000
"""Most table cells for what symmetries do to letters; beyond it some honest nodes are not taken for interchangeable."""

Permutation = tuple[int, ...]
Subgroup = tuple[int, ...]
"""Numbers of symmetries, ascending."""


class ScenarioError(ValueError):
    """There is no such scenario, or there are none of such a shape; the text says why."""


@dataclass(slots=True, frozen=True)
class RoundPlan:
    """One round. `sides`: of each instance. `hears`: whether it hears the votes of its side. `leader`: the number of a node."""

    sides: tuple[int, ...]
    hears: tuple[bool, ...]
    leader: int


@dataclass(slots=True, frozen=True)
class Letter:
    """One of the choices of which a scenario is made, all values of it: `images[symmetry][value]`."""

    size: int
    images: tuple[tuple[int, ...], ...]


class Space:
    """All canonical scenarios of `rounds` rounds with `nodes` nodes of which the first `twins` run twice, on at most `sides`
    sides. `deaf`: whether a round chooses who hears its votes; else everybody does. Raises ScenarioError."""

    def __init__(self, nodes: int, twins: int, rounds: int, sides: int = 2, deaf: bool = True) -> None:
        if nodes < 1 or not 0 <= twins <= nodes or rounds < 1 or sides < 1:
            raise ScenarioError(
                f"{nodes} nodes of which {twins} have a twin, {rounds} rounds, {sides} sides: it takes a node, a round and a "
                f"side at least, and no more twins than nodes"
            )
        self.nodes, self.twins, self.rounds, self.deaf = nodes, twins, rounds, deaf
        self.instances = nodes + twins
        splits = _stirling_sum(self.instances, sides)
        cells = splits + ((1 << self.instances) if deaf else 1) + nodes
        fixed = factorial(twins) << twins
        if cells * fixed > MOST_IMAGES:
            raise ScenarioError(
                f"{self.instances} instances have {cells:,} choices a round, and {fixed:,} symmetries among twins "
                f"alone; it takes fewer nodes, twins or sides"
            )
        self._partitions = _partitions(self.instances, sides)
        self.alike = max(
            (k for k in range(1, nodes - twins + 1) if fixed * factorial(k) * cells <= MOST_IMAGES), default=0
        )
        """So many of the honest nodes are taken for interchangeable."""
        self._symmetries = _symmetries(nodes, twins, self.alike)
        self._letters = self._alphabet()
        self._word = self._letters * rounds
        self._everything: Subgroup = tuple(range(len(self._symmetries)))
        self._branches: dict[tuple[Subgroup, int], list[tuple[int, Subgroup]]] = {}
        self._counts: dict[tuple[Subgroup, int], int] = {}

    # ---------------------------------------------------------------------------------------------------- symmetries

    def _alphabet(self) -> tuple[Letter, ...]:
        number = {sides: place for place, sides in enumerate(self._partitions)}
        subsets = range(1 << self.instances)
        sides, hears, leaders = [], [], []
        for moved in self._symmetries:
            back = _inverse(moved)
            sides.append(tuple(number[_normal([row[place] for place in back])] for row in self._partitions))
            if self.deaf:
                hears.append(tuple(_moved_bits(subset, moved) for subset in subsets))
            # Both copies of a node go by one name.
            leaders.append(tuple(self.node_of(moved[node]) for node in range(self.nodes)))
        letters = [Letter(len(self._partitions), tuple(sides))]
        if self.deaf:
            letters.append(Letter(len(subsets), tuple(hears)))
        return (*letters, Letter(self.nodes, tuple(leaders)))

    def node_of(self, instance: int) -> int:
        """The number of the node that an instance is, or is the second copy of."""
        return instance if instance < self.nodes else instance - self.nodes

    def _count(self, group: Subgroup, place: int) -> int:
        """Canonical ways to go on from `place` where only the symmetries of `group` are left."""
        rest = self._word[place:]
        if len(group) == 1:
            return prod(letter.size for letter in rest)
        known = self._counts.get((group, place))
        if known is None:
            fixed = self._fixed
            kinds = len(self._letters)
            total = sum(
                prod(fixed[(place + step) % kinds][one] for step in range(len(rest))) for one in group
            )
            known = self._counts[group, place] = total // len(group)
        return known

    @cached_property
    def _fixed(self) -> list[list[int]]:
        """For each kind of letter and each symmetry: how many values it leaves alone."""
        return [
            [sum(value == image for value, image in enumerate(images)) for images in letter.images]
            for letter in self._letters
        ]

    def _branch(self, group: Subgroup, place: int) -> list[tuple[int, Subgroup]]:
        """The canonical values of the letter at `place`, ascending, each with the symmetries that are left behind it."""
        kind = place % len(self._letters)
        known = self._branches.get((group, kind))
        if known is None:
            images = self._letters[kind].images
            known = []
            for value in range(self._letters[kind].size):
                if all(images[one][value] >= value for one in group):
                    known.append((value, tuple(one for one in group if images[one][value] == value)))
            self._branches[group, kind] = known
        return known

    # ------------------------------------------------------------------------------------------------------- numbers

    @cached_property
    def total(self) -> int:
        """How many canonical scenarios there are."""
        return self._count(self._everything, 0)

    @property
    def plain_total(self) -> int:
        """How many there would be if every instance were told from every other."""
        return prod(letter.size for letter in self._word)

    def scenario(self, number: int) -> tuple[RoundPlan, ...]:
        """The canonical scenario with that number, from 0. Raises ScenarioError."""
        if not 0 <= number < self.total:
            raise ScenarioError(
                f"there is no scenario {number}; of this shape there are {self.total:,}, from 0"
            )
        group, word = self._everything, []
        for place, letter in enumerate(self._word):
            if len(group) == 1:
                each = self._count(group, place + 1)
                value, number = divmod(number, each)
                assert value < letter.size
                word.append(value)
                continue
            for value, left in self._branch(group, place):
                size = self._count(left, place + 1)
                if number < size:
                    word.append(value)
                    group = left
                    break
                number -= size
        return self._read(word)

    def number(self, plans: Sequence[RoundPlan]) -> int:
        """The number of the canonical scenario that is the same as this one but for which of equal instances is which."""
        word, group, number = self._write(plans), self._everything, 0
        for place in range(len(word)):
            images = self._letters[place % len(self._letters)].images
            best = min(group, key=lambda one: (images[one][word[place]], one))
            word = [
                self._letters[later % len(self._letters)].images[best][value]
                for later, value in enumerate(word)
            ]
            for value, left in self._branch(group, place):
                if value == word[place]:
                    group = left
                    break
                number += self._count(left, place + 1)
        return number

    def _read(self, word: list[int]) -> tuple[RoundPlan, ...]:
        kinds = len(self._letters)
        plans = []
        for place in range(0, len(word), kinds):
            sides, leader = self._partitions[word[place]], word[place + kinds - 1]
            subset = word[place + 1] if self.deaf else (1 << self.instances) - 1
            hears = tuple(bool(subset >> instance & 1) for instance in range(self.instances))
            plans.append(RoundPlan(sides, hears, leader))
        return tuple(plans)

    def _write(self, plans: Sequence[RoundPlan]) -> list[int]:
        if len(plans) != self.rounds:
            raise ScenarioError(f"{len(plans)} rounds; scenarios of this shape have {self.rounds}")
        word: list[int] = []
        for plan in plans:
            word.append(self._partitions.index(_normal(plan.sides)))
            if self.deaf:
                word.append(sum(1 << instance for instance, hears in enumerate(plan.hears) if hears))
            word.append(plan.leader)
        return word


def _stirling_sum(instances: int, sides: int) -> int:
    """How many rows `_partitions` has: the Stirling numbers of the second kind, summed over up to so many sides."""
    ways = [1] + [0] * sides
    for _ in range(instances):
        ways = [0] + [ways[k - 1] + k * ways[k] for k in range(1, sides + 1)]
    return sum(ways)


def _partitions(instances: int, sides: int) -> list[tuple[int, ...]]:
    """All ways to put instances on at most so many sides that have no names, the one side of all first."""
    rows: list[tuple[int, ...]] = [()]
    for _ in range(instances):
        rows = [(*row, side) for row in rows for side in range(min(max(row, default=-1) + 2, sides))]
    return rows


def _normal(sides: Sequence[int]) -> tuple[int, ...]:
    """The same partition with its sides numbered as they come."""
    names: dict[int, int] = {}
    return tuple(names.setdefault(side, len(names)) for side in sides)


def _inverse(moved: Permutation) -> Permutation:
    back = [0] * len(moved)
    for place, goal in enumerate(moved):
        back[goal] = place
    return tuple(back)


def _moved_bits(subset: int, moved: Permutation) -> int:
    return sum(1 << goal for place, goal in enumerate(moved) if subset >> place & 1)


def _symmetries(nodes: int, twins: int, alike: int) -> list[Permutation]:
    """Permutations of the instances that change nothing that matters, the one that moves nothing first: nodes with a twin among
    each other, the two copies of each, and the first `alike` of the nodes without."""
    found = []
    for pairs in itertools.permutations(range(twins)):
        for swaps in itertools.product((False, True), repeat=twins):
            for order in itertools.permutations(range(twins, twins + alike)):
                moved = list(range(nodes + twins))
                for pair, goal in enumerate(pairs):
                    copies = (goal, nodes + goal)
                    moved[pair], moved[nodes + pair] = copies[::-1] if swaps[pair] else copies
                moved[twins : twins + alike] = order
                found.append(tuple(moved))
    return found


class Order:
    """The numbers below `total` in an order that a seed shuffles: `order[i]` without those before it, none twice. (A Feistel
    network of four rounds over the next power of four, walked until it falls below `total`.)"""

    def __init__(self, total: int, seed: int) -> None:
        if total < 1:
            raise ScenarioError("there is nothing to put in order")
        self.total = total
        self._half = max(1, ((total - 1).bit_length() + 1) // 2)
        self._keys = [f"{seed}/{turn}/".encode() for turn in range(4)]

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.total:
            raise IndexError(f"place {place} of {self.total}")
        mask, value = (1 << self._half) - 1, place
        while True:
            left, right = value >> self._half, value & mask
            for key in self._keys:
                mixed = hashlib.blake2b(key + right.to_bytes(32, "big"), digest_size=32).digest()
                left, right = right, left ^ (int.from_bytes(mixed, "big") & mask)
            value = left << self._half | right
            if value < self.total:
                return value
