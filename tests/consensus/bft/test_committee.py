"""Any two quorums share an honest member, and those that are left when u stop are one."""

from __future__ import annotations

from itertools import combinations

import pytest

from consensus.bft.committee import Committee, CommitteeError

NAMES = tuple("abcdefghij")


def least_shared(size: int, quorum: int) -> int:
    """Members that two quorums share at the least, by trying all pairs. One quorum may be fixed: names do not matter."""
    one = set(range(quorum))
    return min(len(one.intersection(other)) for other in combinations(range(size), quorum))


@pytest.mark.parametrize("size", range(1, 11))
def test_a_committee_is_refused_exactly_where_no_quorum_size_is_safe_and_live(size: int) -> None:
    shared = {quorum: least_shared(size, quorum) for quorum in range(1, size + 1)}
    for stop in range(size + 1):
        for lie in range(stop + 1):
            good = [quorum for quorum in shared if shared[quorum] > lie and size - stop >= quorum]
            if good:
                committee = Committee("c", 1, NAMES[:size], stop, lie)
                assert committee.quorum == min(good)
                assert committee.honest == lie + 1
            else:
                with pytest.raises(CommitteeError) as caught:
                    Committee("c", 1, NAMES[:size], stop, lie)
                assert f"It takes {2 * stop + lie + 1} members" in str(caught.value)
                enough = 2 * stop + lie + 1
                if enough <= len(NAMES):
                    assert Committee("c", 1, NAMES[:enough], stop, lie).quorum == enough - stop


@pytest.mark.parametrize(
    ("size", "stop", "lie", "quorum"),
    [
        (4, 1, 1, 3),
        (7, 2, 2, 5),
        (10, 3, 3, 7),
        (6, 2, 1, 4),
        (3, 1, 0, 2),
        (5, 2, 0, 3),
        (5, 1, 1, 4),
        (1, 0, 0, 1),
    ],
)
def test_the_known_committees_have_the_known_quorums(size: int, stop: int, lie: int, quorum: int) -> None:
    assert Committee("c", 1, NAMES[:size], stop, lie).quorum == quorum


@pytest.mark.parametrize("size", range(1, 11))
def test_a_usual_committee_stands_as_many_liars_as_there_can_be(size: int) -> None:
    committee = Committee.usual("c", 1, NAMES[:size])
    assert committee.stop == committee.lie == (size - 1) // 3
    assert committee.members == NAMES[:size]
    with pytest.raises(CommitteeError):
        Committee("c", 1, NAMES[:size], committee.stop + 1, committee.lie + 1)


def test_a_refusal_shows_the_two_quorums_and_how_many_they_would_have_to_share() -> None:
    with pytest.raises(CommitteeError) as caught:
        Committee("c", 1, tuple("abcde"), 2, 1)
    text = str(caught.value)
    assert "two quorums of 3" in text
    assert "share as few as 1 members, and 2 are needed" in text
    assert "It takes 6 members" in text


@pytest.mark.parametrize(
    ("members", "stop", "lie", "text"),
    [
        ((), 0, 0, "at least one"),
        (("a", "b", "a", "c"), 1, 1, "distinct"),
        (("a", "b", "c", "d"), 1, 2, "between none and 1"),
        (("a", "b", "c", "d"), 1, -1, "between none and 1"),
        (("a", "b", "c", "d"), -1, 0, "between none and -1"),
    ],
)
def test_nonsense_is_refused(members: tuple[str, ...], stop: int, lie: int, text: str) -> None:
    with pytest.raises(CommitteeError, match=text):
        Committee("c", 1, members, stop, lie)


def test_a_member_counts_once_and_a_stranger_not_at_all() -> None:
    committee = Committee.usual("c", 1, NAMES[:4])
    assert committee.count(["a", "a", "b", "x", "y"]) == 2
    assert not committee.is_quorum(["a", "a", "a", "x", "y", "z"])
    assert not committee.is_quorum(["a", "b", "x"])
    assert committee.is_quorum(["c", "b", "a"])
