"""Each of the five properties holds on a good history and names the counterexample in a bad one."""

from __future__ import annotations

from raft_solo import entries

from consensus.raft.properties import (
    LogView,
    election_safety,
    leader_append_only,
    leader_completeness,
    log_matching,
    state_machine_safety,
)


def view(node: str, *terms: int, base: int = 0) -> LogView:
    return LogView(node, base, entries(*terms, first=base + 1))


def test_election_safety() -> None:
    assert election_safety([(1, "a"), (2, "b"), (1, "a")]) is None
    assert election_safety([(1, "a"), (2, "b"), (1, "c")]) == "term 1 has two leaders: a and c"


def test_leader_append_only() -> None:
    assert leader_append_only(view("a", 1, 2), view("a", 1, 2, 2)) is None
    assert leader_append_only(view("a", 1, 2), view("a", 2, base=1)) is None
    assert leader_append_only(view("a", 1, 2), view("a", 1)) == "leader a: its log shrank from 2 to 1"
    assert leader_append_only(view("a", 1, 2), view("a", 1, 3, 3)) == "leader a: entry 2 was overwritten"


def test_log_matching() -> None:
    assert log_matching(view("a", 1, 2), view("b", 1, 3, 3)) is None
    assert log_matching(view("a", 1, 2, 2), view("b", 2, base=1)) is None
    assert log_matching(view("a", 1, 2), view("b", base=5)) is None
    bad = LogView("b", 0, [entries(9)[0], *entries(2, first=2)])
    assert log_matching(view("a", 1, 2), bad) == "a and b agree behind entry 1 and differ in it"
    other = LogView("b", 0, [entries(1)[0] + b"!"])
    assert log_matching(view("a", 1), other) == "a and b agree behind entry 1 and differ in it"


def test_leader_completeness() -> None:
    committed = dict(enumerate(entries(1, 2), 1))
    assert leader_completeness(committed, view("a", 1, 2, 3)) is None
    assert leader_completeness(committed, view("a", base=2)) is None
    assert (
        leader_completeness(committed, view("a", 1)) == "leader a lacks committed entry 2 (its log ends at 1)"
    )
    assert leader_completeness(committed, view("a", 1, 3)) is not None


def test_state_machine_safety() -> None:
    one, other = entries(1)[0], entries(2)[0]
    assert state_machine_safety({"a": {1: one}, "b": {1: one, 2: other}}) is None
    assert (
        state_machine_safety({"a": {1: one}, "b": {1: other}})
        == "a and b applied different entries at index 1"
    )
