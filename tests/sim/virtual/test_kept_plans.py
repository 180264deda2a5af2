"""Plans that were red once, each kept with what it found. Their names tell the story; the cause is in the test that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.bft.pacemaker import Pacemaker
from consensus.bft.payload import Payloads
from consensus.bft.tree import Placed, Tree
from consensus.raft.leading import Leading
from sim.virtual import plan
from sim.virtual.world import LIVENESS, OK, World

# bft-snapshots-that-nobody-else-has-signed: nodes kept their two newest snapshots only, and of the one that a quorum had signed
# nobody had any. That it is kept is shown by tests/node/test_replica_snapshots.py: since clients ask for one entry at a time
# this plan comes through without that, too.
# a-short-session-*: sessions live for 1.2 s, clients take their turns a second apart, and two of five nodes are dark. Whoever
# opened another session only in its next turn, and wrote in the one after that, found it gone again if it had asked a dark node
# first. The luck that this takes goes with every change of what is sent; tests/sim/virtual/test_virtual_world.py has the cause.
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


def test_a_snapshot_that_reached_the_kernel_may_stand_where_a_conflicting_tail_was_durable() -> None:
    """n1 has a tail of term 1 on its disk, installs a snapshot of term 2 that ends in it, and is killed before the new segment
    is synced, but not before the kernel has it. What comes back is right; the oracle held the old tail against it."""
    path = Path(__file__).parent / "plans" / "conflicting-tail-under-a-snapshot-and-a-kill.json"
    result = World(plan.loads(path.read_text(encoding="utf-8"))).run()
    assert result.outcome == OK, result.text
    assert result.marks["a snapshot is installed, and a conflicting tail goes"] >= 1


def test_a_candidates_request_may_leave_when_the_end_of_its_log_came_and_went_in_one_sync() -> None:
    """n5's disk is slow: one sync makes the entries up to 278 durable, its vote for itself, and the cut back to 228 by the leader
    that has won the same term. Only then may the request leave that waited for the first two; the oracle looked at the third."""
    path = Path(__file__).parent / "plans" / "candidacy-and-the-end-of-its-log-in-one-sync.json"
    result = World(plan.loads(path.read_text(encoding="utf-8"))).run()
    assert result.outcome == OK, result.text
    assert result.marks["a candidate yields to who has won its term"] >= 1
    assert result.marks["entries that were durable are no longer what stands there"] >= 1


def test_a_member_whose_batches_were_ordered_without_it_would_wait_for_them_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """n3 took requests while it was cut off, they were ordered without it, and it came back by the state of others: for it they
    wait still, so that it gives up every round in which the others rest. Each of the three remedies alone makes it green."""

    def commit(self: Tree, target: Placed) -> list[Placed]:
        highest = self.last_index
        path = right(self, target)
        self.last_index = max(
            highest, self.last_index
        )  # what was in a block that a commit has ruled out still counts
        return path

    right = Tree.commit
    monkeypatch.setattr(Tree, "commit", commit)
    monkeypatch.setattr(Payloads, "stop_waiting", lambda self: None)
    monkeypatch.setattr(Pacemaker, "was_hasty", lambda self: None)
    path = Path(__file__).parent / "plans" / "bft-a-member-that-waits-for-what-is-ordered.json"
    result = World(plan.loads(path.read_text(encoding="utf-8"))).run()
    assert result.outcome == LIVENESS


def test_a_block_that_came_before_garbage_would_wait_for_ever() -> None:
    """A liar answers a member that is behind with the block it asked for and garbage behind that. What is held was not asked for
    any more, and what was refused was not placed: the member stood still beside the certified chain."""
    path = Path(__file__).parent / "plans" / "bft-a-good-block-before-garbage.json"
    result = World(plan.loads(path.read_text(encoding="utf-8"))).run()
    assert result.outcome == OK, result.text
