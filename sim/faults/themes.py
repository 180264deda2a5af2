"""Themes: combinations of faults that chance alone puts together too rarely. A small share of the seeds plays one of them, with
times and victims drawn; each is there for branches of the code that the swarm was seen to miss.

They are expensive: most have many snapshots, starts or commands, and take two to five times as long as another seed. So they
come as often as their rarest branch needs, which is what their weights say, and no more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from sim.faults.fault import Fault
from sim.faults.kind import Terrain


@dataclass(slots=True)
class Theme:
    """What a theme asks for. `weather`, `load`: fields of these that it wants otherwise."""

    faults: list[Fault] = field(default_factory=list)
    timing: dict[str, int] = field(default_factory=dict)
    settings: dict[str, int] = field(default_factory=dict)
    weather: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, at: int, lasts: int, **params: Any) -> None:
        """Schedule a fault."""
        self.faults.append(Fault(len(self.faults), kind, at, at + lasts, params))


def _small_log(rng: Random) -> Theme:
    """Snapshots after every few entries, next to nothing kept behind them, and snapshots that travel slowly."""
    return Theme(
        timing={"retain_bytes": 200},
        settings={"snapshot_bytes": rng.choice((500, 900)), "max_sessions": 4096, "session_ttl": 600_000_000},
        weather={"bulk": rng.choice((60_000, 200_000, 500_000)), "loss": 0.0},
        load={"beat": 0, "pause": (200_000, 500_000), "batch": 3},
    )


def slow_fetch(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A node comes back far behind and fetches a snapshot slowly, while the leader changes, goes on compacting, or late copies of
    old messages arrive."""
    theme = _small_log(rng)
    written_slowly = rng.random() < 0.5  # fetched at once then
    if written_slowly:
        theme.weather["bulk"] = 10
    for begin in begins:
        place = rng.randrange(len(terrain.nodes))
        node = terrain.nodes[place]
        theme.add("outage", begin, 1_000_000, place=node)
        if written_slowly:
            theme.add("disk slow", begin, 2_400_000, node=place, times=300)
            theme.add("duplicate", begin, 2_400_000, links="all", rate=0.9, low=300_000, high=1_900_000)
        for _ in range(rng.randint(1, 3)):
            at = begin + 1_000_000 + rng.randrange(900_000)
            draw = rng.randrange(6)
            if draw == 0:
                theme.add("kill", at, 700_000, node="leader", times=1, rest=rng.randrange(50_000, 400_000))
            elif draw == 1:
                theme.add("partition", at, 600_000, shape="leader")
            elif draw == 2:
                theme.add("duplicate", begin, 2_400_000, links="all", rate=0.9, low=0, high=1_900_000)
            elif draw == 3:
                theme.add("reorder", begin + 900_000, 1_400_000, links="all", rate=0.4, low=0, high=500_000)
            elif draw == 4:
                theme.add("leave", at, 600_000, node="leader", linger=2_000, rest=100_000)
            else:
                theme.add("flap", at, 700_000, place=node, off=40_000, on=rng.randrange(60_000, 400_000))
    return theme


def overtaken_fetch(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Nodes take their snapshots at different times, while leaders fall: what one leader no longer has, the next one still
    sends. Either they write them very slowly, or what an earlier leader sent arrives late."""
    late = rng.random() < 0.5
    theme = Theme(
        timing={"retain_bytes": 0, "uncommitted_bytes": 64 << 20},
        settings={
            "snapshot_bytes": 1_500,
            "max_sessions": 4096,
            "session_ttl": 600_000_000,
            "queries_in_queue": 512,
        },
        weather={"loss": 0.0, "bulk": 10},
        load={"beat": 0, "pause": (200_000, 600_000), "wander": 0.3, "sleep": 0.0, "batch": 5, "window": 12},
    )
    nodes = range(len(terrain.nodes))
    for begin in begins:
        for at in range(begin, begin + 2_000_000, 900_000):
            shape = rng.choice(("one", "follower", "leader", "minority-third"))
            theme.add("partition", at + rng.randrange(300_000), 500_000, shape=shape)
        for at in range(begin, begin + 2_000_000, 700_000):
            times = rng.choice((20, 60) if late else (60, 150))
            theme.add("disk slow", at, 900_000, node=rng.choice(nodes), times=times)
        for at in range(begin, begin + 2_000_000, 400_000):
            node = rng.choice(("leader", "leader", *nodes))
            theme.add("kill", at + rng.randrange(200_000), 100_000, node=node, times=1, rest=20_000)
        if late:
            theme.add("reorder", begin, 2_400_000, links="all", rate=0.3, low=0, high=600_000)
    return theme


def snapshot_before_journal(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A node fetches a snapshot in a term that its stalled journal does not know yet, and loses its power then."""
    theme = _small_log(rng)
    theme.weather["bulk"] = 10
    for begin in begins:
        place = rng.randrange(len(terrain.nodes))
        theme.add("outage", begin, 1_000_000, place=terrain.nodes[place])
        theme.add("kill", begin + 300_000, 500_000, node="leader", times=1, rest=200_000)
        theme.add("disk stall", begin + 1_010_000, 700_000, node=place, journal=True)
        theme.add("outage", begin + 1_100_000 + rng.randrange(400_000), 500_000, place=terrain.nodes[place])
    return theme


def two_leaders_snapshots(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A leader whose memory is at fault gives its snapshot away until it is caught, and another one goes on."""
    theme = _small_log(rng)
    theme.settings["digest"] = rng.choice((50_000, 300_000, 1_000_000))
    culprit = rng.choice(terrain.damageable)
    others = [node for node in terrain.nodes if node != culprit]
    for begin in begins:
        theme.add("outage", begin, 900_000, place=rng.choice(others))
        theme.add("kill", begin + 100_000, 700_000, node="leader", times=2, rest=300_000)
        theme.add("memory", begin + 300_000, 1_900_000, node=culprit, rest=200_000, leader=True)
        theme.add(
            "kill", begin + 1_000_000 + rng.randrange(600_000), 500_000, node="leader", times=1, rest=200_000
        )
    return theme


def caught_while_giving(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A leader's memory fails while somebody fetches its snapshot; a digest shows it before the snapshot is there."""
    theme = _small_log(rng)
    theme.settings["digest"] = 300_000
    theme.weather["bulk"] = rng.choice((200_000, 500_000))
    for begin in begins[: len(terrain.damageable)][:2]:  # each time it may be another one
        theme.add("outage", begin, 900_000, place=rng.choice(terrain.nodes))
        at = begin + 900_000 + rng.randrange(300_000)
        theme.add("memory", at, 100_000, node="leader", rest=2_000_000, leader=True)
    return theme


def hard_starts(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """The power goes again and again while nodes write and while they read their disks."""
    theme = Theme(load={"beat": 0, "pause": (300_000, 700_000)}, settings={"snapshot_bytes": 8 << 20})
    for begin in begins:
        theme.add("storm", begin, 250_000, variant=rng.choice(("huge", "burst")))
        for node in rng.sample(range(len(terrain.nodes)), 2):
            theme.add(
                "trap", begin + rng.randrange(100_000), 500_000,
                node=node, variant="before the sync", how="power", rest=20_000, again=False,
            )  # fmt: skip
            theme.add(
                "trap", begin + 600_000, 1_700_000,
                node=node, variant="amid the start", how="power", rest=rng.randrange(5_000, 90_000), again=True,
            )  # fmt: skip
    return theme


def crowd(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Very many questions at once, at nodes that are slow to hear of commits."""
    theme = Theme(settings={"queries_in_queue": 512}, load={"beat": 0})
    for begin in begins:
        theme.add("storm", begin, 700_000, variant="queries")
        theme.add(
            "slow", begin, 2_400_000, node=rng.randrange(len(terrain.nodes)), cost=rng.choice((1_000, 6_000))
        )
        theme.add("delay", begin, 2_400_000, links="all", rate=0.5, low=2_000, high=20_000)
    return theme


def slow_elections(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Leaders fall while messages take about as long as election time-outs, so that candidacies overlap."""
    theme = Theme()
    for begin in begins:
        theme.add(
            "delay", begin, 2_400_000, links="all", rate=0.6, low=10_000, high=rng.choice((90_000, 200_000))
        )
        theme.add("kill", begin, 2_300_000, node="leader", times=4, rest=rng.randrange(150_000, 350_000))
        theme.add(
            "disk slow", begin, 2_400_000, node=rng.randrange(len(terrain.nodes)), times=rng.choice((40, 300))
        )
        if rng.random() < 0.5:
            theme.add("partition", begin, 2_000_000, shape="grudge", again=250_000)
    return theme


Draw = Callable[[Random, Terrain, list[int]], Theme]
"""(stream, terrain, when the windows of faults begin) -> a theme."""


@dataclass(slots=True, frozen=True)
class Themes:
    """What the seeds of a protocol may play. `share`: of the seeds that draw from all kinds. `draws`: one of them is chosen; what
    stands there several times is chosen that much more often."""

    share: float
    draws: tuple[Draw, ...]


THEMES: Final = Themes(
    0.058,
    (
        *[slow_fetch] * 10,
        *[overtaken_fetch] * 16,
        *[snapshot_before_journal] * 6,
        *[two_leaders_snapshots] * 14,
        *[caught_while_giving] * 10,
        *[hard_starts] * 14,
        *[slow_elections] * 16,
        *[crowd] * 7,
    ),
)
