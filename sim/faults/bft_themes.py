"""Themes for logs whose members may lie: a liar at work while the honest ones are at their weakest."""

from __future__ import annotations

from random import Random
from typing import Final

from sim.faults.kind import Terrain
from sim.faults.themes import Theme, Themes, crowd, hard_starts

_EAGER: Final = {"pause": (130_000, 400_000), "beat": 0, "batch": 5, "window": 12, "sleep": 0.0}


def _liar(theme: Theme, rng: Random, terrain: Terrain, begins: list[int], variants: tuple[str, ...]) -> str:
    """A node that lies from the first window to the end of the last."""
    node = rng.choice(terrain.liars or terrain.damageable)
    theme.add(
        "byzantine", begins[0], begins[-1] + 2_500_000 - begins[0], node=node, variant=rng.choice(variants)
    )
    return node


def blackouts(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Everybody loses power again and again, while one node votes for everything and proposes everything."""
    theme = Theme(load=dict(_EAGER), timing={"round": 60_000, "backoff_most": 400_000})
    _liar(theme, rng, terrain, begins, ("equivocate", "stale", "replay", "hasty", "whimsical"))
    for begin in begins:
        for at in range(begin, begin + 2_000_000, 800_000):
            theme.add(
                "blackout", at + rng.randrange(300_000), rng.randrange(40_000, 200_000),
                stagger=rng.choice((0, 20_000)),
            )  # fmt: skip
        theme.add(
            "delay", begin, 2_300_000, links="all", rate=0.3, low=2_000, high=rng.choice((6_000, 40_000))
        )
    return theme


def behind_a_liar(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Honest nodes come back far behind and ask for states, blocks and payload, a liar among others."""
    theme = Theme(
        load=dict(_EAGER),
        timing={"snapshot_bytes": rng.choice((600, 1_500)), "mark_heights": 2, "turns": 4, "exile": 8},
        weather={"bulk": rng.choice((10, 100_000)), "loss": 0.0},
    )
    liar = _liar(
        theme, rng, terrain, begins, ("state liar", "bad payload", "forge", "lies about reads", "whimsical")
    )
    others = [node for node in terrain.nodes if node != liar]
    for begin in begins:
        behind = rng.choice(others)
        theme.add("outage", begin, rng.randrange(500_000, 1_200_000), place=behind)
        shape = rng.choice(("single-link", "one", "random-halves"))
        theme.add("partition", begin + 1_000_000 + rng.randrange(400_000), 600_000, shape=shape)
    return theme


def forked_rounds(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """Two blocks in a round, while the honest hear now one half of the others, now another, and lead in turn."""
    theme = Theme(
        load={**_EAGER, "pause": (90_000, 300_000)},
        timing={"round": 60_000, "backoff_most": 400_000, "exile": 8, "turns": 4, "mark_heights": 2,
                "snapshot_bytes": rng.choice((1_500, 8 << 20))},
    )  # fmt: skip
    _liar(theme, rng, terrain, begins, ("equivocate", "fabulist", "stale", "late", "silent", "slow leader"))
    for begin in begins:
        theme.add("partition", begin, 2_200_000, shape="grudge", again=rng.randrange(60_000, 250_000))
        theme.add(
            "duplicate", begin, 2_200_000, links="all", rate=0.3, low=0, high=rng.choice((200_000, 1_900_000))
        )
        theme.add(
            "kill", begin + 300_000, 1_200_000, node="leader", times=2, rest=rng.randrange(30_000, 200_000)
        )
    return theme


def torn_fetches(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A node comes back far behind, and loses its power again while it fetches a state; another one, whose disk is slow, still
    has the blocks that the others have forgotten."""
    theme = Theme(
        load=dict(_EAGER),
        timing={"snapshot_bytes": rng.choice((1_500, 5_000)), "mark_heights": 2, "resend": 50_000},
        weather={"bulk": rng.choice((10, 10, 30_000, 100_000)), "loss": 0.0},
    )
    for begin in begins:
        place = rng.randrange(len(terrain.nodes))
        slow = (place + rng.randrange(1, len(terrain.nodes))) % len(terrain.nodes)
        theme.add("disk slow", begin, 2_400_000, node=slow, times=rng.choice((40, 300)))
        if rng.random() < 0.5:  # what it fetches is written slowly, while the blocks come from somebody else
            theme.add("disk slow", begin + 1_000_000, 1_400_000, node=place, times=rng.choice((40, 300)))
        theme.add("outage", begin, rng.randrange(500_000, 1_000_000), place=terrain.nodes[place])
        theme.add(
            "trap", begin + 1_000_000, 1_200_000, node=place, how="power", again=True, rest=rng.randrange(3_000, 9_000),
            variant=rng.choice(("before the sync", "after the sync", "before the messages")),
        )  # fmt: skip
    return theme


def unsigned_states(rng: Random, terrain: Terrain, begins: list[int]) -> Theme:
    """A node's memory fails while another one is dark, so that few sign the same states, and late copies of everything come."""
    theme = Theme(
        load={**_EAGER, "pause": (90_000, 300_000)},
        timing={"snapshot_bytes": 1_500, "mark_heights": 2, "resend": 50_000},
        settings={"digest": 200_000},
        weather={"bulk": rng.choice((10, 100_000)), "loss": 0.0},
    )
    culprit = rng.choice(terrain.damageable)
    others = [node for node in terrain.nodes if node != culprit]
    theme.add(
        "memory", begins[0], begins[-1] + 2_400_000 - begins[0], node=culprit, rest=200_000, leader=True
    )
    for begin in begins:
        theme.add("outage", begin, rng.randrange(700_000, 1_600_000), place=rng.choice(others))
        theme.add("duplicate", begin, 2_400_000, links="all", rate=0.3, low=0, high=1_900_000)
    return theme


BFT_THEMES: Final = Themes(
    0.08,
    (blackouts, behind_a_liar, forked_rounds, torn_fetches, unsigned_states, hard_starts, crowd),
)
