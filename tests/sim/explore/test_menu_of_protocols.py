"""What a campaign can meet depends on its protocol: marks that another one alone reaches are not asked for."""

from __future__ import annotations

from sim import marks
from sim.explore.menu import OWN_MARKS, OWN_PLACES, mark_places, menu
from sim.faults.swarm import Options


def test_marks_of_one_protocol_are_not_asked_of_the_other() -> None:
    raft, bft = mark_places("raft"), mark_places("bft")
    assert not [place for place in raft.values() if place.startswith("consensus/bft")]
    assert not [place for place in bft.values() if place.startswith("consensus/raft")]
    assert set(raft) | set(bft) == set(marks.places())
    assert set(raft) & set(bft)
    assert mark_places("mine:Mine") == raft


def test_what_is_said_to_be_a_protocols_own_is_there() -> None:
    places = marks.places()
    assert not [mark for names in OWN_MARKS.values() for mark in names if mark not in places]
    for prefixes in OWN_PLACES.values():
        for prefix in prefixes:
            assert any(place.startswith(prefix) for place in places.values()), prefix


def test_lies_are_on_the_menu_only_where_members_may_lie() -> None:
    assert not [name for name in menu(Options()) if name.startswith("byzantine")]
    assert "byzantine equivocate" in menu(Options("bft", nodes=0))
    assert not [name for name in menu(Options("bft", nodes=3)) if name.startswith("byzantine")]
