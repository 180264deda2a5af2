"""Cores whose leaders are chosen from outside, and that are the shipped core in everything else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consensus.bft.block import Block
from consensus.bft.committee import Committee
from consensus.bft.core import BftCore
from consensus.bft.signing import Keyring
from consensus.bft.timing import Timing
from consensus.core import NodeId


@dataclass(slots=True, frozen=True)
class Schedule:
    """Who leads which round: `leaders` those from 1 on, behind them everybody in turn."""

    leaders: tuple[NodeId, ...]
    members: tuple[NodeId, ...]

    @classmethod
    def forced(cls, committee: Committee, leaders: Sequence[int]) -> Schedule:
        """`leaders`: numbers of members."""
        return cls(tuple(committee.members[number] for number in leaders), committee.members)

    def leader(self, round: int) -> NodeId:
        """Of a round from 1 on."""
        if round <= len(self.leaders):
            return self.leaders[round - 1]
        return self.members[round % len(self.members)]


class LedCore(BftCore):
    """The shipped core, led by a schedule."""

    schedule: Schedule

    def leader(self, parent: Block, round: int) -> NodeId:
        """See `BftCore.leader`."""
        return self.schedule.leader(round)


Build = Callable[[NodeId, Committee, Keyring, random.Random, Timing, Schedule], BftCore]
"""Makes a core whose rounds are led as a schedule says."""


def build(
    node: NodeId,
    committee: Committee,
    keyring: Keyring,
    rng: random.Random,
    timing: Timing,
    schedule: Schedule,
) -> BftCore:
    """A `LedCore`."""
    return build_of(LedCore)(node, committee, keyring, rng, timing, schedule)


def build_of(kind: type[LedCore]) -> Build:
    """What makes cores of that class."""

    def make(
        node: NodeId,
        committee: Committee,
        keyring: Keyring,
        rng: random.Random,
        timing: Timing,
        schedule: Schedule,
    ) -> BftCore:
        core = kind(node, committee, keyring, rng, timing)
        core.schedule = schedule
        return core

    return make
