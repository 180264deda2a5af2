"""A replica whose cluster wants signed requests: what it takes in, and who hears what became of it."""

from __future__ import annotations

from typing import Any

from replica_bench import Bench
from signers import Ring, Signer

from consensus.core import EntryKind, Refusal, RefusalCode
from node import signed
from node.kv import KvMachine, append
from node.protocol import (
    Code,
    DigestReport,
    Introduce,
    OpenSession,
    Outcome,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
    StatusRequest,
    Submit,
)
from node.requests import RequestCheck
from node.sessions import PLACES, decode_block

RING = Ring()
ANN, BOB = RING.signer("ann"), RING.signer("bob")
COMMAND = append(b"k", b"v")
LATER = 1000 * PLACES
"""A session that this node's log has not come to yet."""


def bench() -> Bench:
    return Bench(requests=RequestCheck("bench", RING.verify, KvMachine().check))


def ask(bench: Bench, connection: str, *messages: Any) -> list[tuple[Any, Any]]:
    """Requests of a client; what is answered in the same turn."""
    for message in messages:
        bench.replica.receive_client(connection, message, bench.now)
    return bench.turn().clients


def opened(bench: Bench, signer: Signer = ANN) -> int:
    """A session is opened by way of another node."""
    bench.commit(signer.open_group(1))
    return len(bench.log) * PLACES


def test_signed_requests_go_into_the_log_as_they_were_signed() -> None:
    one = bench()
    assert ask(one, "c", ANN.open(3), ANN.submit(LATER, 1, [2, 3], [COMMAND, COMMAND])) == []
    ((kind, payload),) = one.core.proposed
    assert kind == EntryKind.BLOCK
    groups = [ANN.open_group(3), ANN.group(LATER, 1, [2, 3], [COMMAND, COMMAND])]
    assert decode_block(payload) == [list(group) for group in groups]
    assert RequestCheck("bench", RING.verify, KvMachine().check).check(kind, payload) is None


def test_unsigned_requests_are_refused_where_requests_are_signed() -> None:
    one = bench()
    said = ask(one, "c", Submit(77, 0, [1], [COMMAND]), OpenSession(9))
    assert [(message.request, message.seqs, message.code) for _, message in said] == [
        (0, [1], Code.BAD_COMMAND),
        (9, [], Code.BAD_COMMAND),
    ]
    assert "signed requests only" in said[0][1].reason
    assert one.core.proposed == []


def test_signed_requests_are_refused_where_requests_are_not_signed() -> None:
    raft = Bench()
    said = ask(raft, "c", ANN.submit(LATER, 0, [1], [COMMAND]), ANN.open(9), Introduce(ANN.key))
    assert [(message.request, message.seqs, message.code) for _, message in said] == [
        (0, [1], Code.BAD_COMMAND),
        (9, [], Code.BAD_COMMAND),
    ]
    assert raft.core.proposed == []


def test_a_forged_or_malformed_request_is_refused_at_once_and_as_a_whole() -> None:
    one = bench()
    good = ANN.submit(LATER, 0, [1, 2], [COMMAND, COMMAND])
    forged = SignedSubmit(78, 0, good.seqs, good.commands, ANN.key, good.signature)
    stolen = SignedOpen(BOB.key, 1, ANN.open(1).signature)
    said = ask(one, "c", forged, stolen, ANN.submit(LATER, 0, [3, 4], [COMMAND, b"nonsense"]))
    assert [(message.session, message.request, message.seqs, message.code) for _, message in said] == [
        (78, 0, [1, 2], Code.BAD_COMMAND),
        (0, 1, [], Code.BAD_COMMAND),
        (LATER, 0, [3, 4], Code.BAD_COMMAND),
    ]
    assert one.core.proposed == []


def test_a_bundle_that_comes_again_is_answered_from_the_state_in_the_words_of_the_first_time() -> None:
    one = bench()
    session = opened(one)
    bundle = ANN.submit(session, 0, [1, 2, 4], [COMMAND] * 3)
    assert ask(one, "c", bundle) == []
    ((_, first),) = one.commit(ANN.group(session, 0, [1, 2, 4], [COMMAND] * 3)).clients
    one.core.proposed.clear()
    assert ask(one, "d", bundle) == [("d", first)]
    assert one.core.proposed == [], "it would be the same bytes, which a log takes in once"
    # Through the log it is the same; and what is half done goes there.
    ((_, again), _) = one.commit(ANN.group(session, 0, [1, 2, 4], [COMMAND] * 3)).clients
    assert again == first
    assert ask(one, "d", ANN.submit(session, 2, [3, 4], [COMMAND] * 2)) == []
    assert len(one.core.proposed) == 1
    one.commit(ANN.group(session, 2, [3, 4], [COMMAND] * 2))
    said = [message for _, message in ask(one, "d", ANN.submit(session, 2, [3, 4], [COMMAND] * 2))]
    assert [(outcome.seqs, outcome.index - first.index) for outcome in said] == [([3], 2), ([4], 0)]
    ((_, kept), (_, refused)) = ask(one, "d", bundle)
    assert (kept.seqs, kept.places) == ([4], [2])
    assert (refused.code, refused.seqs) == (Code.FORGOTTEN, [1, 2])


def test_of_a_session_that_is_gone_the_state_tells_but_not_of_one_that_is_still_to_come() -> None:
    one = bench()
    session = opened(one)
    ((_, refused),) = ask(one, "c", ANN.submit(session + 1, 0, [1], [COMMAND]))
    assert refused.code == Code.UNKNOWN_SESSION
    ((_, refused),) = ask(one, "c", BOB.submit(session, 0, [1], [COMMAND]))
    assert refused.code == Code.UNKNOWN_SESSION
    assert one.core.proposed == []
    assert ask(one, "c", ANN.submit(session + PLACES, 0, [1], [COMMAND])) == []
    assert len(one.core.proposed) == 1


def test_an_opening_that_comes_again_is_answered_from_the_state() -> None:
    one = bench()
    ask(one, "c", ANN.open(5))
    ((_, first),) = one.commit(ANN.open_group(5)).clients
    one.core.proposed.clear()
    assert ask(one, "d", ANN.open(5)) == [("d", first)]
    ((_, refused),) = ask(one, "d", ANN.open(4))
    assert (refused.code, refused.request) == (Code.FORGOTTEN, 4)
    assert one.core.proposed == []
    assert ask(one, "d", ANN.open(6)) == []
    assert len(one.core.proposed) == 1


def test_whoever_asked_hears_a_refusal_of_the_core() -> None:
    one = bench()
    one.core.refusal = Refusal(RefusalCode.BUSY, "too much is waiting", None)
    said = ask(one, "c", ANN.submit(LATER, 0, [1], [COMMAND]), ANN.open(5))
    assert [(to, message.session, message.seqs, message.request) for to, message in said] == [
        ("c", LATER, [1], 0),
        ("c", 0, [], 5),
    ]


def test_an_outcome_goes_to_everybody_introduced_under_the_key_and_to_nobody_else() -> None:
    one = bench()
    ask(one, "first", Introduce(ANN.key))
    ask(one, "second", Introduce(ANN.key), Introduce(ANN.key))
    ask(one, "stranger", Introduce(BOB.key))
    ask(one, "garbled", Introduce(ANN.key[1:]))
    ((a, opened), (b, same)) = one.commit(ANN.open_group(1)).clients
    assert (a, b) == ("first", "second")
    assert type(opened) is SessionOpened
    assert same is opened
    assert opened.request == 1
    said = one.commit(ANN.group(opened.session, 0, [1], [COMMAND])).clients
    assert [(to, type(message)) for to, message in said] == [("first", Outcome), ("second", Outcome)]


def test_a_node_that_did_not_take_the_request_in_answers_in_the_same_words() -> None:
    here, there = bench(), bench()
    ask(here, "c", ANN.open(1))
    ask(there, "d", Introduce(ANN.key))
    (_, payload) = here.core.proposed[0]
    groups = [[tuple(group) for group in decode_block(payload)], [ANN.group(PLACES, 0, [1], [COMMAND])]]
    for block in groups:
        said = [one.commit(*block).clients for one in (here, there)]
        assert [to for ((to, _),) in said] == ["c", "d"]
        assert said[0][0][1] == said[1][0][1]


def test_whoever_sends_a_good_request_need_not_introduce_himself() -> None:
    one = bench()
    session = opened(one)
    ask(one, "c", ANN.submit(session, 0, [1], [COMMAND]))
    assert [to for to, _ in one.commit(ANN.group(session, 0, [1], [COMMAND])).clients] == ["c"]
    forged = SignedSubmit(session, 0, [2], [COMMAND], BOB.key, ANN.open(1).signature)
    ask(one, "listener", forged)
    assert one.commit(BOB.group(session, 0, [2], [COMMAND])).clients == []


def test_a_session_of_somebody_else_is_refused_to_who_signed_and_its_owner_hears_nothing() -> None:
    one = bench()
    session = opened(one)
    ask(one, "ann", Introduce(ANN.key))
    ask(one, "bob", Introduce(BOB.key))
    ((to, refused),) = one.commit(BOB.group(session, 0, [1], [COMMAND])).clients
    assert to == "bob"
    assert isinstance(refused, Refused)
    assert refused.code == Code.UNKNOWN_SESSION


def test_a_connection_that_is_gone_hears_nothing_more_and_is_forgotten() -> None:
    one = bench()
    ask(one, "c", Introduce(ANN.key), Introduce(BOB.key))
    ask(one, "d", Introduce(ANN.key))
    one.replica.client_gone("c")
    assert [to for to, _ in one.commit(ANN.open_group(1), BOB.open_group(1)).clients] == ["d"]
    one.replica.client_gone("d")
    assert not one.replica.signed._listening
    assert not one.replica.signed._keys


def test_listeners_of_a_key_and_keys_of_a_listener_are_bounded() -> None:
    one = bench()
    most = signed.CONNECTIONS_A_KEY
    for number in range(most + 2):
        ask(one, f"c{number}", Introduce(ANN.key))
    assert [to for to, _ in one.commit(ANN.open_group(1)).clients] == [f"c{n}" for n in range(2, most + 2)]
    keys = [number.to_bytes(32, "big") for number in range(signed.KEYS_A_CONNECTION + 3)]
    ask(one, "many", *map(Introduce, keys))
    assert len(one.replica.signed._keys["many"]) == signed.KEYS_A_CONNECTION
    assert keys[0] not in one.replica.signed._listening
    assert keys[-1] in one.replica.signed._listening


def test_a_quarantined_replica_says_nothing_of_what_becomes_of_requests() -> None:
    one = bench()
    ask(one, "c", Introduce(ANN.key))
    one.commit(kind=EntryKind.DIGEST)
    for peer in ("n2", "n3", "n4"):
        one.replica.receive_peer(peer, DigestReport(1, bytes(32), one.state.chain), one.now)
    assert one.replica.quarantined
    assert ask(one, "d", Introduce(ANN.key)) == []
    ((_, refused),) = ask(one, "e", ANN.open(1))
    assert refused.code == Code.QUARANTINED
    assert one.commit(ANN.open_group(1)).clients == []


def test_what_only_the_protocol_has_to_tell_stands_in_the_status() -> None:
    one = bench()
    one.core.view.facts = {"round": 7}
    ((_, said),) = ask(one, "c", StatusRequest(1))
    assert said.status["facts"] == {"round": 7}
    assert "facts" not in Bench().replica.status(0)
