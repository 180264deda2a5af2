"""Checkpoints and the states of others, seen from one core, and from a small world."""

from __future__ import annotations

import dataclasses

import pytest
from bft_solo import BLOCK, NO_MARKS, Solo
from bft_world import BftWorld

from consensus.bft import records
from consensus.bft.block import Block, batch_digest, decode_block
from consensus.bft.certificates import Checkpoint, CheckpointCertificate
from consensus.bft.chain import leader_of
from consensus.bft.messages import Batch, BlockRequest, Certificates, CheckpointVote, Proposal
from consensus.bft.signing import checkpoint_statement
from consensus.core import EntryKind, SnapshotMeta, entry_position

TIMING = dataclasses.replace(NO_MARKS, mark_heights=1, snapshot_bytes=200)


def grown(solo: Solo, rounds: int, parent: Block | None = None) -> list[Block]:
    """Blocks that make a checkpoint each, hidden from the core."""
    parent = parent or solo.genesis
    made = []
    for round in range(parent.round + 1, parent.round + 1 + rounds):
        parent = solo.block(parent, round, [b"%d" % round + bytes(300)])
        made.append(parent)
    return made


def certificate(
    solo: Solo, block: Block, signers: tuple[str, ...] = ("n2", "n3", "n4")
) -> CheckpointCertificate:
    checkpoint = Checkpoint(
        block.height, block.round, block.digest, block.index, bytes(32), b"d" * 32, b"r" * 32, 50
    )
    statement = checkpoint_statement(solo.committee, checkpoint.body())
    signatures = tuple((name, solo.notary.keyring(name).sign(statement)) for name in signers)
    return CheckpointCertificate(checkpoint, block.encoded, signatures)


def behind(solo: Solo, blocks: list[Block]) -> None:
    """Let the core see that there are blocks that it does not have."""
    high = solo.qc(blocks[-1])
    solo.give("n2", Certificates(1, high.encode(), b"", b""))
    assert [m for _, m in solo.now if type(m) is BlockRequest]


def show(solo: Solo, sender: str, offered: CheckpointCertificate) -> None:
    solo.give(sender, Certificates(1, b"", b"", offered.encode()))
    solo.sync()


def test_whoever_is_shown_a_certified_checkpoint_for_blocks_that_are_gone_fetches_its_state() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 3)
    assert blocks[1].mark == EntryKind.CHECKPOINT
    behind(solo, blocks)
    offered = certificate(solo, blocks[1])
    solo.give("n3", Certificates(1, b"", b"", offered.encode()))
    assert solo.installs == [], "first the journal must know the block from which to go on"
    solo.sync()
    (install,) = solo.installs
    assert install == ("n3", offered.checkpoint.meta(solo.committee.members))


def test_an_earlier_write_that_is_done_does_not_begin_the_fetching() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 3)
    behind(solo, blocks)
    solo.give("n2", Batch("n2", BLOCK, b"a"))
    first = solo.out.ticket
    solo.give("n3", Certificates(1, b"", b"", certificate(solo, blocks[1]).encode()))
    solo.core.persisted(first, solo.clock, solo.out)
    solo.take()
    assert solo.installs == []
    solo.sync()
    assert len(solo.installs) == 1


def test_it_is_asked_for_again_of_somebody_else_until_it_is_there() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 3)
    behind(solo, blocks)
    show(solo, "n3", certificate(solo, blocks[1]))
    solo.pass_time(4 * TIMING.resend)
    assert {peer for peer, _ in solo.installs} == {"n2", "n3", "n4"}
    meta = solo.installs[0][1]
    solo.core.snapshot_installed(meta, solo.clock, solo.out)
    solo.take()
    solo.sync()
    before = len(solo.installs)
    solo.pass_time(4 * TIMING.resend)
    assert len(solo.installs) == before
    view = solo.core.observe()
    assert (view.commit_index, view.durable_index) == (meta.index, meta.index)
    back = solo.again(meta)
    assert back.core.observe().commit_index == meta.index


def test_what_is_aimed_at_never_moves_back() -> None:
    """CVE-2025-24371: a target that regresses makes catching up endless."""
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 5)
    behind(solo, blocks)
    newer, older = certificate(solo, blocks[3]), certificate(solo, blocks[1])
    show(solo, "n3", newer)
    show(solo, "n4", older)
    solo.pass_time(5 * TIMING.resend)
    assert {meta.index for _, meta in solo.installs} == {blocks[3].index}


def test_a_snapshot_is_bound_to_what_a_quorum_has_signed() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 3)
    behind(solo, blocks)
    good = certificate(solo, blocks[1])
    changed = dataclasses.replace(good.checkpoint, root=b"x" * 32)
    few = certificate(solo, blocks[1], ("n2", "n3"))
    other_header = dataclasses.replace(good, header=blocks[0].encoded)
    for bad in (dataclasses.replace(good, checkpoint=changed), few, other_header):
        show(solo, "n3", bad)
    assert solo.installs == []
    assert solo.core.rejected["no certificate"] == 3
    show(solo, "n3", good)
    assert solo.installs


def test_a_checkpoint_that_nobody_needs_starts_no_fetching() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 2)
    show(solo, "n3", certificate(solo, blocks[1]))
    assert solo.installs == []


def test_a_power_cut_between_snapshot_and_journal_is_survived_on_either_side() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 3)
    behind(solo, blocks)
    show(solo, "n3", certificate(solo, blocks[1]))
    meta = solo.installs[0][1]
    early = solo.again()  # the snapshot was not durable
    assert early.core.observe().commit_index == 0
    late = solo.again(meta)  # it was, and nothing of that is in the journal
    assert late.core.observe().commit_index == meta.index
    late.sync()
    assert late.again(meta).core.observe().commit_index == meta.index
    with pytest.raises(ValueError, match="no snapshot covers"):
        late.again(None)


def test_its_own_vote_for_a_checkpoint_survives_a_power_cut_and_is_said_until_it_is_certified() -> None:
    world = BftWorld(11)
    world.arrives = lambda source, dest, data: data[1] != 30  # no vote for a checkpoint arrives
    for number in range(12):
        world.propose("n1", b"%d/" % number + bytes(400))
        world.run(40_000)
    assert world.stats["snapshot"] >= 4
    assert all(host.up.states.checkpoints.index == 0 for host in world.hosts.values())
    for name in world.names:
        world.crash(name)
    world.settle()
    world.run(1_000_000)
    assert all(host.up.states.checkpoints.index > 0 for host in world.hosts.values())


def test_nothing_is_forgotten_before_a_quorum_has_the_state() -> None:
    """Whoever is behind could neither fetch the blocks nor start from the state."""
    world = BftWorld(12)
    world.settle()
    world.crash("n4")
    world.arrives = lambda source, dest, data: data[1] != 30
    for number in range(30):
        world.propose("n1", b"%d/" % number + bytes(400))
        world.run(40_000)
    marks = [entry for entry in world.committed if entry_position(entry)[2] == EntryKind.CHECKPOINT]
    assert len(marks) > 3
    world.boot("n4")
    assert world.run(10_000_000, lambda: world.hosts["n4"].index == len(world.committed))
    assert not world.stats["installed"]


def test_two_states_of_one_checkpoint_by_one_member_are_evidence() -> None:
    solo = Solo("n1", timing=TIMING)
    block = grown(solo, 2)[1]
    for root in (b"r" * 32, b"x" * 32):
        good = certificate(solo, block).checkpoint
        body = dataclasses.replace(good, root=root).body()
        signature = solo.notary.keyring("n3").sign(checkpoint_statement(solo.committee, body))
        solo.give("n3", CheckpointVote(1, body, signature))
    (proof,) = solo.core.observe().facts["evidence"]
    assert (proof["node"], proof["kind"]) == ("n3", "checkpoint")


def test_a_snapshot_that_nobody_asked_for_stops_the_process() -> None:
    solo = Solo("n1", timing=TIMING)
    meta = SnapshotMeta(9, 3, bytes(32), solo.committee.members, bytes(32), 0)
    with pytest.raises(AssertionError, match="not asked for"):
        solo.core.snapshot_installed(meta, solo.clock, solo.out)


def test_a_batch_that_came_before_a_state_was_installed_serves_a_block_above_it_after_a_power_cut() -> None:
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 5)
    behind(solo, blocks)
    show(solo, "n3", certificate(solo, blocks[-2]))
    solo.show(blocks[-1], payloads=[b"5" + bytes(300)])
    waiting = b"nobody ever ordered this"
    solo.give("n2", Batch("n2", BLOCK, waiting))
    meta = solo.installs[0][1]
    solo.core.snapshot_installed(meta, solo.clock, solo.out)
    solo.take()
    solo.sync()
    assert solo.core.tree.get(blocks[-1].digest) is not None
    assert not solo.core.payloads.known(batch_digest(BLOCK, waiting)), "a state may hold it already"
    back = solo.again(meta)
    assert back.core.tree.get(blocks[-1].digest) is not None
    assert back.core.observe().last_index == blocks[-1].index


def test_a_state_that_came_while_a_newer_one_was_aimed_at_is_gone_on_from_after_a_power_cut() -> None:
    """Its snapshot was durable, the base that follows it was not, and the journal's newest certificate is another's."""
    solo = Solo("n1", timing=TIMING)
    blocks = grown(solo, 5)
    behind(solo, blocks)
    show(solo, "n3", certificate(solo, blocks[1]))
    first = solo.installs[0][1]
    show(solo, "n4", certificate(solo, blocks[3]))
    newer = solo.installs[-1][1]
    assert newer.index > first.index
    back = solo.again(first)
    assert back.core.observe().commit_index == first.index
    back.sync()
    assert back.again(first).core.observe().commit_index == first.index
    assert solo.again(newer).core.observe().commit_index == newer.index
    # The same of a journal that was begun anew in between.
    anew = Solo(
        "n1", timing=TIMING, journal=solo.core.state_records(), snapshot=first, committee=solo.committee
    )
    assert anew.core.observe().commit_index == first.index
    stranger = certificate(solo, blocks[1], ("n2", "n3"))
    forged = [(records.CHECKPOINT, stranger.encode()), *solo.journal[1:]]
    with pytest.raises(ValueError, match="the journal contradicts itself"):
        Solo(
            "n1",
            timing=TIMING,
            journal=[*solo.journal, *forged[:1]],
            snapshot=first,
            committee=solo.committee,
        )


def test_a_leader_whose_state_is_ahead_of_its_certificates_proposes_nothing_and_goes_on() -> None:
    """It holds the checkpoint's block without a certificate of it, is shown the checkpoint, and then leads a round whose
    certificate is of a block below."""
    leads = Solo("n1", timing=TIMING)
    one = leads.block(leads.genesis, 1, [b"1" + bytes(300)])
    solo = Solo(leader_of(one, 6, leads.committee), timing=TIMING, committee=leads.committee)
    solo.show(one, payloads=[b"1" + bytes(300)])
    high = solo.qc(one)
    held = solo.block(one, 3, [b"3" + bytes(300)])
    assert held.mark == EntryKind.CHECKPOINT
    solo.show(held, solo.tc(2, high), payloads=[b"3" + bytes(300)])
    lacking = solo.block(one, 4, [b"nobody has it"])
    solo.show(lacking, solo.tc(3, high))
    solo.sync()
    solo.pass_time(4 * TIMING.resend)
    assert solo.core.sync.behind
    assert solo.core.node not in (one.author, held.author, lacking.author)
    show(solo, "n2", certificate(solo, held))
    (peer, meta), *_ = solo.installs
    solo.core.snapshot_installed(meta, solo.clock, solo.out)
    solo.take()
    solo.sync()
    solo.propose(b"something")
    solo.give(peer, Certificates(1, b"", solo.tc(5, high).encode(), b""))
    solo.sync()
    view = solo.core.observe()
    assert (view.facts["round"], view.commit_index) == (6, held.index)
    assert 6 not in [decode_block(said.block).round for said in solo.said(Proposal)]
    solo.give(peer, Certificates(1, solo.qc(held).encode(), b"", b""))
    solo.sync()
    assert solo.core.observe().commit_index == held.index
