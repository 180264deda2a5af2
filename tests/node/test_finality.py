"""Finality proofs: what one shows, and that nothing can be changed in it."""

from __future__ import annotations

import dataclasses
import itertools
import json
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.block import Block, batch_digest, decode_block, genesis, genesis_qc
from consensus.bft.certificates import QuorumCertificate
from consensus.bft.chain import extend
from consensus.bft.committee import Committee
from consensus.bft.signing import vote_statement
from consensus.bft.timing import Timing
from consensus.core import EntryKind
from node.finality import NoProof, Proof, first_index, from_json, prove, to_json, verify

NAMES = ("n1", "n2", "n3", "n4")
COMMITTEE = Committee.usual("3f2a9c01", 1, NAMES)
TIMING = Timing(mark_heights=3)


def signature(node: str, data: bytes) -> bytes:
    return blake2b(data, key=node.encode(), digest_size=64).digest()


class Keys:
    """Everybody's."""

    def sign(self, data: bytes) -> bytes:
        raise AssertionError("nothing is signed when a proof is checked")

    def verify(self, node: str, data: bytes, signed: bytes) -> bool:
        return node in NAMES and signature(node, data) == signed


def certify(block: Block, signers: tuple[str, ...] = NAMES[:3]) -> bytes:
    """The certificate of a block."""
    statement = vote_statement(COMMITTEE, block.round, block.digest)
    votes = tuple((node, signature(node, statement)) for node in signers)
    return QuorumCertificate(block.round, block.digest, votes).encode()


BATCHES: dict[bytes, tuple[int, bytes]] = {}


def chain(rounds: list[int], batches: int = 2) -> list[Block]:
    """Blocks of these rounds, each one the child of the one before, with batches of their own."""
    parent, justify = genesis(COMMITTEE), genesis_qc(COMMITTEE).encode()
    path = []
    for round in rounds:
        named = []
        for number in range(batches):
            payload = b"batch %d of round %d" % (number, round)
            digest = batch_digest(EntryKind.BLOCK, payload)
            BATCHES[digest] = (int(EntryKind.BLOCK), payload)
            named.append((digest, len(payload)))
        parent = extend(parent, justify, round, "n1", named, COMMITTEE, TIMING)
        justify = certify(parent)
        path.append(parent)
    return path


def proof_of(path: list[Block], index: int) -> Proof:
    return prove(COMMITTEE, path, certify(path[-1]), BATCHES.get, index)


PATH = chain([1, 2, 4, 5, 6])


def test_every_entry_below_two_consecutive_certified_rounds_is_proven_with_its_payload_and_its_block() -> (
    None
):
    last = PATH[3].index  # the block of round 5, whose child is of round 6
    for index in range(1, last + 1):
        shown = verify(proof_of(PATH, index), COMMITTEE, Keys())
        block = next(block for block in PATH if first_index(block) <= index <= block.index)
        assert (shown.index, shown.round, shown.block) == (index, block.round, block.digest)
        place = index - first_index(block)
        if place < 2:
            assert shown.payload == b"batch %d of round %d" % (place, block.round)
        else:
            assert (shown.kind, shown.payload) == (block.mark, b"")
    assert any(block.mark for block in PATH[:4]), "the chain has a mark to be proven"


def test_a_block_that_is_not_followed_by_the_next_round_is_proven_by_a_later_one() -> None:
    shown = verify(proof_of(PATH, PATH[1].index), COMMITTEE, Keys())
    assert (shown.round, shown.committed_round) == (2, 4)


def test_what_is_not_committed_has_no_proof() -> None:
    with pytest.raises(NoProof, match="not committed yet"):
        proof_of(PATH, PATH[4].index)
    with pytest.raises(NoProof, match="not committed yet"):
        proof_of(chain([1, 3, 5]), 1)
    with pytest.raises(NoProof, match="in no block"):
        proof_of(PATH, PATH[4].index + 1)


def test_a_proof_survives_its_journey_as_json() -> None:
    proof = proof_of(PATH, 3)
    text = json.dumps({"unverified": True, **to_json(proof)})
    assert from_json(text) == proof


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"version": 1}', '{"version": 2}', "[" * 100_000])
def test_what_is_no_proof_is_refused_in_words(text: str) -> None:
    with pytest.raises(NoProof):
        from_json(text)


def forged(**changes: object) -> Proof:
    return dataclasses.replace(proof_of(PATH, 3), **changes)  # type: ignore[arg-type]


def test_no_other_payload_index_kind_cluster_or_epoch_can_be_put_into_a_proof() -> None:
    for change in (
        {"payload": b"batch 1 of round 1"},
        {"payload": b""},
        {"index": 4},
        {"index": 1},
        {"index": 0},
        {"index": -1},
        {"kind": 0},
        {"kind": 2},
        {"kind": 300},
        {"cluster": "3f2a9c02"},
        {"epoch": 2},
    ):
        with pytest.raises(NoProof):
            verify(forged(**change), COMMITTEE, Keys())


def test_a_mark_cannot_be_passed_off_with_a_payload() -> None:
    block = next(block for block in PATH if block.mark)
    proof = proof_of(PATH, block.index)
    assert verify(proof, COMMITTEE, Keys()).payload == b""
    with pytest.raises(NoProof, match="mark"):
        verify(dataclasses.replace(proof, payload=b"x"), COMMITTEE, Keys())
    with pytest.raises(NoProof, match="mark"):
        verify(dataclasses.replace(proof, kind=1), COMMITTEE, Keys())


def test_rounds_that_are_not_consecutive_prove_nothing_however_well_they_are_certified() -> None:
    path = chain([1, 3])
    proof = Proof(
        COMMITTEE.cluster, 1, 1, 1, BATCHES[path[0].payload[0]][1], tuple(b.encoded for b in path),
        certify(path[1]),
    )  # fmt: skip
    with pytest.raises(NoProof, match="not consecutive"):
        verify(proof, COMMITTEE, Keys())


def test_a_chain_with_a_block_left_out_is_no_chain() -> None:
    proof = proof_of(PATH, PATH[1].index)
    assert [decode_block(block).round for block in proof.blocks] == [2, 4, 5]
    with pytest.raises(NoProof, match="no child"):
        verify(dataclasses.replace(proof, blocks=(proof.blocks[0], *proof.blocks[2:])), COMMITTEE, Keys())
    with pytest.raises(NoProof, match="a chain of 1 blocks"):
        verify(dataclasses.replace(proof, blocks=proof.blocks[:1]), COMMITTEE, Keys())


@pytest.mark.parametrize(
    "signers",
    [NAMES[:2], (), ("n1", "n1", "n2"), ("n1", "n2", "n9")],
    ids=["few", "none", "twice", "stranger"],
)
def test_a_certificate_without_a_quorum_of_distinct_members_proves_nothing(signers: tuple[str, ...]) -> None:
    last = decode_block(proof_of(PATH, 3).blocks[-1])
    with pytest.raises(NoProof):
        verify(forged(certificate=certify(last, signers)), COMMITTEE, Keys())


def test_the_certificate_of_the_lower_block_is_verified_too() -> None:
    """Two consecutive rounds commit only if both are certified, and a liar writes what he likes into his block."""
    first = chain([1])[0]
    weak = certify(first, NAMES[:1])
    child = extend(first, weak, 2, "n1", [], COMMITTEE, TIMING)
    proof = Proof(
        COMMITTEE.cluster, 1, 1, 1, BATCHES[first.payload[0]][1], (first.encoded, child.encoded),
        certify(child),
    )  # fmt: skip
    with pytest.raises(NoProof, match="quorum"):
        verify(proof, COMMITTEE, Keys())


def test_a_proof_of_another_committee_does_not_hold() -> None:
    other = Committee("3f2a9c01", 1, ("n1", "n2", "n4", "n5"), 1, 1)
    with pytest.raises(NoProof, match="votes of n3, which is no member"):
        verify(forged(), other, Keys())
    with pytest.raises(NoProof, match="does not verify"):
        verify(forged(), COMMITTEE, OtherKeys())


class OtherKeys(Keys):
    def verify(self, node: str, data: bytes, signed: bytes) -> bool:
        return signature(node + "'", data) == signed


@settings(max_examples=200, derandomize=True)
@given(st.data())
def test_no_byte_of_blocks_and_certificate_can_be_changed(data: st.DataObject) -> None:
    proof = proof_of(PATH, data.draw(st.integers(1, PATH[3].index)))
    parts = [*proof.blocks, proof.certificate]
    which = data.draw(st.integers(0, len(parts) - 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    changed = bytearray(parts[which])
    changed[at] ^= data.draw(st.integers(1, 255))
    parts[which] = bytes(changed)
    with pytest.raises(NoProof):
        verify(dataclasses.replace(proof, blocks=tuple(parts[:-1]), certificate=parts[-1]), COMMITTEE, Keys())


@settings(max_examples=50, derandomize=True)
@given(st.lists(st.binary(max_size=60), max_size=4), st.binary(max_size=60))
def test_garbage_is_refused_and_nothing_else_is_raised(blocks: list[bytes], certificate: bytes) -> None:
    with pytest.raises(NoProof):
        verify(forged(blocks=tuple(blocks), certificate=certificate), COMMITTEE, Keys())


def test_entries_are_numbered_without_a_hole_from_block_to_block() -> None:
    for parent, child in itertools.pairwise(PATH):
        assert first_index(child) == parent.index + 1
