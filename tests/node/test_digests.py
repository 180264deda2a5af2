"""Who has diverged, as far as the reports of the members tell."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from node.digests import KEPT, DigestWatch
from node.protocol import DigestReport

GOOD, BAD, WORSE = b"g" * 32, b"b" * 32, b"w" * 32
CHAIN = b"c" * 32


def report(index: int, digest: bytes = GOOD, chain: bytes = CHAIN) -> DigestReport:
    return DigestReport(index, digest, chain)


def watch(size: int = 3) -> DigestWatch:
    return DigestWatch("n1", [f"n{i}" for i in range(1, size + 1)])


def test_the_odd_one_is_named_once_as_soon_as_a_majority_agrees_without_it() -> None:
    one = watch()
    assert one.add("n3", report(5, BAD)) == []
    (split,) = one.add("n2", report(5))
    assert split.node is None
    (found,) = one.add("n1", report(5))
    assert (found.node, found.index, found.forked) == ("n3", 5, False)
    assert "n3" in str(found)
    assert "state digest" in str(found)
    assert one.add("n3", report(5, BAD)) == []
    (again,) = [*one.add("n1", report(9)), *one.add("n2", report(9)), *one.add("n3", report(9, BAD))]
    assert again.index == 9


def test_a_node_finds_itself_odd() -> None:
    one = watch()
    one.add("n1", report(5, BAD))
    one.add("n2", report(5))
    (found,) = one.add("n3", report(5))
    assert found.node == "n1"
    assert one.agreed_index == 0


def test_another_history_with_the_same_digest_is_a_fork() -> None:
    one = watch()
    one.add("n1", report(5))
    one.add("n2", report(5))
    (found,) = one.add("n3", report(5, GOOD, b"d" * 32))
    assert found.forked
    assert "history" in str(found)


def test_without_a_majority_a_difference_is_told_once_and_condemns_nobody() -> None:
    one = watch(5)
    one.add("n1", report(5))
    (split,) = one.add("n2", report(5, BAD))
    assert split.node is None
    assert "no majority" in str(split)
    assert one.add("n3", report(5, WORSE)) == []
    assert one.add("n4", report(5, WORSE)) == []
    assert [finding.node for finding in one.add("n5", report(5, WORSE))] == ["n1", "n2"]


def test_a_minority_that_agrees_among_itself_is_no_majority_of_the_members() -> None:
    one = watch(5)
    one.add("n1", report(5))
    one.add("n2", report(5))
    assert one.agreed_index == 0
    one.add("n3", report(5))
    assert one.agreed_index == 5


def test_reports_of_strangers_count_for_nothing() -> None:
    one = watch()
    for stranger in ("n8", "n9"):
        assert one.add(stranger, report(5, BAD)) == []
    assert one.add("n1", report(5)) == []
    assert one.add("n2", report(5)) == []
    assert one.agreed_index == 5


def test_a_member_that_repeats_itself_is_one_vote() -> None:
    one = watch()
    for _ in range(5):
        one.add("n2", report(5, BAD))
    one.add("n1", report(5))
    assert [finding.node for finding in one.add("n3", report(5))] == ["n2"]


def test_a_replica_that_has_healed_is_measured_by_what_it_says_now() -> None:
    one = watch()
    one.add("n1", report(5))
    one.add("n2", report(5))
    assert len(one.add("n3", report(5, BAD))) == 1
    assert one.add("n3", report(5)) == []
    assert one.add("n1", report(5)) == []


def test_stale_reports_of_marks_compared_long_ago_change_nothing() -> None:
    one = watch()
    for index in range(100, 100 + KEPT):
        one.add("n1", report(index))
        one.add("n2", report(index))
    assert one.add("n3", report(7, BAD)) == []
    assert one.add("n3", report(100)) == [], "the oldest mark is still there"
    one.add("n3", report(500, BAD))
    assert one.add("n3", report(100, BAD)) == [], "now it is not"
    assert one.agreed_index == 99 + KEPT


def test_a_mark_that_arrives_late_here_never_takes_the_agreed_index_back() -> None:
    one = watch()
    for member in ("n1", "n2"):
        one.add(member, report(9))
    for member in ("n1", "n2"):
        one.add(member, report(5))
    assert one.agreed_index == 9


_report = st.tuples(
    st.integers(1, 5),
    st.integers(1, 40),
    st.sampled_from([GOOD, GOOD, BAD, WORSE]),
    st.sampled_from([CHAIN, b"d" * 32]),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(_report, max_size=120))
def test_nobody_is_ever_named_whose_report_a_majority_shares_and_memory_is_bounded(reports: list) -> None:
    one = watch(5)
    said: dict[int, dict[str, tuple[bytes, bytes]]] = {}
    named = set()
    for member, index, digest, chain in reports:
        said.setdefault(index, {})[f"n{member}"] = (digest, chain)
        for found in one.add(f"n{member}", report(index, digest, chain)):
            assert (found.node, found.index) not in named or len(named) > KEPT
            named.add((found.node, found.index))
            if found.node is not None:
                values = list(said[index].values())
                best = max(values, key=values.count)
                assert values.count(best) >= 3
                assert said[index][found.node] != best
    assert len(one._marks) <= KEPT
