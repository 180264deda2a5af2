"""Liars as people write them: by number or name, with the strategies that there are, and no more than a committee stands."""

from __future__ import annotations

import pytest

from sim.byzantine.client_lies import STRATEGIES
from sim.byzantine.naming import LiarsError, check, parse, strategy_name

NODES = ["n1", "n2", "n3", "n4"]


def test_a_node_is_named_by_number_or_name_and_a_strategy_with_blanks_or_hyphens() -> None:
    assert parse("2:equivocate", NODES) == {"n2": "equivocate"}
    assert parse(" n4:slow-leader , 1:lies to clients", NODES) == {
        "n4": "slow leader",
        "n1": "lies to clients",
    }
    assert parse("none", NODES) == {}


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_can_be_written_without_blanks(name: str) -> None:
    assert strategy_name(name.replace(" ", "-")) == name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2", "write NODE:STRATEGY"),
        (":silent", "write NODE:STRATEGY"),
        ("0:silent", "no node '0'; there are: n1, n2, n3, n4"),
        ("5:silent", "no node '5'"),
        ("n9:silent", "no node 'n9'"),
        ("2:silence", "did you mean 'silent'?"),
        ("2:", "There are: silent, equivocate"),
        ("2:silent,n2:late", "n2 is named twice"),
    ],
)
def test_what_nobody_can_do_is_refused_with_what_there_is(text: str, words: str) -> None:
    with pytest.raises(LiarsError) as caught:
        parse(text, NODES)
    assert words in str(caught.value)


def test_no_more_may_lie_than_the_committee_stands_and_nobody_where_nodes_are_believed() -> None:
    check({}, NODES, None)
    check({"n2": "silent"}, NODES, 1)
    for liars, lie, words in (
        ({"n2": "silent", "n3": "late"}, 1, "2 liars (n2, n3) among 4 nodes: this committee stands 1"),
        ({"n2": "silent"}, 0, "stands 0"),
        ({"n2": "silent"}, None, "take bft"),
        ({"n7": "silent"}, 1, "no node 'n7'"),
        ({"n2": "fibs"}, 1, "no strategy 'fibs'"),
    ):
        with pytest.raises(LiarsError) as caught:
            check(liars, NODES, lie)
        assert words in str(caught.value)
