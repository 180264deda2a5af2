from __future__ import annotations

import copy

from hypothesis import given, settings
from hypothesis import strategies as st
from trace_maker import make

from sim.report.divergence import SCHEDULE_KINDS, divergence, lines
from sim.virtual.trace import Moment, Trace

MADE = make(seconds=2).trace
SHARED = [moment for moment in MADE.moments if moment.kind not in SCHEDULE_KINDS]


def test_a_run_does_not_differ_from_itself() -> None:
    assert divergence(MADE, copy.deepcopy(MADE)) is None
    assert list(lines(None)) == ["the two runs do not differ"]


@settings(max_examples=30, derandomize=True)
@given(place=st.integers(0, len(SHARED) - 1), how=st.sampled_from(["data", "later", "missing"]))
def test_the_first_moment_changed_is_the_one_found(place: int, how: str) -> None:
    other = [Moment(m.at, m.kind, m.node, m.peer, m.data) for m in SHARED]
    if how == "data":
        other[place].data = {**other[place].data, "changed": True}
    elif how == "later":
        other[place].at += 1
    else:
        del other[place:]
    found = divergence(Trace(SHARED), Trace(other))
    assert found is not None
    assert (found.common, found.left, found.at) == (place, SHARED[place], SHARED[place].at)
    assert found.before == SHARED[max(place - 8, 0) : place]
    assert found.differs == {"data": ("changed",), "later": ("at",), "missing": ()}[how]
    assert (found.right is None) == (how == "missing")


def test_other_message_numbers_and_another_schedule_are_no_difference() -> None:
    other = [
        Moment(m.at, m.kind, m.node, m.peer, {**m.data, "id": m.data["id"] + 7} if "id" in m.data else m.data)
        for m in SHARED
    ]
    assert divergence(MADE, Trace(other)) is None
    found = divergence(MADE, Trace(other), ignore=())
    assert found is not None
    assert found.left is not None
    assert found.left.kind in SCHEDULE_KINDS


def test_the_runs_stand_side_by_side_with_what_they_share_before() -> None:
    a, b = Trace(), Trace()
    for trace in (a, b):
        trace.tell(10, "send", "n1", "n2", id=1, message="AppendEntries", note="n=1")
    a.tell(30, "deliver", "n1", "n2", id=1)
    b.tell(20, "drop", "n1", "n2", id=1, why="cut")
    a.tell(31, "write", "n2", bytes=4)
    text = list(lines(divergence(a, b), names=("seed 5", "seed 5 without #2"), width=140))
    assert text[0] == "1 moments in common; the runs part at 0.000020 s in at, kind"
    assert text[1].split("|")[1:] == [" seed 5" + " " * 55, " seed 5 without #2"]
    assert text[2].count("n1->n2 AppendEntries n=1") == 2
    assert text[2].startswith("    0.000010 =|")
    assert "!| n1->n2 AppendEntries arrives n=1" in text[3]
    assert "[0.000020] n1->n2 AppendEntries DROPPED: cut n=1" in text[3]
    assert text[4].startswith("    0.000031  | n2 write bytes=4")
    assert all(len(line) <= 140 for line in text)
