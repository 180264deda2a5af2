"""Exactly once: what the session table lets take effect, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import Code, Outcome, Refused, SessionOpened
from node.sessions import (
    PLACES,
    Sessions,
    commands_group,
    decode_block,
    encode_block,
    expire_group,
    open_group,
)

CHAIN = b"c" * 32


class Tally:
    """Where commands take effect: a list of them, whose length is the result."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def __call__(self, commands: Sequence[bytes]) -> list[bytes]:
        results = []
        for command in commands:
            self.taken.append(command)
            results.append(b"%d" % len(self.taken))
        return results


def chain(index: int) -> bytes:
    return b"%032d" % index


def apply(
    table: Sessions, tally: Tally, index: int, name: int, seqs: Sequence[int], low: int = 0, place: int = 0
) -> list[Outcome | Refused]:
    group = commands_group(name, low, seqs, [b"%d" % seq for seq in seqs])
    return table.apply(group, index, place, chain(index), tally)


def test_new_numbers_take_effect_together_in_their_order_whatever_it_is() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    (outcome,) = apply(table, tally, 2, name, [1, 2, 5], place=7)
    assert outcome == Outcome(name, 2, chain(2), [1, 2, 5], [7, 8, 9], [b"1", b"2", b"3"])
    apply(table, tally, 3, name, [4, 3])
    assert tally.taken == [b"1", b"2", b"5", b"4", b"3"]


def test_a_number_seen_before_is_answered_from_memory_with_its_first_place_and_chain_value() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    apply(table, tally, 2, name, [2], place=3)
    again = apply(table, tally, 4, name, [1, 2, 3], place=10)
    assert again == [
        Outcome(name, 4, chain(4), [1], [10], [b"2"]),
        Outcome(name, 2, chain(2), [2], [3], [b"1"]),
        Outcome(name, 4, chain(4), [3], [12], [b"3"]),
    ]
    assert tally.taken == [b"2", b"1", b"3"]


def test_one_number_twice_in_one_group_takes_effect_once() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    answers = apply(table, tally, 2, name, [1, 1])
    assert tally.taken == [b"1"]
    assert [answer.places for answer in answers] == [[0], [0]]  # type: ignore[union-attr]


def test_what_the_client_has_settled_is_forgotten_and_never_done_again() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    apply(table, tally, 2, name, [1, 2, 3])
    apply(table, tally, 3, name, [4], low=3)
    (refused,) = apply(table, tally, 4, name, [2, 3], low=0)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.seqs) == (Code.FORGOTTEN, [2, 3])
    assert tally.taken == [b"1", b"2", b"3", b"4"]
    (known,) = apply(table, tally, 5, name, [4], low=1)
    assert isinstance(known, Outcome)
    assert known.index == 3


def test_a_number_below_the_settled_ones_that_never_took_effect_does_not_do_so_late() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    apply(table, tally, 2, name, [9], low=8)
    (refused,) = apply(table, tally, 3, name, [5], low=0)
    assert isinstance(refused, Refused)
    assert tally.taken == [b"9"]
    apply(table, tally, 4, name, [10], low=20)
    (refused,) = apply(table, tally, 5, name, [15, 16], low=0)
    assert isinstance(refused, Refused)
    assert tally.taken == [b"9", b"10"]


def test_settling_very_far_ahead_costs_no_more_than_what_is_remembered() -> None:
    table, tally = Sessions(9), Tally()
    name = table.open(1, 0, chain(1), 5).session
    apply(table, tally, 2, name, [1, 2])
    apply(table, tally, 3, name, [(1 << 62) + 1], low=1 << 62)
    (known,) = apply(table, tally, 4, name, [(1 << 62) + 1])
    assert isinstance(known, Outcome)
    assert len(table.dump()) < 200


def test_an_unknown_session_takes_no_effect_and_is_not_made_up() -> None:
    table, tally = Sessions(9), Tally()
    (refused,) = apply(table, tally, 2, 77, [1, 2])
    assert isinstance(refused, Refused)
    assert (refused.code, refused.seqs, refused.session) == (Code.UNKNOWN_SESSION, [1, 2], 77)
    assert not tally.taken
    assert len(table) == 0


def test_a_full_table_forgets_who_has_been_idle_for_the_longest_part_of_the_log() -> None:
    table, tally = Sessions(3), Tally()
    first, second, third = (table.open(index, 0, chain(index), 0).session for index in (1, 2, 3))
    apply(table, tally, 4, first, [1])
    apply(table, tally, 5, second, [1])
    fourth = table.open(6, 0, chain(6), 0).session
    assert list(table.last_used()) == [first, second, fourth]
    (refused,) = apply(table, tally, 7, third, [1])
    assert isinstance(refused, Refused)


def test_a_repeated_command_keeps_a_session_from_expiring_too() -> None:
    table, tally = Sessions(3), Tally()
    name = table.open(1, 0, chain(1), 0).session
    apply(table, tally, 2, name, [1])
    apply(table, tally, 3, name, [1])
    table.expire(name, 2)
    assert len(table) == 1
    table.expire(name, 3)
    assert len(table) == 0
    table.expire(name, 3)


def test_sessions_of_one_entry_have_names_of_their_own() -> None:
    table = Sessions(9)
    names = [table.open(4, place, chain(4), place).session for place in (0, 1, 2)]
    assert names == [4 * PLACES, 4 * PLACES + 1, 4 * PLACES + 2]


# ------------------------------------------------------------------------------------------------------------- laws


class Client:
    """Sends numbers in any order and as often as it likes, settles those that it has an outcome of."""

    def __init__(self, name: int) -> None:
        self.name = name
        self.known: dict[int, tuple[Any, ...]] = {}
        self.low = 0

    def hear(self, answers: list[Outcome | Refused]) -> None:
        for answer in answers:
            if isinstance(answer, Refused):
                assert answer.code == Code.FORGOTTEN
                assert all(seq <= self.low for seq in answer.seqs)
                continue
            for seq, place, result in zip(answer.seqs, answer.places, answer.results, strict=True):
                said = (answer.index, place, answer.chain, result)
                assert self.known.setdefault(seq, said) == said

    def settle(self) -> None:
        while self.low + 1 in self.known:
            self.low += 1


_batch = st.tuples(
    st.integers(0, 2),  # which client
    st.lists(st.integers(1, 14), min_size=1, max_size=6),  # numbers, in any order, repeated
    st.booleans(),  # does the answer get through?
    st.booleans(),  # does the client settle first, or is this an old copy with an old `low`?
    st.booleans(),  # is the table stored and loaded in between?
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_batch, max_size=30))
def test_any_interleaving_of_copies_takes_effect_exactly_once_and_always_gets_the_same_answer(
    batches: list,
) -> None:
    table, tally = Sessions(9), Tally()
    clients = [Client(table.open(1, place, chain(1), place).session) for place in range(3)]
    effects: list[tuple[int, int]] = []
    for index, (who, seqs, heard, settles, stored) in enumerate(batches, 2):
        client = clients[who]
        if settles:
            client.settle()
        before = len(tally.taken)
        answers = apply(table, tally, index, client.name, seqs, low=client.low if settles else 0)
        effects += [(who, int(command)) for command in tally.taken[before:]]
        settled = client.low
        answered = [seq for answer in answers for seq in answer.seqs]
        assert sorted(answered) == sorted(seqs), "every number is answered"
        if heard:
            client.hear(answers)
        assert client.low == settled
        if stored:
            dump = table.dump()
            table = Sessions(9)
            table.load(dump)
            assert table.dump() == dump
    assert len(effects) == len(set(effects)), "a number took effect twice"
    for who, client in enumerate(clients):
        assert set(client.known) <= {seq for one, seq in effects if one == who}


@settings(max_examples=100, deadline=None)
@given(st.lists(_batch, max_size=20))
def test_how_numbers_are_grouped_makes_no_difference_to_what_takes_effect(batches: list) -> None:
    """The common case is handled in one go; the result is that of one number at a time."""
    together, apart = Sessions(9), Sessions(9)
    tallies = Tally(), Tally()
    names = [together.open(1, place, chain(1), 0).session for place in range(3)]
    for place in range(3):
        apart.open(1, place, chain(1), 0)
    for index, (who, seqs, _, _, _) in enumerate(batches, 2):
        numbered = sorted(seqs) if index % 2 else seqs
        apply(together, tallies[0], index, names[who], numbered)
        for place, seq in enumerate(numbered):
            apply(apart, tallies[1], index, names[who], [seq], place=place)
    assert tallies[0].taken == tallies[1].taken
    assert together.dump() == apart.dump()


_int = st.integers(0, (1 << 63) - 1)
_group = st.one_of(
    st.integers(0, 5).flatmap(
        lambda size: st.builds(
            commands_group,
            _int,
            _int,
            st.lists(_int, min_size=size, max_size=size),
            st.lists(st.binary(max_size=40), min_size=size, max_size=size),
        )
    ),
    st.builds(open_group, st.text(max_size=10), _int),
    st.builds(expire_group, _int, _int),
)


@given(st.lists(_group, max_size=8))
def test_a_block_reads_back_as_it_was_written(groups: list) -> None:
    assert [tuple(group) for group in decode_block(encode_block(groups))] == groups


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x01", b"\x91\x01", b"\x91\x90", encode_block([])[:-1] + b"\x91"]
)
def test_what_is_no_block_is_corruption_and_says_so(payload: bytes) -> None:
    with pytest.raises(ValueError, match="block"):
        decode_block(payload)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91\x01", b"\x91\x95\x01\x02\x03\x04\x05"])
def test_what_is_no_table_is_refused_and_leaves_the_old_one(data: bytes) -> None:
    table = Sessions(9)
    table.open(1, 0, chain(1), 0)
    before = table.dump()
    with pytest.raises(ValueError, match="no session table"):
        table.load(data)
    assert table.dump() == before


_use = st.one_of(
    st.tuples(st.just("open"), st.sampled_from([b"", b"a" * 32, b"b" * 32])),
    st.tuples(st.just("use"), st.integers(0, 9)),
    st.tuples(st.just("expire"), st.integers(0, 9)),
    st.tuples(st.just("reload")),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.lists(_use, max_size=120))
def test_a_full_table_always_forgets_the_one_least_lately_used_whatever_came_before(
    most: int, steps: list
) -> None:
    table, tally = Sessions(most), Tally()
    model: dict[int, tuple[int, bytes]] = {}
    for index, step in enumerate(steps, 1):
        names = list(model)
        if step[0] == "open":
            key = step[1]
            if len(model) == most:
                del model[min(model, key=lambda name: (model[name][0], name))]
            opened = (
                table.open_signed(index, 0, chain(index), key, index)
                if key
                else table.open(index, 0, chain(index), index)
            )
            assert isinstance(opened, SessionOpened)
            model[opened.session] = (index, key)
        elif step[0] == "use" and names:
            name = names[step[1] % len(names)]
            group = commands_group(name, 0, [index], [b"x"])
            table.apply(group, index, 0, chain(index), tally, model[name][1])
            model[name] = (index, model[name][1])
        elif step[0] == "expire" and names:
            name = names[step[1] % len(names)]
            table.expire(name, model.pop(name)[0])
        elif step[0] == "reload":
            data, table = table.dump(), Sessions(most)
            table.load(data)
        assert table.last_used() == {name: used for name, (used, _) in model.items()}
        newest = {key: name for name, (_, key) in model.items() if key}  # they were opened in this order
        for key in (b"a" * 32, b"b" * 32):
            known = table.recall_opening(key, 1 << 40)
            assert known is None
            assert table._newest.get(key) == newest.get(key)
        assert len(table._idle) <= 2 * len(table) + 65 + index
