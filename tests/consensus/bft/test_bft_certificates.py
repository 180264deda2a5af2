"""A certificate holds only with enough distinct members' signatures under exactly this statement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from bft_chain import Growing, checkpoint_at, checkpoint_vote, committee_of, seal
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft import signing
from consensus.bft.block import genesis, genesis_qc
from consensus.bft.certificates import (
    MOST_SIGNERS,
    CertificateError,
    CheckpointCertificate,
    QuorumCertificate,
    TimeoutCertificate,
    decode_checkpoint,
    decode_qc,
    decode_tc,
    read_checkpoint,
)
from consensus.bft.committee import Committee
from consensus.bft.timing import Timing
from sim.virtual.keys import Notary

FOUR = committee_of(4)
OTHERS = [
    committee_of(4, cluster="other"),
    committee_of(4, epoch=2),
    committee_of(4, cluster="d"),
    committee_of(4, cluster=""),
]
RING = Notary(FOUR.members).keyring("a")
CHAIN = Growing(FOUR, Timing())
CHAIN.grow()
TOP = CHAIN.grow()
GENESIS = genesis(FOUR).digest


def sign(name: str, statement: bytes) -> bytes:
    return Notary(("a", "b", "c", "d", "x")).signer(name).sign(statement)


def qc(signers: str = "abc", committee: Committee = FOUR) -> QuorumCertificate:
    return seal(committee, TOP, list(signers))


def tc(
    highs: dict[str, int] | None = None, round: int = 5, committee: Committee = FOUR
) -> TimeoutCertificate:
    highs = {"a": 2, "b": 1, "c": 0} if highs is None else highs
    rows = tuple(
        (name, high, sign(name, signing.timeout_statement(committee, round, high)))
        for name, high in highs.items()
    )
    return TimeoutCertificate(round, rows, qc(committee=committee).encode())


def checkpoint(signers: str = "abc", committee: Committee = FOUR) -> CheckpointCertificate:
    state = checkpoint_at(TOP)
    votes = tuple((name, checkpoint_vote(committee, name, state).signature) for name in signers)
    return CheckpointCertificate(state, TOP.encoded, votes)


def refused(certificate: QuorumCertificate | TimeoutCertificate | CheckpointCertificate) -> str:
    """Why it does not hold."""
    arguments = () if isinstance(certificate, CheckpointCertificate) else (GENESIS,)
    with pytest.raises(CertificateError) as caught:
        certificate.verify(FOUR, RING, *arguments)
    return str(caught.value)


def test_certificates_of_a_quorum_hold_and_survive_their_encoding() -> None:
    for signers in ("abc", "bcd", "dcba"):
        qc(signers).verify(FOUR, RING, GENESIS)
        assert decode_qc(qc(signers).encode()) == qc(signers)
        checkpoint(signers).verify(FOUR, RING)
        assert decode_checkpoint(checkpoint(signers).encode()) == checkpoint(signers)
    tc().verify(FOUR, RING, GENESIS)
    assert decode_tc(tc().encode()) == tc()
    assert tc().high_round == 2
    assert read_checkpoint(checkpoint_at(TOP).body()) == checkpoint_at(TOP)


@pytest.mark.parametrize("signers", ["", "a", "ab", "cd"])
def test_too_few_signers_are_refused_none_at_all_included(signers: str) -> None:
    count = len(signers)
    assert refused(qc(signers)) == f"{count} votes; a quorum is 3"
    assert refused(tc(dict.fromkeys(signers, 2))) == f"{count} timeouts; a quorum is 3"
    assert refused(checkpoint(signers)) == f"{count} checkpoints; a quorum is 3"


@pytest.mark.parametrize("signers", ["aab", "aabc", "abca"])
def test_a_member_that_is_counted_twice_is_refused_even_beside_a_quorum(signers: str) -> None:
    assert "counted twice" in refused(qc(signers))
    assert "counted twice" in refused(checkpoint(signers))
    rows = tuple(row for name in signers for row in tc().timeouts if row[0] == name)
    assert "counted twice" in refused(replace(tc(), timeouts=rows))


def test_a_stranger_is_refused_even_beside_a_quorum() -> None:
    vote = signing.vote_statement(FOUR, TOP.round, TOP.digest)
    for signers in ("ab", "abc"):
        votes = (*qc(signers).votes, ("x", sign("x", vote)))
        assert "x, which is no member" in refused(replace(qc(signers), votes=votes))
    row = ("x", 1, sign("x", signing.timeout_statement(FOUR, 5, 1)))
    assert "x, which is no member" in refused(replace(tc(), timeouts=(*tc().timeouts[:2], row)))
    state = checkpoint()
    other = ("x", state.signatures[0][1])
    assert "x, which is no member" in refused(replace(state, signatures=(*state.signatures[:2], other)))


def test_one_signature_that_does_not_verify_spoils_a_certificate() -> None:
    for broken in range(3):
        votes = [
            (name, b"f" * 64 if place == broken else seal) for place, (name, seal) in enumerate(qc().votes)
        ]
        assert "does not verify" in refused(replace(qc(), votes=tuple(votes)))
    swapped = tuple(zip("bca", [seal for _, seal in qc().votes], strict=True))
    assert "does not verify" in refused(replace(qc(), votes=swapped))
    rows = (*tc().timeouts[:2], ("c", 0, b"f" * 64))
    assert "c's timeout of round 5 does not verify" in refused(replace(tc(), timeouts=rows))
    seals = (*checkpoint().signatures[:2], ("c", b"f" * 64))
    assert "c's checkpoint" in refused(replace(checkpoint(), signatures=seals))


@pytest.mark.parametrize("other", OTHERS, ids=["cluster", "epoch", "name as long", "no name"])
def test_what_was_signed_in_another_cluster_or_epoch_holds_in_none_but_that(other: Committee) -> None:
    qc(committee=other).verify(other, RING, GENESIS)
    assert "does not verify" in refused(qc(committee=other))
    assert "does not verify" in refused(tc(committee=other))
    assert "does not verify" in refused(checkpoint(committee=other))
    inner = replace(tc(), high_qc=qc(committee=other).encode())
    assert "does not verify" in refused(inner)


def test_a_vote_for_another_round_or_another_block_holds_only_there() -> None:
    assert "does not verify" in refused(replace(qc(), round=qc().round + 1))
    assert "does not verify" in refused(replace(qc(), block=b"x" * 32))


def test_every_kind_of_statement_in_every_cluster_and_epoch_is_signed_as_other_bytes() -> None:
    # The field that follows the kind is made to look alike where it can.
    seen: dict[bytes, str] = {}
    digest = (7).to_bytes(8, "big") + b"\0" * 24
    for committee in (FOUR, *OTHERS, committee_of(4, cluster="c" * 2, epoch=1)):
        statements = {
            "proposal": signing.proposal_statement(committee, 7, digest),
            "vote": signing.vote_statement(committee, 7, digest),
            "timeout": signing.timeout_statement(committee, 7, 7),
            "checkpoint": signing.checkpoint_statement(committee, digest),
        }
        for kind, statement in statements.items():
            name = f"{kind} of {committee.cluster}, epoch {committee.epoch}"
            assert statement not in seen, f"{name} and {seen.get(statement)}"
            seen[statement] = name
            assert not any(statement != other and statement.startswith(other) for other in seen), name


def test_a_proposers_signature_is_no_vote() -> None:
    statement = signing.proposal_statement(FOUR, TOP.round, TOP.digest)
    votes = tuple((name, sign(name, statement)) for name in "abc")
    assert "does not verify" in refused(QuorumCertificate(TOP.round, TOP.digest, votes))


def test_the_certificate_of_round_0_is_the_genesis_blocks_and_has_no_votes() -> None:
    genesis_qc(FOUR).verify(FOUR, RING, GENESIS)
    assert "round 0" in refused(QuorumCertificate(0, b"x" * 32, ()))
    assert "round 0" in refused(QuorumCertificate(0, GENESIS, qc().votes))
    for other in OTHERS:
        with pytest.raises(CertificateError):
            genesis_qc(other).verify(FOUR, RING, GENESIS)


def test_a_timeout_certificate_carries_the_certificate_of_the_highest_round_that_was_signed() -> None:
    assert "carries a certificate of 2" in refused(tc({"a": 3, "b": 1, "c": 0}))
    assert "carries a certificate of 2" in refused(tc({"a": 1, "b": 1, "c": 0}))
    assert "no quorum certificate" in refused(replace(tc(), high_qc=b"\xc1"))
    assert "a quorum is 3" in refused(replace(tc(), high_qc=qc("ab").encode()))


def test_nobody_gives_a_round_up_with_a_certificate_of_that_round_or_above() -> None:
    assert "with a certificate of round 2" in refused(tc({"a": 2, "b": 1, "c": 0}, round=2))
    assert "with a certificate of round 2" in refused(tc({"a": 2, "b": 1, "c": 0}, round=1))
    tc({"a": 2, "b": 1, "c": 0}, round=3).verify(FOUR, RING, GENESIS)


def test_the_quorum_of_a_hybrid_committee_counts_not_two_thirds() -> None:
    six = Committee("c", 1, tuple("abcdef"), 2, 1)
    ring = Notary(six.members).keyring("a")
    start = genesis(six).digest
    seal(six, TOP, list("abcd")).verify(six, ring, start)
    with pytest.raises(CertificateError, match="3 votes; a quorum is 4"):
        seal(six, TOP, list("abc")).verify(six, ring, start)
    three = Committee("c", 1, tuple("abc"), 1, 0)
    seal(three, TOP, list("ab")).verify(three, ring, genesis(three).digest)


DECODERS: list[tuple[Callable[[bytes], Any], bytes]] = [
    (decode_qc, qc().encode()),
    (decode_tc, tc().encode()),
    (decode_checkpoint, checkpoint().encode()),
    (read_checkpoint, checkpoint_at(TOP).body()),
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def tampered(value: Any, data: st.DataObject) -> Any:
    """The value with one part, somewhere inside, replaced by anything."""
    if type(value) is list and value and data.draw(st.integers(0, 3)):
        place = data.draw(st.integers(0, len(value) - 1))
        return [*value[:place], tampered(value[place], data), *value[place + 1 :]]
    return data.draw(values)


@pytest.mark.parametrize(("decode", "good"), DECODERS, ids=["qc", "tc", "checkpoint", "body"])
@given(st.data())
@settings(max_examples=150, derandomize=True, deadline=None)
def test_garbage_raises_the_named_error_and_no_other(
    decode: Callable[[bytes], Any], good: bytes, data: st.DataObject
) -> None:
    decode(good)
    kind = data.draw(st.sampled_from(["bytes", "cut", "flip", "values"]))
    if kind == "bytes":
        bad = data.draw(st.binary(max_size=200))
    elif kind == "cut":
        bad = good[: data.draw(st.integers(0, len(good) - 1))] + data.draw(st.binary(max_size=3))
    elif kind == "flip":
        place = data.draw(st.integers(0, len(good) - 1))
        bad = good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :]
    else:
        bad = msgpack.packb(tampered(msgpack.unpackb(good), data))
    try:
        found = decode(bad)
    except CertificateError:
        return
    # What can be read is what it says: as bytes it is the same value again, and judging it raises nothing else either.
    again = found.body() if decode is read_checkpoint else found.encode()
    assert decode(again) == found
    if decode is not read_checkpoint:
        arguments = (FOUR, RING) if decode is decode_checkpoint else (FOUR, RING, GENESIS)
        try:
            found.verify(*arguments)
        except CertificateError:
            return
        # Only what no signature covers may differ: a header, or the form of the bytes.
        assert (
            replace(found, header=TOP.encoded) == checkpoint()
            if decode is decode_checkpoint
            else found == decode(good)
        )


def test_numbers_that_are_none_and_fields_of_another_length_are_refused() -> None:
    votes = [list(vote) for vote in qc().votes]
    for bad in (
        [True, TOP.digest, votes],
        [-1, TOP.digest, votes],
        [1 << 63, TOP.digest, votes],
        [1.0, TOP.digest, votes],
        [1, TOP.digest[:31], votes],
        [1, TOP.digest.hex(), votes],
        [1, TOP.digest, {}],
        [1, TOP.digest, [["a", b"s" * 63]]],
        [1, TOP.digest, [["", b"s" * 64]]],
        [1, TOP.digest, [["a" * 256, b"s" * 64]]],
        [1, TOP.digest, [[b"a", b"s" * 64]]],
        [1, TOP.digest, [["a", b"s" * 64]] * (MOST_SIGNERS + 1)],
        [1, TOP.digest],
        [1, TOP.digest, votes, 0],
    ):
        with pytest.raises(CertificateError):
            decode_qc(msgpack.packb(bad))
    with pytest.raises(CertificateError):
        decode_qc(qc().encode() + b"\0")
