"""Named random streams: one seed, one independent `random.Random` for each name.

Whoever draws has a stream of its own (a link, a disk, a core's life, a fault), so that taking one fault out of a schedule
leaves the draws of everybody else as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from random import Random
from typing import TypeVar

T = TypeVar("T")


def below(rng: Random, bound: int) -> int:
    """`rng.randrange(bound)`, number for number, at a fifth of its price. Raises ValueError for a bound below one."""
    if bound <= 0:
        raise ValueError(f"there is no number from 0 up to below {bound}")
    bits = bound.bit_length()
    drawn = rng.getrandbits(bits)
    while drawn >= bound:
        drawn = rng.getrandbits(bits)
    return drawn


def between(rng: Random, ends: tuple[int, int]) -> int:
    """`rng.randint(*ends)`, likewise."""
    low, high = ends
    return low + below(rng, high - low + 1)


def pick(rng: Random, items: Sequence[T]) -> T:
    """`rng.choice(items)`, likewise."""
    return items[below(rng, len(items))]


class Streams:
    """The streams of one run."""

    __slots__ = ("_made", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._made: dict[str, Random] = {}

    def fresh(self, name: str) -> Random:
        """A new stream, at the beginning of what `name` draws."""
        # Not `hash`, which differs between processes; not a string seed, which is slower.
        return Random(int.from_bytes(blake2b(f"{self.seed}/{name}".encode(), digest_size=16).digest(), "big"))

    def of(self, name: str) -> Random:
        """The stream of `name`, where it was left."""
        made = self._made.get(name)
        if made is None:
            made = self._made[name] = self.fresh(name)
        return made
