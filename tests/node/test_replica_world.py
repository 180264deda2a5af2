"""Whole replicas under power cuts, partitions, slow disks and retrying clients: after every story all that was promised holds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from replica_world import World

SEEDS = 32
"""About 0.3 s each. More by hand: `python tests/support/replica_world.py FIRST LAST`."""


@pytest.fixture(scope="module")
def stories() -> Counter[str]:
    """All seeds played and checked; what bit, how often."""
    bites: Counter[str] = Counter()
    for seed in range(SEEDS):
        world = World(seed, size=3 if seed % 4 else 5)
        world.run_story()
        bites += world.bites
    return bites


def test_after_every_story_acknowledged_commands_took_effect_once_everywhere_and_all_claims_were_true(
    stories: Counter[str],
) -> None:
    assert stories["stories"] == SEEDS
    assert stories["checked writes"] > 100 * SEEDS
    assert stories["answered: linearizable"] > 10 * SEEDS
    assert stories["answered: bounded"] > 10 * SEEDS
    assert stories["answered: any"] > 10 * SEEDS
    assert stories["digests"] > 50 * SEEDS


@pytest.mark.parametrize(
    ("bite", "least"),
    [
        ("cuts", 200),
        ("cuts with unsynced bytes", 50),
        ("torn tails", 5),
        ("names undone", 3),
        ("snapshot", 300),
        ("installed", 8),
        ("leader changes", 100),
        ("hang-ups", 100),
        ("retries answered from memory", 300),
        ("sessions expired", 5),
        ("refused: UNKNOWN_SESSION", 5),
        ("refused: FORGOTTEN", 3),
        ("refused: NOT_LEADER", 100),
        ("query refused: TOO_OLD", 50),
        ("query refused: NO_QUORUM", 50),
    ],
)
def test_the_faults_of_the_stories_really_bite(stories: Counter[str], bite: str, least: int) -> None:
    assert stories[bite] >= least


def test_the_same_seed_gives_the_same_trace_in_a_fresh_process_and_another_seed_another() -> None:
    here = Path(__file__).resolve().parents[2]
    program = "from replica_world import World; w = World(3); w.run_story(900_000); print(w.trace, w.now)"
    traces = []
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join([str(here), str(here / "tests/support")]),
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        traces.append(done.stdout)
    assert traces[0] == traces[1]
    other = World(4)
    other.run_story(900_000)
    assert other.trace not in traces[0]
