"""Power cuts: what a core says again, what it never says, and journals that cannot be."""

from __future__ import annotations

import random

import pytest
from bft_solo import BLOCK, FOUR, NO_MARKS, Solo
from bft_world import BftWorld

from consensus.bft import records
from consensus.bft.block import batch_digest, decode_block
from consensus.bft.committee import Committee
from consensus.bft.core import BftCore
from consensus.bft.messages import Blocks, Certificates, Proposal, Timeout, Vote
from consensus.bft.tree import Tree
from consensus.core import SnapshotMeta, entry_payload
from sim.virtual.keys import Notary


def test_after_a_power_cut_it_says_the_same_vote_again_and_no_other_in_that_round() -> None:
    """Vote state that was not durable, and a replayed vote that could not be signed again, were real bugs."""
    solo = Solo("n1")
    solo.show(solo.block(solo.genesis, 1))
    solo.sync()
    said = solo.said(Vote)
    back = solo.again()
    assert back.said(Vote) == said
    assert back.keys.signed == 0
    back.show(solo.block(solo.genesis, 1, [b"other"]), payloads=[b"other"])
    assert [vote for _, vote in back.wait if type(vote) is Vote and vote != said[0]] == []


def test_a_vote_that_was_not_durable_was_never_said_and_binds_nobody() -> None:
    solo = Solo("n1")
    solo.show(solo.block(solo.genesis, 1))
    assert solo.records
    back = solo.again()  # of its journal nothing was durable
    assert not back.said(Vote)
    other = solo.block(solo.genesis, 1, [b"other"])
    back.show(other, payloads=[b"other"])
    assert back.said(Vote)[0].block == other.digest


def test_its_own_vote_counts_again_after_a_power_cut() -> None:
    """All nodes voted, wrote that down, and lost power before anything was said: with the own vote uncounted, one is missing
    for ever."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    back = solo.again()
    for name in ("n2", "n3"):
        back.give(name, solo.vote(name, one))
    assert back.core.high_qc.round == 1


def test_its_own_timeout_counts_again_after_a_power_cut_and_is_said_word_for_word() -> None:
    solo = Solo("n1")
    solo.pass_time(2_000_000)
    solo.sync()
    back = solo.again()
    assert back.said(Timeout) == [solo.said(Timeout)[0]]
    assert back.keys.signed == 0
    for name in ("n2", "n3"):
        back.give(name, solo.timeout(name, 1, solo.genesis_qc))
    assert back.core.round == 2
    third = Solo("n1", journal=solo.journal)
    third.show(third.block(third.genesis, 1))
    assert not third.said(Vote), "it has given that round up in an earlier life"


def test_a_leader_that_comes_back_says_the_same_proposal_and_makes_no_other() -> None:
    solo = Solo("n2")
    solo.propose(b"a")
    solo.sync()
    back = solo.again()
    assert back.said(Proposal) == solo.said(Proposal)
    back.propose(b"b")
    back.pass_time(100_000)
    assert {proposal.block for proposal in back.said(Proposal)} == {solo.said(Proposal)[0].block}


def test_its_round_after_a_power_cut_follows_from_its_certificates() -> None:
    solo = Solo("n1")
    solo.chain(1, 2, 3)
    solo.give("n2", solo.timeout("n2", 5, solo.core.high_qc, solo.tc(4, solo.core.high_qc)))
    solo.sync()
    assert solo.core.round == 5
    assert solo.again().core.round == 3, "what was heard and not written down is heard again"
    solo.pass_time(2_000_000)
    assert solo.again().core.round == 5


def test_whoever_voted_for_a_child_knows_the_parents_certificate_after_a_power_cut() -> None:
    """The read barrier and every timeout rest on that."""
    solo = Solo("n1")
    solo.chain(1, 2, 3)
    solo.sync()
    back = solo.again()
    assert back.core.high_qc.round == 2
    back.pass_time(2_000_000)
    assert back.core.judge.qc(back.said(Timeout)[0].high_qc).round == 2


def test_what_was_handed_out_is_handed_out_again_in_the_same_order() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a", b"b"])
    solo.show(one, payloads=[b"a", b"b"])
    two = solo.block(one, 2)
    solo.show(two)
    three = solo.block(two, 3)
    solo.show(three)
    solo.sync()
    assert [entry_payload(entry) for entry in solo.committed] == [b"a", b"b"]
    assert solo.again().committed == solo.committed


def test_what_a_journal_shows_is_committed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block takes time that grows with the square of the journal: 4,700 blocks took 2 s, four nodes at once 8 s."""
    solo = Solo("n1")
    parent = solo.genesis
    for round in range(1, 41):
        parent = solo.block(parent, round)
        if parent.author == "n1":  # it made another one; this is what the others have certified
            solo.give("n2", Certificates(1, solo.qc(parent).encode(), b"", b""))
            solo.give("n2", Blocks([parent.encoded]))
        else:
            solo.show(parent)
    solo.sync()
    commits = []
    right = Tree.commit
    monkeypatch.setattr(Tree, "commit", lambda self, target: commits.append(target) or right(self, target))
    back = solo.again()
    assert len(commits) == 1
    committed = back.core.tree.committed
    assert committed.block.round >= 30
    assert solo.core.tree.get(committed.block.digest) is not None
    assert {placed.parent.block.digest for placed in back.core.tree.open.values()} >= {committed.block.digest}


def test_waiting_batches_survive_and_are_proposed_later() -> None:
    solo = Solo("n2")
    solo.core.resign(solo.clock, solo.out)
    solo.propose(b"a", b"b")
    solo.sync()
    back = solo.again()
    assert back.core.payloads.waiting
    named = decode_block(back.said(Proposal)[0].block).payload
    assert named == (batch_digest(BLOCK, b"a"), batch_digest(BLOCK, b"b"))


def test_a_batch_that_stands_in_a_second_block_is_recorded_with_that_one_again() -> None:
    """By then the journal may have begun anew behind the first one."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a"])
    solo.show(one, payloads=[b"a"])
    two = solo.block(one, 2)
    solo.show(two)
    three = solo.block(two, 3)
    solo.show(three)
    solo.sync()
    assert [entry_payload(entry) for entry in solo.committed] == [b"a"]
    again = solo.block(three, 5, [b"a"])
    solo.show(again, solo.tc(4, solo.qc(three)))
    assert solo.core.tree.get(again.digest) is not None
    assert records.batch("n2", BLOCK, b"a") in solo.records


@pytest.mark.parametrize("seed", range(6))
def test_any_prefix_of_a_journal_recovers_and_forgets_no_vote_that_was_said(seed: int) -> None:
    """Power is lost behind each single record, torn batches dropped as a whole."""
    world = BftWorld(seed)
    for number in range(12):
        world.propose(world.names[number % 4], b"%d" % number)
        world.run(40_000)
    world.run(500_000)
    host = world.hosts["n1"]
    kept = 0
    # What a new segment begins with is one batch on a real disk; it ends with the first `Spoken`.
    kinds = [kind for kind, _ in host.disk]
    begun = kinds.index(records.SAFETY) + 1 if kinds[0] == records.BASE else 0
    for end in range(len(host.disk) + 1):
        core = world.fresh("n1", 0)
        if end < begun:
            continue
        core.recover(host.disk[:end], host.snapshot)
        kept += 1
        votes = [data for kind, data in host.disk[:end] if kind == records.SAFETY]
        if votes:
            spoken = records.replay([(records.SAFETY, votes[-1])], core.genesis).spoken
            assert spoken is not None
            assert core.safety.voted_round == spoken.safety.voted_round
            assert core.safety.timeout_round == spoken.safety.timeout_round
    assert kept > 20


@pytest.mark.parametrize("seed", range(5))
def test_all_write_a_timeout_and_lose_power_before_anybody_has_heard_it(seed: int) -> None:
    """With the own timeout uncounted after the restart nobody would ever leave that round (commonware #4275)."""
    world = BftWorld(seed)
    world.run(300_000)
    world.arrives = lambda source, dest, message: False
    for name in world.names:
        world.propose(name, b"x" + name.encode())
    world.run(2_000_000)
    assert all(host.up.safety.timeout_round >= host.up.round for host in world.hosts.values())
    for name in world.names:
        world.crash(name)
    world.arrives = lambda source, dest, message: True
    world.settle()


@pytest.mark.parametrize("seed", range(8))
def test_when_all_lose_power_at_any_moment_nothing_is_lost_and_nobody_votes_twice(seed: int) -> None:
    """Looked at with everything that leaves a node, and with every entry that is handed out."""
    world = BftWorld(seed)
    for moment in range(12):
        world.propose(world.rng.choice(world.names), b"%d" % moment)
        for _ in range(world.rng.randrange(120)):
            world.step()
        for name in world.names:
            world.crash(name)
        for name in world.names:
            world.boot(name)
    world.settle()
    assert len(world.committed) > 4


def committee(epoch: int = 1) -> Committee:
    return Committee.usual("solo", epoch, FOUR)


def fresh(epoch: int = 1) -> BftCore:
    keys = Notary(FOUR).keyring("n1")
    return BftCore("n1", committee(epoch), keys, random.Random(0), NO_MARKS)


def some_journal() -> Solo:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a"])
    solo.show(one, payloads=[b"a"])
    solo.show(solo.block(one, 2))
    solo.sync()
    return solo


def test_a_journal_that_contradicts_itself_is_refused_with_words() -> None:
    journal = some_journal().journal
    fresh().recover(journal, None)
    without_batch = [record for record in journal if record[0] != records.BATCH]
    blocks = [record for record in journal if record[0] == records.BLOCK]
    votes = [record for record in journal if record[0] == records.SAFETY]
    for bad, words in (
        (without_batch, "batches are not in the journal"),
        ([record for record in journal if record != blocks[0]], "without its parent"),
        ([*journal, votes[0]], "goes back"),
        ([*journal, (99, b"")], "unknown record kind 99"),
        ([*journal, (records.BLOCK, b"no block")], f"journal record {len(journal)}"),
        ([*journal, (records.SAFETY, b"\xc1")], f"journal record {len(journal)}"),
    ):
        with pytest.raises(ValueError, match=words):
            fresh().recover(bad, None)


def test_a_journal_of_another_epoch_is_refused_with_words() -> None:
    solo = some_journal()
    votes = [record for record in solo.journal if record[0] == records.SAFETY]
    with pytest.raises(ValueError, match="epoch"):
        fresh(2).recover(votes, None)
    with pytest.raises(ValueError, match="epoch"):
        fresh(2).recover(solo.core.state_records(), None)


def test_a_snapshot_that_the_journal_knows_nothing_of_is_refused_with_words() -> None:
    journal = some_journal().journal
    meta = SnapshotMeta(7, 3, bytes(32), FOUR, bytes(32), 0)
    with pytest.raises(ValueError, match="knows no block there"):
        fresh().recover(journal, meta)


def test_state_records_rebuild_the_same_state_at_any_moment() -> None:
    world = BftWorld(3)
    world.storm(60)
    for host in world.hosts.values():
        world.boot(host.name)
        again = world.fresh(host.name, 0)
        state = host.up.state_records()
        again.recover(state, host.snapshot)
        assert again.safety == host.up.safety
        assert again.high_qc == host.up.high_qc
        assert again.tree.committed.block == host.up.tree.committed.block
        assert set(again.state_records()) == set(state)
