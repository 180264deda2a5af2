"""What a batch must hold for anybody to vote for it: `node.requests` and the signed sessions of `node.sessions`."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from signers import Ring, Signer

from consensus.core import EntryKind, encode_entry
from node import requests
from node.kv import KvMachine, append, get
from node.protocol import Code, Outcome, Refused, SessionOpened
from node.ranking import commands
from node.ranking.machine import RankingMachine
from node.requests import RequestCheck, open_statement, signatures, submit_statement
from node.sessions import (
    MOST_GROUPS,
    PLACES,
    WINDOW,
    Sessions,
    commands_group,
    encode_block,
    expire_group,
    open_group,
    signed_commands_group,
    signed_open_group,
)
from node.state import Keyed, ReplicatedState
from sim.check.replicated import NodeState

SESSION = 3 * PLACES


def checked(ring: Ring, cluster: str = "bench") -> RequestCheck:
    return RequestCheck(cluster, ring.verify, KvMachine().check, 4096)


def block(*groups: Any) -> bytes:
    return encode_block(groups)


def refusal(check: RequestCheck, *groups: Any) -> str:
    return check.check(EntryKind.BLOCK, block(*groups)) or ""


# ------------------------------------------------------------------------------------------------- what may enter


def test_a_block_of_what_clients_signed_may_enter_the_log() -> None:
    ring = Ring()
    ann, bob = ring.signer("ann"), ring.signer("bob")
    groups = [ann.open_group(7), bob.group(SESSION, 2, [3, 5], [append(b"k", b"1"), append(b"k", b"2")])]
    assert checked(ring).check(EntryKind.BLOCK, block(*groups)) is None


def test_a_signature_that_several_nodes_bring_is_verified_once() -> None:
    ring = Ring()
    ann = ring.signer("ann")
    check = checked(ring)
    bundle, opening = ann.group(SESSION, 0, [1], [append(b"k", b"1")]), ann.open_group(1)
    for groups in ([bundle], [opening, bundle], [bundle, opening, bundle]):
        assert check.check(EntryKind.BLOCK, block(*groups)) is None
    assert ring.verified == 2


def test_what_is_remembered_of_verified_signatures_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "REMEMBERED", 2)
    ring = Ring()
    ann = ring.signer("ann")
    check = checked(ring)
    for nonce in (1, 2, 3, 1):
        assert check.group(ann.open_group(nonce)) is None
    assert ring.verified == 4


def test_more_signatures_than_one_turn_can_verify_are_refused_before_the_first_is() -> None:
    ring = Ring()
    ann = ring.signer("ann")
    groups = [ann.open_group(nonce) for nonce in range(MOST_GROUPS + 1)]
    assert f"{MOST_GROUPS + 1} signed requests in a batch" in refusal(checked(ring), *groups)
    assert ring.verified == 0
    assert refusal(checked(ring), *groups[1:]) == ""


def test_a_command_that_the_machine_trips_over_is_bad_and_takes_nobody_down() -> None:
    """An id nested a thousand deep made a `repr` in an error's text raise RecursionError, at every node that read the batch."""
    ring = Ring()
    ann = ring.signer("ann")

    def trips(command: bytes) -> str | None:
        raise RecursionError

    check = RequestCheck("bench", ring.verify, trips, 4096)
    assert "command 1: the machine trips over it (RecursionError)" in refusal(
        check, ann.group(SESSION, 0, [1], [b"x"])
    )
    assert ring.verified == 0
    deep: object = []
    for _ in range(1000):
        deep = [deep]
    machine = RankingMachine()
    good = [
        commands.observe([(1, 2, 3)]),
        commands.delta("bias", [1], [[2]]),
        commands.upsert_item(1, 2, "title"),
    ]
    shapes = [msgpack.unpackb(command) for command in good]
    bad = [deep, *([*shape[:at], [deep], *shape[at + 1 :]] for shape in shapes for at in range(len(shape)))]
    bad += [[*shape[:at], deep, *shape[at + 1 :]] for shape in shapes for at in range(len(shape))]
    for command in bad:
        bundle = ann.group(SESSION, 0, [1], [msgpack.packb(command)])
        found = refusal(RequestCheck("bench", ring.verify, machine.check, 4096), bundle)
        assert "command 1: " in found
        assert "trips" not in found, "the machine's own words are better"
        assert machine.apply([msgpack.packb(command)])


def test_a_forged_signature_is_found_also_beside_remembered_good_ones() -> None:
    ring = Ring()
    ann, eve = ring.signer("ann"), ring.signer("eve")
    check = checked(ring)
    commands = [append(b"k", b"1")]
    good = ann.group(SESSION, 0, [1], commands)
    assert refusal(check, good) == ""
    statement = submit_statement("bench", SESSION, 0, [1], commands)
    forged = signed_commands_group(SESSION, 0, [1], commands, ann.key, eve.sign(statement))
    assert "group 1: the signature does not verify" in refusal(check, good, forged)
    assert "does not verify" in refusal(
        check, signed_open_group(ann.key, 1, eve.sign(open_statement("bench", ann.key, 1)))
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_a_block_with_any_bit_turned_is_refused(data: st.DataObject) -> None:
    ring = Ring()
    ann = ring.signer("ann")
    payload = block(
        ann.open_group(300), ann.group(SESSION, 2, [3, 70_000], [append(b"k", b"1"), b"\x93" * 9])
    )
    check = RequestCheck("bench", ring.verify, lambda command: None)
    assert check.check(EntryKind.BLOCK, block(ann.open_group(300))) is None
    bit = data.draw(st.integers(0, 8 * len(payload) - 1))
    turned = bytearray(payload)
    turned[bit // 8] ^= 1 << bit % 8
    assert check.check(EntryKind.BLOCK, bytes(turned)) is not None


def test_nothing_signed_for_one_purpose_says_anything_for_another() -> None:
    """Another cluster, another session, another key, other numbers, other commands, another nonce, another kind of statement."""
    ring = Ring()
    ann, bob = ring.signer("ann"), ring.signer("bob")
    there = Signer("ann", "another")
    commands = [append(b"k", b"1")]
    signature = ann.submit(SESSION, 1, [2], commands).signature
    for session, low, seqs, said, key in [
        (SESSION + 1, 1, [2], commands, ann.key),
        (SESSION, 0, [2], commands, ann.key),
        (SESSION, 1, [3], commands, ann.key),
        (SESSION, 1, [2], [append(b"k", b"2")], ann.key),
        (SESSION, 1, [2], commands, bob.key),
    ]:
        group = signed_commands_group(session, low, seqs, said, key, signature)
        assert "does not verify" in refusal(checked(ring), group)
    assert "does not verify" in refusal(checked(ring), there.group(SESSION, 1, [2], commands))
    assert "does not verify" in refusal(checked(ring), there.open_group(1))
    opening = ann.open(4).signature
    assert "does not verify" in refusal(checked(ring), signed_open_group(ann.key, 5, opening))
    assert "does not verify" in refusal(checked(ring), signed_open_group(bob.key, 4, opening))
    both = {open_statement("bench", ann.key, 4), submit_statement("bench", 4, 0, [], [])}
    both |= {open_statement("another", ann.key, 4), submit_statement("another", 4, 0, [], [])}
    assert len(both) == 4


def test_groups_that_nobody_signed_are_refused_though_another_log_may_hold_them() -> None:
    ring = Ring()
    for group in (
        commands_group(SESSION, 0, [1], [append(b"k", b"1")]),
        open_group("n1", 1),
        expire_group(SESSION, 3),
        [5, SESSION],
        [True, b"", 0, b""],
        [[3], 1],
    ):
        assert "no client has signed" in refusal(checked(ring), group)


def test_only_blocks_come_from_clients() -> None:
    ring = Ring()
    for kind in (EntryKind.NOOP, EntryKind.DIGEST, EntryKind.CHECKPOINT, 9):
        assert "kind" in (checked(ring).check(kind, block(ring.signer("ann").open_group(1))) or "")
        assert checked(ring).check(kind, b"") is not None


KEY, SIGNATURE = bytes(32), bytes(64)
MISSHAPEN = [
    ([4, KEY, 1], "3 fields"),
    ([4, KEY[1:], 1, SIGNATURE], "key"),
    ([4, "k" * 32, 1, SIGNATURE], "key"),
    ([4, KEY, 1, SIGNATURE[1:]], "signature"),
    ([4, KEY, -1, SIGNATURE], "number"),
    ([4, KEY, True, SIGNATURE], "number"),
    ([4, KEY, 1 << 63, SIGNATURE], "number"),
    ([3, 1, 0, [1], [b""], KEY], "6 fields"),
    ([3, 1, 0, [1], [], KEY, SIGNATURE], "one number for each"),
    ([3, 1, 0, 1, [b""], KEY, SIGNATURE], "one number for each"),
    ([3, 1, 0, [1], ["text"], KEY, SIGNATURE], "not bytes"),
    ([3, 1, 0, [1.0], [b""], KEY, SIGNATURE], "number"),
    ([3, 1, 0, [0], [b""], KEY, SIGNATURE], "between 1 and"),
    ([3, 1, 0, [WINDOW + 1], [b""], KEY, SIGNATURE], "between 1 and"),
    ([3, 1, 0, [], [], KEY, SIGNATURE], "without commands"),
    ([3, 1, 0, [1], [bytes(4097)], KEY, SIGNATURE], "4097 bytes"),
    ([3, 1, 0, [1], [b"nonsense"], KEY, SIGNATURE], "command 1"),
    ([3, 1, 0, [*range(1, WINDOW + 1), 1], [b""] * (WINDOW + 1), KEY, SIGNATURE], "commands at once"),
]


@pytest.mark.parametrize(("group", "words"), MISSHAPEN)
def test_a_group_that_makes_no_sense_is_refused_before_its_signature_is_looked_at(
    group: list[Any], words: str
) -> None:
    ring = Ring()
    assert words in refusal(checked(ring), group)
    assert ring.verified == 0


def test_a_block_has_no_more_places_than_session_names_have_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "PLACES", 3)
    ring = Ring()
    ann = ring.signer("ann")
    two = ann.group(SESSION, 0, [1, 2], [append(b"k", b"1")] * 2)
    assert refusal(checked(ring), two, ann.open_group(1)) == ""
    assert "4 places" in refusal(checked(ring), two, two)


def test_a_bundle_is_bounded_because_it_is_never_cut() -> None:
    ring = Ring()
    check = RequestCheck("bench", ring.verify, lambda command: None, requests.BUNDLE_BYTES)
    half = bytes(requests.BUNDLE_BYTES // 2)
    ann = ring.signer("ann")
    assert check.group(ann.group(SESSION, 0, [1, 2], [half, half])) is None
    assert "sign smaller ones" in (check.group(ann.group(SESSION, 0, [1, 2, 3], [half, half, b"x"])) or "")


_value = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary(max_size=70)
    | st.text(max_size=5) | st.sampled_from([3, 4, KEY, SIGNATURE]),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.one_of(
        st.binary(max_size=60), _value.map(msgpack.packb), st.lists(_value, max_size=3).map(msgpack.packb)
    )
)
def test_no_bytes_at_all_make_the_check_raise_or_pass_unsigned(payload: bytes) -> None:
    ring = Ring()
    assert checked(ring).check(EntryKind.BLOCK, payload) is not None
    assert all(len(signed) == 3 for signed in signatures("bench", payload))


def test_what_there_is_to_verify_can_be_known_ahead_of_the_check() -> None:
    ring = Ring()
    ann = ring.signer("ann")
    opening, bundle = ann.open_group(1), ann.group(SESSION, 0, [1], [append(b"k", b"1")])
    ahead = signatures("bench", block(opening, open_group("n1", 1), [3, 1], bundle))
    assert [ring.verify(*signed) for signed in ahead] == [True, True]
    asked: list[requests.Signed] = []
    check = RequestCheck("bench", lambda *signed: not asked.append(signed), KvMachine().check)
    assert check.check(EntryKind.BLOCK, block(opening, bundle)) is None
    assert asked == ahead


# ------------------------------------------------------------------------------------------------- signed sessions


class World:
    """A replicated state and the log that it was given."""

    def __init__(self, most: int = 9) -> None:
        self.most = most
        self.state = ReplicatedState(KvMachine(), most)
        self.log: list[bytes] = []

    def commit(self, *groups: Any) -> list[Any]:
        """What is said, with whom to."""
        self.log.append(encode_entry(len(self.log) + 1, 1, EntryKind.BLOCK, block(*groups)))
        said = self.state.apply(self.log[-1])
        assert all(type(item) is Keyed for item in said)
        return [(item.key, item.message) for item in said]  # type: ignore[union-attr]

    def open(self, signer: Signer, nonce: int = 1) -> int:
        ((key, message),) = self.commit(signer.open_group(nonce))
        assert key == signer.key
        assert type(message) is SessionOpened
        return message.session

    def value(self) -> bytes:
        return self.state.machine.query(get(b"k"))


def word(text: bytes) -> bytes:
    return append(b"k", text)


def test_a_session_belongs_to_the_key_that_opened_it() -> None:
    world, ann, eve = World(), Signer("ann"), Signer("eve")
    session = world.open(ann)
    ((key, refused),) = world.commit(eve.group(session, 0, [1], [word(b"eve")]))
    assert (key, refused.code, refused.seqs) == (eve.key, Code.UNKNOWN_SESSION, [1])
    ((key, outcome),) = world.commit(ann.group(session, 0, [1], [word(b"ann")]))
    assert (key, outcome.session, outcome.seqs, outcome.index) == (ann.key, session, [1], 3)
    assert b"eve" not in world.value()
    assert b"ann" in world.value()


def test_everything_in_a_block_has_a_place_of_its_own() -> None:
    world, ann, bob = World(), Signer("ann"), Signer("bob")
    one, two = world.open(ann), world.open(bob)
    said = world.commit(
        ann.group(one, 0, [1, 2], [word(b"1"), word(b"2")]),
        bob.group(two, 0, [1], [word(b"3")]),
        ann.open_group(2),
    )
    (_, first), (_, second), (_, opened) = said
    assert (first.places, second.places) == ([0, 1], [2])
    assert opened.session == 3 * PLACES + 3


def test_commands_without_a_signature_find_no_session_that_has_an_owner() -> None:
    world, ann = World(), Signer("ann")
    session = world.open(ann)
    entry = encode_entry(2, 1, EntryKind.BLOCK, block(commands_group(session, 0, [1], [word(b"no")])))
    (refused,) = world.state.apply(entry)
    assert isinstance(refused, Refused)
    assert refused.code == Code.UNKNOWN_SESSION
    assert b"no" not in world.value()


def test_an_opening_that_comes_again_is_answered_with_the_same_session_and_the_same_words() -> None:
    world, ann, bob = World(), Signer("ann"), Signer("bob")
    first = world.commit(ann.open_group(5), bob.open_group(5), ann.open_group(5))
    assert first[0] == first[2] != first[1]
    assert first[0][1].request == 5
    again = world.commit(ann.open_group(5))
    assert again == [first[0]]
    assert len(world.state.sessions) == 2


def test_of_one_key_only_the_newest_nonce_opens_anything() -> None:
    world, ann = World(), Signer("ann")
    old = world.open(ann, 5)
    ((_, refused),) = world.commit(ann.open_group(4))
    assert (refused.code, refused.request, refused.session) == (Code.FORGOTTEN, 4, 0)
    new = world.open(ann, 6)
    ((_, refused),) = world.commit(ann.open_group(5))
    assert refused.code == Code.FORGOTTEN
    assert len(world.state.sessions) == 2
    # What was still open in the older one can be settled there.
    said = world.commit(ann.group(old, 0, [1], [word(b"o")]), ann.group(new, 0, [1], [word(b"n")]))
    assert [type(message) for _, message in said] == [Outcome, Outcome]


def test_a_session_that_was_put_out_of_the_table_does_nothing_more_and_its_name_is_never_used_again() -> None:
    world = World(most=2)
    ann, bob, eve = Signer("ann"), Signer("bob"), Signer("eve")
    session = world.open(ann)
    bundle = ann.group(session, 0, [1], [word(b"once")])
    world.commit(bundle)
    world.open(bob)
    world.open(eve)
    assert world.open(ann) != session, "the old opening, brought once more, opens a new session"
    ((_, refused),) = world.commit(bundle)
    assert refused.code == Code.UNKNOWN_SESSION
    assert world.value().count(b"once") == 1


def test_the_table_of_signed_sessions_survives_a_snapshot_with_owners_and_nonces() -> None:
    world, ann, bob = World(most=3), Signer("ann"), Signer("bob")
    one, two = world.open(ann, 1), world.open(ann, 2)
    world.commit(ann.group(one, 0, [1], [word(b"1")]))
    copy = World(most=3)
    copy.state.restore(world.state.snapshot())
    assert copy.state.digest() == world.state.digest()
    assert copy.state.sessions.dump() == world.state.sessions.dump()
    copy.log = [*world.log]
    steps = [
        [ann.open_group(2)],
        [ann.open_group(1)],
        [bob.group(one, 0, [2], [word(b"b")])],
        [ann.group(one, 1, [1, 2], [word(b"1"), word(b"2")])],
        [bob.open_group(1)],
        [Signer("eve").open_group(1)],  # the newest of ann's is the longest idle one, and goes
        [ann.open_group(2)],
        [ann.group(two, 0, [1], [word(b"t")])],
        [ann.open_group(3)],
    ]
    for groups in steps:
        assert copy.commit(*groups) == world.commit(*groups)
        assert copy.state.digest() == world.state.digest()


def test_sessions_without_an_owner_are_written_down_as_ever() -> None:
    table = Sessions(9)
    table.open(1, 0, bytes(32), 5)
    assert msgpack.unpackb(table.dump()) == [[PLACES, 0, 0, 1, []]]


_copy = st.tuples(st.integers(0, 2), st.sampled_from(["open", "first", "second", "third"]), st.booleans())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(_copy, max_size=40))
def test_whatever_copies_are_brought_in_whatever_order_nothing_takes_effect_twice(copies: list[Any]) -> None:
    """Bundles and openings are replayed at will, and the table is so small that it forgets sessions in between."""
    world = World(most=2)
    signers = [Signer(name) for name in ("a", "b", "c")]
    names = [world.open(signer) for signer in signers]
    twin = World(most=2)
    for entry in world.log:
        twin.state.apply(entry)
        twin.log.append(entry)
    for who, what, restored in copies:
        signer, name = signers[who], names[who]
        table = world.state.sessions
        if what == "open":
            groups = [signer.open_group(1)]
            opening = table.recall_opening(signer.key, 1)
            known = None if opening is None else [opening]
        else:
            low = ["first", "second", "third"].index(what)
            seqs = [low + 1, low + 2]
            groups = [signer.group(name, low, seqs, [word(b"<%d:%d>" % (who, seq)) for seq in seqs])]
            known = table.recall(name, seqs, signer.key, len(world.log))
        if restored:
            state = ReplicatedState(KvMachine(), 2)
            state.restore(twin.state.snapshot())
            twin.state = state
        said = world.commit(*groups)
        assert twin.commit(*groups) == said
        # What is told without the log is what the log tells.
        assert known in (None, [message for _, message in said])
    assert twin.state.digest() == world.state.digest()
    for who in range(3):
        for seq in range(1, 5):
            assert world.value().count(b"<%d:%d>" % (who, seq)) <= 1


def test_the_replay_of_a_log_sees_signed_commands_in_their_places() -> None:
    world, ann, bob = World(), Signer("ann"), Signer("bob")
    replay = NodeState(KvMachine(), 9)
    session = world.open(ann)
    assert replay.apply(world.log[-1]) == []
    bundle = ann.group(session, 0, [1, 2], [word(b"1"), word(b"2")])
    world.commit(bob.open_group(1), bundle, bundle)
    effects = replay.apply(world.log[-1])
    assert [(e.session, e.seq, e.place, e.command) for e in effects] == [
        (session, 1, 1, word(b"1")),
        (session, 2, 2, word(b"2")),
    ]
    assert replay.digest() == world.state.digest()
