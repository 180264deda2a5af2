from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from trace_maker import make

from sim.report.facts import RunFacts, Violation
from sim.report.terminal import TerminalError, legend, lines, show
from sim.virtual.trace import KINDS, Trace

ROW = re.compile(r" *(\d+)\.(\d{6})  ")


def rows(text: list[str]) -> list[tuple[int, str]]:
    found = [(ROW.match(line), line) for line in text]
    return [(int(match[1]) * 1_000_000 + int(match[2]), line) for match, line in found if match]


def facts(**more: object) -> RunFacts:
    return RunFacts(seed=1, command="replay 1", nodes=["n1", "n2"], domains={"n1": "a", "n2": "b"}, **more)  # type: ignore[arg-type]


def test_every_moment_is_one_line_in_the_order_of_time() -> None:
    made = make(seconds=4)
    found = rows(list(lines(made.trace, made.facts)))
    assert [at for at, _ in found] == [moment.at for moment in made.trace.moments]
    assert len(found) > 5_000


def test_every_kind_of_moment_has_words_of_its_own() -> None:
    trace = Trace()
    for place, kind in enumerate(KINDS):
        trace.tell(place, kind, "n1", "n2", id=place, name="the name", why="cut")
    found = rows(list(lines(trace, facts())))
    assert len(found) == len(KINDS) == len({line.split("  ", 2)[2] for _, line in found})


def test_the_columns_follow_role_down_and_pause_even_through_moments_that_are_not_shown() -> None:
    trace = Trace()
    trace.tell(0, "role", "n1", role="leader", term=7, leader="n1")
    trace.tell(1, "role", "n2", role="follower", term=7, leader="n1")
    trace.tell(2, "pause", "n1", until=10)
    trace.tell(3, "mark", "n2", name="a")
    trace.tell(11, "mark", "n2", name="b")
    trace.tell(12, "down", "n1", why="power")
    trace.tell(13, "mark", "n2", name="c")
    trace.tell(14, "boot", "n1", life=2)
    trace.tell(15, "mark", "n2", name="d")
    shown = [line[14:28].split() for _, line in rows(list(lines(trace, facts(), kinds=["mark"])))]
    assert shown == [["==", "f7", "m"], ["L7", "f7", "m"], ["##", "f7", "m"], ["?", "f7", "m"]]


def test_a_message_names_both_ends_and_an_arrival_says_what_arrived() -> None:
    trace = Trace()
    trace.tell(0, "send", "n1", "n2", id=1, message="AppendEntries", note="prev=4")
    trace.tell(5, "deliver", "n1", "n2", id=1)
    trace.tell(6, "send", "n2", "n1", id=2, message="AppendEntriesReply", note="")
    trace.tell(6, "drop", "n2", "n1", id=2, why="cut", fault=3)
    sent, arrived, _, dropped = (line for _, line in rows(list(lines(trace, facts()))))
    assert sent.endswith("n1->n2 AppendEntries prev=4")
    assert arrived.endswith("n1->n2 AppendEntries arrives prev=4")
    assert dropped.endswith("n2->n1 AppendEntriesReply DROPPED: cut by fault #3")
    # The sign stands in the column of the node at which it happened.
    assert sent.index(">") < 20 < arrived.index("<") < 28


def test_around_the_violation_shows_those_moments_and_says_how_many_there_were() -> None:
    made = make(seconds=6)
    assert made.facts.violation is not None
    at = made.facts.violation.at
    text = list(lines(made.trace, made.facts, around_us=20_000))
    near = [moment.at for moment in made.trace.moments if abs(moment.at - at) <= 20_000]
    assert [when for when, _ in rows(text)] == near
    assert any("VIOLATION linearizability" in line for line in text)
    assert text[-1] == f"{len(near):,} of {len(made.trace.moments):,} moments shown"


def test_filters_by_kind_and_node_keep_exactly_what_they_name_and_what_belongs_to_the_world() -> None:
    made = make(seconds=4)
    drops = [
        moment
        for moment in made.trace.moments
        if moment.kind == "drop" and "n5" in (moment.node, moment.peer)
    ]
    assert len(rows(list(lines(made.trace, made.facts, kinds=["drop"], nodes=["n5"])))) == len(drops) > 3
    world = rows(list(lines(made.trace, made.facts, nodes=["n5"], kinds=["fault", "phase"])))
    assert len(world) == 7


def test_an_unknown_kind_or_node_is_refused_by_name() -> None:
    with pytest.raises(TerminalError, match=r"no kind of moment 'drops'; there are send, deliver, drop"):
        list(lines(Trace(), facts(), kinds=["drops"]))
    with pytest.raises(TerminalError, match=r"no node 'n9'; there are n1, n2"):
        list(lines(Trace(), facts(), nodes=["n9"]))


def test_nothing_that_a_run_says_can_steer_the_terminal() -> None:
    trace = Trace()
    trace.tell(0, "event", "n1", name="\x1b[2J\x07", fields={"a": "line\nline\r\u202e"})
    trace.tell(1, "drop", "n1", "n2", id=1, message="\x9b31m", why="\x1b]0;x\x07", note="\ud800")
    hostile = facts(violation=Violation("\x1b[1m", 1, "a\nb"))
    for line in lines(trace, hostile):
        assert line.isprintable(), line
        line.encode("utf-8")


def test_what_a_console_prints_is_the_lines_and_colour_only_where_it_is_a_terminal() -> None:
    made = make(seconds=4)
    plain, coloured = io.StringIO(), io.StringIO()
    show(Console(file=plain, width=80), made.trace, made.facts, around_us=5_000)
    show(Console(file=coloured, width=300, force_terminal=True), made.trace, made.facts, around_us=5_000)
    expected = list(lines(made.trace, made.facts, around_us=5_000))
    assert plain.getvalue().splitlines() == expected
    assert "\x1b[" in coloured.getvalue()
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in coloured.getvalue().splitlines()] == expected


def test_the_legend_names_every_sign() -> None:
    assert all(word in legend() for word in ("L leads", "> send", "x drop", "! violation", "## down"))
