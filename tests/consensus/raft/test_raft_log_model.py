"""The log in memory behaves like a plain list of (term, bytes), whatever is done to it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.core import encode_entry
from consensus.raft.log import Log

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(0, 20)),
        st.tuples(st.just("truncate"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("compact"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 30), st.integers(0, 3)),
    ),
    max_size=40,
)


class Naive:
    """Every question answered by looking at everything."""

    def __init__(self) -> None:
        self.base, self.base_term = 0, 0
        self.items: list[tuple[int, bytes]] = []

    @property
    def last(self) -> int:
        return self.base + len(self.items)

    def term(self, index: int) -> int:
        return self.base_term if index == self.base else self.items[index - self.base - 1][0]

    def size(self, after: int, last: int) -> int:
        return sum(len(data) for _, data in self.items[after - self.base : last - self.base])


def play(moves: list[Any]) -> tuple[Log, Naive]:
    log, naive = Log(), Naive()
    for what, a, b in moves:
        if what == "append":
            term = naive.term(naive.last) + a
            entry = encode_entry(naive.last + 1, term, 1, bytes(b))
            log.append(entry, term)
            naive.items.append((term, entry))
        elif what == "truncate":
            last = naive.base + a % (len(naive.items) + 1)
            log.truncate(last)
            del naive.items[last - naive.base :]
        elif what == "compact":
            index = naive.base + a % (len(naive.items) + 1)
            term = naive.term(index)
            log.compact(index)
            del naive.items[: index - naive.base]
            naive.base, naive.base_term = index, term
        else:
            log.restart(a, b)
            naive.base, naive.base_term, naive.items = a, b, []
    return log, naive


@given(steps)
@settings(max_examples=80, deadline=None)
def test_a_log_answers_like_a_list(moves: list[Any]) -> None:
    log, naive = play(moves)
    places = range(naive.base, naive.last + 1)
    assert (log.base_index, log.last_index, log.last_term) == (naive.base, naive.last, naive.term(naive.last))
    assert log.slice(naive.base + 1, naive.last) == [entry for _, entry in naive.items]
    for index in places:
        assert log.term_at(index) == naive.term(index)
        assert log.agrees(index, naive.term(index))
        assert not log.agrees(index, naive.term(index) + 1)
        for last in range(index, naive.last + 1):
            assert log.bytes_between(index, last) == naive.size(index, last)
    assert not log.agrees(naive.last + 1, naive.term(naive.last))
    assert not log.agrees(naive.base - 1, naive.base_term)


@given(steps, st.integers(0, 120))
@settings(max_examples=60, deadline=None)
def test_the_bounds_by_bytes_are_the_best_ones(moves: list[Any], size: int) -> None:
    log, naive = play(moves)
    for index in range(naive.base, naive.last + 1):
        fits = [last for last in range(index, naive.last + 1) if naive.size(index, last) <= size]
        assert log.last_within(index, size) == min(max(fits[-1], index + 1), naive.last)
        tails = [first for first in range(naive.base, index + 1) if naive.size(first, index) <= size]
        assert log.first_with_tail(index, size) == tails[0]


@given(steps, st.integers(0, 60), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_the_highest_place_of_no_later_term(moves: list[Any], above: int, term: int) -> None:
    log, naive = play(moves)
    index = naive.base + above
    found = [
        place for place in range(naive.base + 1, min(index, naive.last) + 1) if naive.term(place) <= term
    ]
    assert log.highest_with_term_at_most(index, term) == (found[-1] if found else naive.base)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_term_that_is_not_in_memory_is_an_error(index: int) -> None:
    log = Log(0, 0)
    log.append(encode_entry(1, 1, 0, b""), 1)
    with pytest.raises(IndexError, match=r"not in memory \(1..1\)"):
        log.term_at(index)
