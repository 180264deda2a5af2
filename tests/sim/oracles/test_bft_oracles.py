"""The oracles of the BFT log, each shown what must never happen, and what looks like it and is fine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgpack
import pytest

from consensus import wire
from consensus.bft import block as blocks
from consensus.bft.block import Block, batch_digest, genesis, genesis_qc
from consensus.bft.certificates import Checkpoint, QuorumCertificate, TimeoutCertificate
from consensus.bft.chain import extend
from consensus.bft.messages import Certificates, CheckpointVote, Proposal, Timeout, Vote
from consensus.bft.signing import checkpoint_statement, proposal_statement, timeout_statement, vote_statement
from consensus.bft.timing import Timing
from consensus.core import encode_entry
from node.requests import open_statement, submit_statement
from sim.oracles.bft import BftLog, Blame, Chain, Checkpoints
from sim.oracles.bft_words import DurableWords, Words
from sim.oracles.oracle import Oracle, Violation
from sim.virtual.bft_committee import CLUSTER, committee, notary
from sim.virtual.timeline import Timeline

NAMES = ["n1", "n2", "n3", "n4"]
HERE = committee(NAMES)
KEYS = notary(tuple(NAMES), 2)
ROOT = genesis(HERE)


def world(*liars: str) -> Any:
    """As much of a world as oracles look at."""
    made = SimpleNamespace(
        names=NAMES, plan=SimpleNamespace(clients=2), may_lie=1, timeline=Timeline(), liars=dict.fromkeys(liars, "x"),
        harmed={}, signed={}, count=lambda what: None,
    )  # fmt: skip
    made.hosts = {
        name: SimpleNamespace(name=name, lied=name in liars, life=1, replica=None, world=made)
        for name in NAMES
    }
    return made


def sign(name: str, statement: bytes) -> bytes:
    return KEYS.signer(name).sign(statement)


def vote(name: str, block: Block) -> Vote:
    return Vote(1, block.round, block.digest, sign(name, vote_statement(HERE, block.round, block.digest)))


def qc(block: Block, signers: list[str] = NAMES[:3]) -> bytes:
    if block.round == 0:
        return genesis_qc(HERE).encode()
    votes = tuple((name, vote(name, block).signature) for name in signers)
    return QuorumCertificate(block.round, block.digest, votes).encode()


def child(
    parent: Block, round: int, author: str = "n1", payload: tuple[bytes, ...] = (), justify: bytes = b""
) -> Block:
    named = [(batch_digest(1, item), len(item)) for item in payload]
    return extend(parent, justify or qc(parent), round, author, named, HERE, Timing())


def proposal(block: Block, author: str = "n1", tc: bytes = b"") -> Proposal:
    return Proposal(block.encoded, tc, sign(author, proposal_statement(HERE, block.round, block.digest)))


def timeout(name: str, round: int, high: Block = ROOT) -> Timeout:
    return Timeout(1, round, qc(high), b"", sign(name, timeout_statement(HERE, round, high.round)))


def say(oracle: Oracle, name: str, message: Any) -> None:
    oracle.said(oracle.world.hosts[name], "n4", message)


# ------------------------------------------------------------------------------------------------------- the log


def bundle(
    at: Any, key: str = "c1", session: int = 5, command: bytes = b"put", forged: bool = False
) -> list[Any]:
    signer = KEYS.client(key)
    signature = signer.sign(submit_statement(CLUSTER, session, 0, [1], [command]))
    if not forged:
        at.signed[signature] = (signer.public, session, 0, (1,), (command,))
    return [3, session, 0, [1], [command], signer.public, signature]


def entry(index: int, *groups: Any, round: int = 1) -> bytes:
    return encode_entry(index, round, 1, msgpack.packb(list(groups)))


def test_what_clients_have_signed_may_stand_in_the_log_and_nothing_else() -> None:
    at = world()
    oracle = BftLog(at)
    host = at.hosts["n1"]
    signer = KEYS.client("c1")
    opening = signer.sign(open_statement(CLUSTER, signer.public, 3))
    at.signed[opening] = (signer.public, 3)
    oracle.entered(host, entry(1, bundle(at), [4, signer.public, 3, opening]))
    oracle.entered(host, encode_entry(2, 1, 2, b""))
    good = bundle(at, command=b"more")
    for bad in (
        bundle(at, command=b"never", forged=True),
        [*good[:4], [b"changed"], *good[5:]],
        [good[0], 6, *good[2:]],
        [*good[:5], KEYS.client("c2").public, good[6]],
        [4, signer.public, 4, opening],
        [0, 5, 0, [1], [b"put"]],
    ):
        with pytest.raises(Violation, match="no client has signed"):
            oracle.entered(host, entry(len(oracle.log()) + 1, bad))
    with pytest.raises(Violation, match="of kind 0"):
        oracle.entered(host, encode_entry(len(oracle.log()) + 1, 1, 0, b""))


def test_members_that_disagree_are_found_and_liars_are_not_asked() -> None:
    at = world("n4")
    oracle = BftLog(at)
    one, two = entry(1, bundle(at)), entry(1, bundle(at, command=b"other"))
    oracle.entered(at.hosts["n4"], two)
    oracle.entered(at.hosts["n1"], one)
    oracle.entered(at.hosts["n2"], one)
    oracle.entered(at.hosts["n4"], two)
    with pytest.raises(Violation, match="another entry at index 1 than n1"):
        oracle.entered(at.hosts["n3"], two)
    with pytest.raises(Violation, match="nobody ever had entry 2"):
        oracle.entered(at.hosts["n1"], entry(3, bundle(at)))


# --------------------------------------------------------------------------------------------------------- words


def test_a_vote_may_be_said_again_and_not_changed() -> None:
    oracle = Words(world())
    one, two = child(ROOT, 1), child(ROOT, 1, payload=(b"x",))
    say(oracle, "n2", vote("n2", one))
    say(oracle, "n2", vote("n2", one))
    say(oracle, "n3", vote("n3", two))
    with pytest.raises(Violation, match="n2 votes twice in round 1"):
        say(oracle, "n2", vote("n2", two))


def test_a_round_is_given_up_once_and_has_one_proposal_of_its_author() -> None:
    oracle = Words(world())
    one = child(ROOT, 1)
    say(oracle, "n2", timeout("n2", 2))
    say(oracle, "n2", timeout("n2", 2))
    with pytest.raises(Violation, match="gives round 2 up twice"):
        say(oracle, "n2", timeout("n2", 2, one))
    say(oracle, "n1", proposal(one))
    with pytest.raises(Violation, match="two blocks in round 1"):
        say(oracle, "n1", proposal(child(ROOT, 1, payload=(b"x",))))
    with pytest.raises(Violation, match="a block of n1"):
        say(oracle, "n2", proposal(one, "n2"))


def safety(voted: int, given_up: int = 0, proposed: int = 0, said: Vote | None = None) -> tuple[int, bytes]:
    encoded = wire.encode(said) if said else b""
    return 3, msgpack.packb([1, [voted, 0, given_up, proposed], encoded, b"", [], b"", b""])


def kept(payload: bytes) -> tuple[int, bytes]:
    return 1, bytes((1, 2)) + b"n1" + payload


def durable(*records: tuple[int, bytes]) -> tuple[DurableWords, Any]:
    """An oracle that has seen these records of n1 reach the disk."""
    at = world()
    oracle = DurableWords(at)
    host = at.hosts["n1"]
    oracle.formatted(host)
    oracle.recorded(host, list(records))
    oracle.written(host, 1)
    oracle.synced(host, 1)
    return oracle, host


def test_nothing_is_said_before_the_disk_holds_it() -> None:
    block = child(ROOT, 1, payload=(b"x",))
    mine = vote("n1", block)
    records = [(2, block.encoded), kept(b"x"), safety(1, said=mine)]
    oracle, host = durable(*records)
    oracle.said(host, "n2", mine)
    for lacking, words in (
        (records[1:], "not on its disk"),
        (records[::2], "payload"),
        (records[:2], "its disk knows 0"),
    ):
        oracle, host = durable(*lacking)
        with pytest.raises(Violation, match=words):
            oracle.said(host, "n2", mine)
    oracle, host = durable(*records[:2])
    oracle.recorded(host, [records[2]])
    oracle.written(host, 2)
    with pytest.raises(Violation, match="its disk knows 0"):
        oracle.said(host, "n2", mine)
    oracle.synced(host, 2)
    oracle.said(host, "n2", mine)
    for message in (timeout("n1", 2), proposal(block)):
        with pytest.raises(Violation, match="its disk knows 0"):
            oracle.said(host, "n2", message)


def test_no_vote_follows_the_giving_up_of_its_round() -> None:
    one, two = child(ROOT, 1), child(ROOT, 2)
    oracle, host = durable(safety(1, 0, said=vote("n1", one)), safety(1, 1, said=vote("n1", one)))
    oracle.recorded(host, [safety(2, 1, said=vote("n1", two))])
    oracle.recorded(host, [safety(2, 4, said=vote("n1", two))])
    with pytest.raises(Violation, match="votes in round 3 after it gave round 4 up"):
        oracle.recorded(host, [safety(3, 4, said=vote("n1", child(ROOT, 3)))])
    with pytest.raises(Violation, match="changes its vote"):
        oracle.recorded(host, [safety(2, 4, said=vote("n1", child(ROOT, 2, payload=(b"x",))))])
    with pytest.raises(Violation, match="goes back from 4 to 2"):
        oracle.recorded(host, [safety(2, 2, said=vote("n1", two))])


def test_what_was_said_outlives_a_power_cut_and_what_was_not_said_need_not() -> None:
    one = child(ROOT, 1)
    oracle, host = durable((2, one.encoded), safety(1, 0, said=vote("n1", one)))
    oracle.recorded(host, [safety(1, 1, said=vote("n1", one))])
    oracle.went_down(host)
    oracle.recovered(host, [(2, one.encoded), safety(1, 0, said=vote("n1", one))])
    oracle.said(host, "n2", vote("n1", one))
    oracle.went_down(host)
    with pytest.raises(Violation, match="had voted in round 1 for all to hear and comes back with 0"):
        oracle.recovered(host, [(2, one.encoded)])


# --------------------------------------------------------------------------------------------------------- chain


def apply(oracle: Chain, name: str, index: int, round: int) -> None:
    host = oracle.world.hosts[name]
    oracle.entered(host, encode_entry(index, round, 1, b""))
    oracle.applied(host, index, bytes(32))
    oracle.world.timeline.run(oracle.world.timeline.now + 1)


def test_certificates_that_honest_members_send_must_verify() -> None:
    one = child(ROOT, 1)
    stranger = QuorumCertificate(1, one.digest, tuple((name, bytes(64)) for name in ("a", "b", "c"))).encode()
    doubled = QuorumCertificate(1, one.digest, (("n1", vote("n1", one).signature),) * 3).encode()
    borrowed = QuorumCertificate(2, one.digest, tuple((n, vote(n, one).signature) for n in NAMES)).encode()
    for bad, words in (
        (qc(one, NAMES[:2]), "2 votes; it takes 3"),
        (stranger, "no member"),
        (doubled, "counted twice"),
        (borrowed, "has not signed that vote"),
        (b"\xc1", "no quorum certificate"),
    ):
        with pytest.raises(Violation, match=words):
            say(Chain(world()), "n2", Certificates(1, bad, b"", b""))
        oracle = Chain(world("n2"))
        oracle.overheard(oracle.world.hosts["n2"], "n1", Certificates(1, bad, b"", b""))
    rows = tuple((name, 0, timeout(name, 2).signature) for name in NAMES[:3])
    say(Chain(world()), "n2", Certificates(1, b"", TimeoutCertificate(2, rows, qc(ROOT)).encode(), b""))
    with pytest.raises(Violation, match="carries another certificate"):
        say(Chain(world()), "n2", Certificates(1, b"", TimeoutCertificate(2, rows, qc(one)).encode(), b""))
    with pytest.raises(Violation, match="not its own"):
        say(Chain(world()), "n3", vote("n2", one))


def test_what_is_applied_stands_below_two_certified_blocks_of_consecutive_rounds() -> None:
    oracle = Chain(world())
    one = child(ROOT, 1, payload=(b"x",))
    gap = child(one, 3, payload=(b"y",))
    far = child(gap, 5)
    end = child(far, 6)
    for block in (one, gap, far, end):
        say(oracle, "n1", proposal(block))
    with pytest.raises(Violation, match="no two certified"):
        apply(oracle, "n1", 2, 3)
    for name in NAMES[:3]:
        say(oracle, name, vote(name, far))
    with pytest.raises(Violation, match="no two certified blocks"):
        apply(oracle, "n1", 2, 3)
    for name in NAMES[:2]:
        say(oracle, name, vote(name, end))
    with pytest.raises(Violation, match="no two certified blocks"):
        apply(oracle, "n1", 2, 3)
    # The applier's own vote may leave in the same turn; a liar's counts as well.
    oracle.overheard(oracle.world.hosts["n4"], "n1", vote("n4", end))
    apply(oracle, "n1", 2, 3)
    apply(oracle, "n1", 1, 1)


def test_two_certified_blocks_of_a_round_are_a_fork() -> None:
    oracle = Chain(world())
    one, two = child(ROOT, 1), child(ROOT, 1, payload=(b"x",))
    say(oracle, "n2", Certificates(1, qc(one), b"", b""))
    with pytest.raises(Violation, match="two blocks of round 1 are certified"):
        say(oracle, "n2", Certificates(1, qc(two), b"", b""))


# -------------------------------------------------------------------------------------------- checkpoints and blame


def test_honest_members_sign_one_state_at_a_checkpoint() -> None:
    at = world("n4")
    oracle = Checkpoints(at)
    state = Checkpoint(3, 3, bytes(32), 9, bytes(32), bytes(32), bytes(32), 100)
    other = Checkpoint(3, 3, bytes(32), 9, bytes(32), b"\1" * 32, bytes(32), 100)

    def signed(name: str, checkpoint: Checkpoint) -> CheckpointVote:
        body = checkpoint.body()
        return CheckpointVote(1, body, sign(name, checkpoint_statement(HERE, body)))

    say(oracle, "n1", signed("n1", state))
    say(oracle, "n2", signed("n2", state))
    with pytest.raises(Violation, match="another state at index 9 than n1"):
        say(oracle, "n3", signed("n3", other))
    with pytest.raises(Violation, match="does not verify"):
        say(oracle, "n3", signed("n2", state))


def test_blame_falls_on_liars_only_and_honest_words_are_not_refused() -> None:
    def shows(at: Any, **facts: Any) -> Blame:
        view = SimpleNamespace(facts=facts)
        at.hosts["n1"].replica = SimpleNamespace(core=SimpleNamespace(observe=lambda: view))
        return Blame(at)

    found = [{"node": "n4", "round": 3, "kind": "vote", "first": "", "second": ""}]
    shows(world("n4"), evidence=found, rejected={"vote: signature": 3}).finished()
    shows(world(), evidence=[], rejected={}).finished()
    with pytest.raises(Violation, match="blames n4, who never lied"):
        shows(world("n2"), evidence=found).finished()
    with pytest.raises(Violation, match="refuses what honest members say"):
        shows(world(), evidence=[], rejected={"vote: signature": 1}).finished()


def test_the_oracles_reader_agrees_with_the_cores_on_names_of_blocks_and_batches() -> None:
    """It shares no code with them, so that this must be held against something."""
    from sim.oracles.bft_reader import Reader

    one = child(ROOT, 1, payload=(b"x", b"y"))
    two = child(one, 2)
    seen = Reader(NAMES, 2).block(two.encoded)
    assert (seen.digest, seen.parent, seen.parent_round) == (two.digest, one.digest, 1)
    assert (seen.round, seen.height, seen.index, seen.author) == (
        two.round,
        two.height,
        two.index,
        two.author,
    )
    assert blocks.decode_block(one.encoded).payload == Reader(NAMES, 2).block(one.encoded).payload
