"""What the log determines: chain value, sessions and machine together."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.core import EntryKind, encode_entry
from node.kv import KvMachine, append, cas, get, put
from node.protocol import Code, Outcome, Refused
from node.sessions import PLACES, Group, commands_group, encode_block, expire_group, open_group
from node.state import CHUNK, GENESIS, DigestDue, Opened, ReplicatedState, extend_chain


def entry(index: int, *groups: Group, kind: int = EntryKind.BLOCK, term: int = 1) -> bytes:
    return encode_entry(index, term, kind, encode_block(groups) if kind == EntryKind.BLOCK else b"")


def fresh() -> ReplicatedState:
    return ReplicatedState(KvMachine(), 4)


def test_the_chain_value_is_the_hash_of_the_one_before_and_the_encoded_entry() -> None:
    state = fresh()
    assert state.chain == GENESIS == bytes(32)
    first, second = entry(1, kind=EntryKind.NOOP), entry(2, open_group("a", 1))
    state.apply(first)
    state.apply(second)
    by_hand = sha256(sha256(bytes(32) + first).digest() + second).digest()
    assert state.chain == by_hand == extend_chain(extend_chain(GENESIS, first), second)
    assert (state.applied_index, state.applied_term) == (2, 1)


@pytest.mark.parametrize("index", [0, 1, 3])
def test_only_the_next_entry_is_applied(index: int) -> None:
    state = fresh()
    state.apply(entry(1, kind=EntryKind.NOOP))
    before = state.chain
    with pytest.raises(ValueError, match=f"entry {index} cannot follow entry 1"):
        state.apply(entry(index, kind=EntryKind.NOOP))
    assert (state.chain, state.applied_index) == (before, 1)


def test_places_count_on_over_the_groups_of_a_block_and_name_the_sessions() -> None:
    state = fresh()
    applied = state.apply(
        entry(
            1,
            open_group("a", 5),
            commands_group(PLACES, 0, [1, 2], [put(b"a", b"1"), put(b"b", b"2")]),
            open_group("b", 6),
            commands_group(PLACES, 0, [2, 3], [put(b"a", b"1"), put(b"c", b"2")]),
        )
    )
    opened, outcome, other, repeated, new = applied
    assert isinstance(opened, Opened)
    assert isinstance(other, Opened)
    assert (opened.origin, opened.message.session, opened.message.chain) == ("a", PLACES, state.chain)
    assert (other.origin, other.message.session) == ("b", PLACES + 3)
    assert [one.places for one in (outcome, repeated, new) if isinstance(one, Outcome)] == [[1, 2], [2], [5]]
    assert state.commands_applied == 3


def test_a_mark_gives_the_digest_behind_itself_and_changes_nothing_but_the_chain() -> None:
    state = fresh()
    state.apply(entry(1, open_group("a", 1)))
    before = state.digest()
    (due,) = state.apply(entry(2, kind=EntryKind.DIGEST))
    assert isinstance(due, DigestDue)
    assert (due.index, due.digest, due.chain) == (2, before, state.chain)


def test_an_expired_session_is_refused_from_that_entry_on() -> None:
    state = fresh()
    state.apply(entry(1, open_group("a", 1)))
    group = commands_group(PLACES, 0, [1], [put(b"a", b"1")])
    (refused,) = state.apply(entry(2, expire_group(PLACES, 1), group))
    assert isinstance(refused, Refused)
    assert refused.code == Code.UNKNOWN_SESSION
    assert state.query(get(b"a")).endswith(b"\xc0")


def test_sessions_are_part_of_the_digest() -> None:
    one, other = fresh(), fresh()
    one.apply(entry(1, open_group("a", 1)))
    other.apply(entry(1, kind=EntryKind.NOOP))
    assert one.machine.digest() == other.machine.digest()
    assert one.digest() != other.digest()


_command = st.one_of(
    st.builds(put, st.sampled_from([b"a", b"b"]), st.binary(max_size=30)),
    st.builds(append, st.sampled_from([b"a", b"b"]), st.binary(max_size=30)),
    st.builds(cas, st.sampled_from([b"a", b"b"]), st.none() | st.binary(max_size=2), st.binary(max_size=2)),
    st.binary(max_size=6),
)
_group = st.one_of(
    st.builds(open_group, st.just("x"), st.integers(1, 9)),
    st.tuples(
        st.integers(1, 6), st.integers(0, 4), st.lists(st.tuples(st.integers(1, 9), _command), max_size=4)
    ).map(
        lambda drawn: commands_group(
            drawn[0] * PLACES, drawn[1], [seq for seq, _ in drawn[2]], [command for _, command in drawn[2]]
        )
    ),
    st.builds(expire_group, st.integers(1, 6).map(lambda index: index * PLACES), st.integers(1, 20)),
)
_log = st.lists(st.lists(_group, max_size=4), max_size=12)


def said(applied: list) -> list:
    return [one.message if isinstance(one, Opened) else one for one in applied]


@settings(max_examples=120, deadline=None)
@given(_log, _log)
def test_a_snapshot_goes_on_exactly_where_the_state_stood_answers_from_memory_included(
    first: list, then: list
) -> None:
    state = fresh()
    for index, groups in enumerate(first, 1):
        state.apply(entry(index, *groups, term=3))
    chunks = state.snapshot()
    other = fresh()
    other.apply(entry(1, open_group("somebody", 9)))
    other.restore(chunks)
    assert (other.applied_index, other.applied_term) == (state.applied_index, state.applied_term)
    assert (other.chain, other.digest()) == (state.chain, state.digest())
    assert other.snapshot() == chunks
    for index, groups in enumerate(then, len(first) + 1):
        step = entry(index, *groups, term=4)
        assert said(other.apply(step)) == said(state.apply(step))
    assert (other.chain, other.digest()) == (state.chain, state.digest())


def test_a_large_session_table_is_cut_into_chunks() -> None:
    state = fresh()
    state.apply(entry(1, open_group("a", 1)))
    state.apply(entry(2, commands_group(PLACES, 0, [1], [put(b"k", bytes(700_000))])))
    for index in range(3, 7):  # four answers of 700 kB each are remembered
        miss = cas(b"k", b"something else", b"x")
        state.apply(entry(index, commands_group(PLACES, 0, [index], [miss])))
    chunks = state.snapshot()
    assert len(state.sessions.dump()) > 2 * CHUNK
    assert all(len(chunk) <= CHUNK for chunk in chunks)
    other = fresh()
    other.restore(chunks)
    assert other.digest() == state.digest()


def broken() -> list[list[bytes]]:
    state = fresh()
    state.apply(entry(1, open_group("a", 1)))
    head, table, machine = state.snapshot()
    return [
        [],
        [b"\xc1"],
        [b"\x01", table, machine],
        [b"\x95\x02" + head[2:], table, machine],
        [b"\x95\x01\x01\x01\xc4\x00\xa1x", table, machine],
        [b"\x95\x01\x01\x01\xc4\x00\xff", table, machine],
        [b"\x95\x01\x01\x01\xc4\x00\x07", table, machine],
        [head, b"\xc1", machine],
        [head, table, b"\xc1"],
    ]


@pytest.mark.parametrize("number", range(9))
def test_what_is_no_snapshot_is_refused_and_leaves_the_old_state(number: int) -> None:
    state = fresh()
    state.apply(entry(1, open_group("a", 1)))
    state.apply(entry(2, commands_group(PLACES, 0, [1], [put(b"a", b"1")])))
    before = (state.digest(), state.chain, state.applied_index, state.snapshot())
    with pytest.raises(ValueError, match=r"snapshot|table"):
        state.restore(broken()[number])
    assert (state.digest(), state.chain, state.applied_index, state.snapshot()) == before
