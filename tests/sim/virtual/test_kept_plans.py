"""Plans that were red once, each kept with what it found. Their names tell the story; the cause is in the test that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.raft.leading import Leading
from sim.virtual import plan
from sim.virtual.world import LIVENESS, OK, World

PLANS = sorted((Path(__file__).parent / "plans").glob("*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_a_plan_that_was_red_once_is_green(path: Path) -> None:
    result = World(plan.loads(path.read_text(encoding="utf-8"), path.name)).run()
    assert result.outcome == OK, f"{result.oracle}: {result.text}"


def test_a_leader_that_commits_nothing_would_keep_a_healthy_majority_from_electing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """n5 leads and hears n4 and n2; n2 answers heartbeats, but its disk is dead. n1 and n3 hear only n4, which hears n5 and so
    votes for nobody."""
    monkeypatch.setattr(Leading, "_commits_nothing", lambda self, now: False)
    path = Path(__file__).parent / "plans" / "half-cut-leader-with-a-dead-voter.json"
    result = World(plan.loads(path.read_text(encoding="utf-8"))).run()
    assert result.outcome == LIVENESS
    assert "no progress" in result.text
