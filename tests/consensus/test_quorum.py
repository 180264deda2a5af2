"""Quorums: any two share a member, and nobody counts twice."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus import quorum


@pytest.mark.parametrize("size", range(1, 8))
def test_any_two_majorities_share_a_member_and_one_member_less_is_none(size: int) -> None:
    members = [f"n{number}" for number in range(size)]
    need = quorum.majority(members)
    for one in combinations(members, need):
        assert quorum.has_majority(members, one)
        for other in combinations(members, need):
            assert set(one) & set(other)
    assert not quorum.has_majority(members, members[: need - 1])


def test_a_member_counts_once_and_a_stranger_not_at_all() -> None:
    assert not quorum.has_majority(["a", "b", "c"], ["a", "a", "x", "y"])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7))
@settings(max_examples=100)
def test_what_a_majority_has_reached_is_the_highest_such_value(values: list[int]) -> None:
    members = list("abcdefg")[: len(values)]
    index = quorum.reached_by_majority(values)
    assert sum(value >= index for value in values) >= quorum.majority(members)
    assert sum(value > index for value in values) < quorum.majority(members)


def test_domains_whose_loss_leaves_no_majority_are_named() -> None:
    assert quorum.holders_of_quorum({"a": "x", "b": "x", "c": "y"}) == ["x"]
    assert quorum.holders_of_quorum({"a": "x", "b": "y", "c": "z"}) == []
    assert quorum.holders_of_quorum({"a": "x", "b": "x", "c": "y", "d": "y", "e": "z"}) == []
