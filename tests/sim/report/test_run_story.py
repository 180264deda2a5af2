from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.faults.fault import Fault
from sim.report.facts import RunFacts, clean, natural
from sim.report.overview import pack
from sim.report.story import tell
from sim.virtual.trace import Trace

NODES = ["n1", "n2", "n3"]
FACTS = RunFacts(seed=1, command="x", nodes=NODES, domains={"n1": "a", "n2": "a", "n3": "b"})

steps = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from(["send", "deliver", "drop", "role", "log", "boot", "down", "pause"]),
        st.sampled_from(NODES),
        st.integers(1, 6),
    ),
    max_size=60,
)


def played(rows: list[tuple[int, str, str, int]]) -> Trace:
    trace, at = Trace(), 0
    for wait, kind, node, number in rows:
        at += wait
        trace.tell(
            at, kind, node, NODES[number % 3], id=number, role="leader", term=number, why="power", until=at + 20,
            commit_index=number,
        )  # fmt: skip
    return trace


@settings(max_examples=80, derandomize=True)
@given(rows=steps)
def test_whatever_is_told_no_state_overlaps_itself_and_no_message_is_lost(rows: list) -> None:
    trace = played(rows)
    story = tell(trace, [], [], FACTS)
    kinds = Counter(moment.kind for moment in trace.moments)
    outcomes = Counter(message.outcome for message in story.messages)
    assert (outcomes["delivered"], outcomes["dropped"]) == (kinds["deliver"], kinds["drop"])
    assert kinds["send"] <= sum(outcomes.values()) <= kinds["send"] + kinds["deliver"] + kinds["drop"]
    assert len(story.logs) == kinds["log"]
    for spans in (story.roles, story.downs):
        for node in NODES:
            own = [span for span in spans if span.node == node]
            assert all(span.begin <= span.end <= story.end for span in own)
            assert all(one.end <= two.begin for one, two in pairwise(own))
    for role in story.roles:
        for down in story.downs:
            assert role.node != down.node or role.end <= down.begin or down.end <= role.begin
    for _, begin, end, _ in story.power:
        assert story.begin <= begin < end <= story.end


@settings(max_examples=60, derandomize=True)
@given(rows=steps)
def test_an_entry_is_committed_at_the_first_moment_that_some_node_knew(rows: list) -> None:
    trace = played(rows)
    story = tell(trace, [], [], FACTS)
    for index in range(1, 8):
        known = [m.at for m in trace.moments if m.kind == "log" and m.data["commit_index"] >= index]
        assert story.committed_at(index) == (known[0] if known else None)


def test_a_domain_is_dark_in_part_until_all_of_its_nodes_are_down() -> None:
    trace = Trace()
    trace.tell(10, "down", "n1", why="power")
    trace.tell(12, "down", "n2", why="power")
    trace.tell(15, "down", "n3", why="kill")
    trace.tell(30, "boot", "n1", life=2)
    trace.tell(40, "boot", "n2", life=2)
    assert tell(trace, [], [], FACTS).power == [
        ("a", 10, 12, False),
        ("a", 12, 30, True),
        ("a", 30, 40, False),
    ]


def test_a_fault_that_never_ended_lasts_to_the_end_and_one_that_never_began_is_told_as_planned() -> None:
    trace = Trace()
    trace.tell(10, "fault", number=4, name="clog", text="")
    trace.tell(20, "bite", number=4)
    trace.tell(50, "mark", name="x")
    faults = tell(trace, [], [Fault(4, "clog", 9, 30), Fault(7, "halves", 60, 90)], FACTS).faults
    assert [(band.number, band.begin, band.end, band.bites, band.happened) for band in faults] == [
        (4, 10, 50, 1, True),
        (7, 60, 90, 0, False),
    ]


@settings(max_examples=80, derandomize=True)
@given(spans=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=30), most=st.integers(1, 6))
def test_packing_uses_no_more_rows_than_allowed_and_overlaps_only_when_it_must(
    spans: list[tuple[int, int]], most: int
) -> None:
    own = sorted((begin, begin + length) for begin, length in spans)
    rows = pack(own, most)
    assert all(row < most for row in rows)
    at_once = max((sum(b <= begin < e for b, e in own) for begin, _ in own), default=0)
    if at_once <= most:
        assert len(set(rows)) == at_once
        for place, (begin, _) in enumerate(own):
            assert all(own[n][1] <= begin for n in range(place) if rows[n] == rows[place])


@settings(max_examples=100, derandomize=True)
@given(text=st.text())
def test_clean_text_is_one_printable_line_of_bounded_length(text: str) -> None:
    assert clean(text).isprintable()
    assert len(clean(text, 20)) <= 20 * 10
    assert clean(text) == text or not text.isprintable() or len(text) > 400


def test_names_sort_as_people_count() -> None:
    assert sorted(["c10", "c2", "b", "c2x", "7"], key=natural) == ["7", "b", "c2", "c2x", "c10"]
