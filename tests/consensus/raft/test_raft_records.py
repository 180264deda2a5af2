"""Reading a journal back: what it means, and what it must not be allowed to mean."""

from __future__ import annotations

import pytest
from raft_solo import entries

from consensus.core import Record
from consensus.raft import records
from consensus.raft.records import BASE, COMMIT, ENTRY, HARD_STATE, replay


def log(*terms: int, first: int = 1) -> list[Record]:
    return [(ENTRY, entry) for entry in entries(*terms, first=first)]


def test_an_empty_journal_is_a_fresh_server() -> None:
    replayed = replay([])
    assert (replayed.term, replayed.voted_for, replayed.last_index, replayed.last_term) == (0, None, 0, 0)


def test_the_last_hard_state_counts() -> None:
    replayed = replay([records.hard_state(1, None), records.hard_state(1, "n2"), records.hard_state(4, None)])
    assert (replayed.term, replayed.voted_for) == (4, None)


def test_an_entry_replaces_what_stood_at_its_index_and_behind() -> None:
    replayed = replay([*log(1, 1, 1), *log(2, first=2)])
    assert replayed.terms == [1, 2]
    assert replayed.entries == [entries(1)[0], entries(2, first=2)[0]]


def test_a_base_keeps_what_continues_it_and_drops_what_does_not() -> None:
    assert replay([*log(1, 1, 2), records.base(2, 1)]).terms == [2]
    assert replay([*log(1, 1, 2), records.base(2, 2)]).terms == []
    assert replay([*log(1, 1, 2), records.base(7, 2)]).last_index == 7
    assert replay([records.base(7, 2), records.base(3, 1)]).base_index == 7


def test_the_highest_commit_hint_counts() -> None:
    assert replay([*log(1, 1), records.commit(2), records.commit(1)]).commit == 2


@pytest.mark.parametrize(
    ("journal", "reason"),
    [
        ([records.hard_state(3, None), records.hard_state(2, None)], "goes back from 3 to 2"),
        ([records.hard_state(3, "n1"), records.hard_state(3, "n2")], "vote of term 3 changes from n1 to n2"),
        (
            [records.hard_state(3, "n1"), records.hard_state(3, None)],
            "vote of term 3 changes from n1 to None",
        ),
        (log(1, first=2), "entry 2 follows entry 0: a gap"),
        ([records.base(5, 1), *log(1, first=5)], "entry 5 stands below the base 5"),
        ([*log(2), *log(1, first=2)], "entry 2 has term 1, the one before it 2"),
        ([records.base(5, 3), *log(2, first=6)], "entry 6 has term 2, the one before it 3"),
        ([*log(1, 1), records.commit(2), *log(2, first=2)], "entry 2 is replaced"),
        ([(9, b"")], "unknown record kind 9"),
        ([(ENTRY, b"short")], "an entry has a header"),
        ([(HARD_STATE, b"x")], "record 0"),
        ([(BASE, b"x")], "record 0"),
        ([(COMMIT, b"")], "record 0"),
        ([(HARD_STATE, bytes(8) + b"\xff")], "record 0"),
    ],
)
def test_a_journal_that_contradicts_itself_is_refused_with_the_record_and_the_reason(
    journal: list[Record], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"journal record.*{reason}|{reason}"):
        replay(journal)
