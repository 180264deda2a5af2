from __future__ import annotations

import json
import re
import time
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from trace_maker import Made, make

from sim.check.history import Operation
from sim.faults.fault import Fault
from sim.report.facts import RunFacts, Violation
from sim.report.lanes import SIZE_LIMIT, opening, page, render
from sim.report.story import tell
from sim.virtual.trace import Trace

VOID_TAGS = {"meta", "link", "br", "hr", "img", "input"}
FIVE_MB = 5_000_000


class Balanced(HTMLParser):
    """Follows the tags; `problems` says where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.scripts += tag == "script"
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()}")


def page_of(made: Made, **more: int) -> str:
    return page(made.trace, made.history, made.schedule, made.facts, **more)


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', text, re.S)
    assert found
    return json.loads(found[1])


@pytest.fixture(scope="module")
def made() -> Made:
    return make(seconds=8)


@pytest.fixture(scope="module")
def text(made: Made) -> str:
    return page_of(made)


def test_every_moment_told_is_in_the_page_once(text: str, made: Made) -> None:
    run = data_of(text)
    kinds = Counter(moment.kind for moment in made.trace.moments)
    outcomes = Counter(run["outcomes"][row[5]] for row in run["messages"])
    assert outcomes["delivered"] == kinds["deliver"]
    assert outcomes["dropped"] == kinds["drop"]
    copies = sum(row[9] for row in run["messages"])
    assert copies > 0
    assert sum(outcomes.values()) - copies == kinds["send"]
    assert len(run["logs"]) == kinds["log"]
    assert Counter(row[3] for row in run["disks"]) == {1: kinds["sync"], 0: kinds["write"]}
    points = Counter(run["names"][row[1]] for row in run["points"])
    assert points == {kind: kinds[kind] for kind in ("boot", "event", "mark", "bite", "violation")}
    spans = Counter(row[0] for row in run["roles"])
    assert (spans[0], spans[1], spans[2]) == (kinds["role"], kinds["down"], kinds["pause"])
    assert [row[0] for row in run["faults"]] == [fault.number for fault in made.schedule]
    assert len(run["phases"]) == kinds["phase"]
    assert len(run["ops"]) == len(made.history)
    assert 'id="left-out"' not in text


def test_what_is_drawn_keeps_its_time(text: str, made: Made) -> None:
    run = data_of(text)
    sent = sorted(moment.at for moment in made.trace.moments if moment.kind == "send")
    assert [row[0] for row in run["messages"] if not row[9]] == sent
    assert all(row[1] >= 0 for row in run["messages"])
    assert [row[2] for row in run["ops"]] == [operation.invoke for operation in made.history]
    for row in [row for row in run["ops"] if row[3] >= 0 and row[8] >= 0]:
        assert row[2] <= row[8] <= row[3]


def test_the_page_opens_at_the_violation_with_few_enough_messages_to_follow(text: str, made: Made) -> None:
    begin, end = data_of(text)["window"]
    assert made.facts.violation is not None
    assert begin < made.facts.violation.at < end
    assert sum(begin <= row[0] < end for row in data_of(text)["messages"]) <= 110
    crowded = make(seconds=0.9, writes_per_s=2_000)
    begin, end = data_of(page_of(crowded))["window"]
    assert crowded.facts.violation is not None
    assert begin < crowded.facts.violation.at < end <= begin + 60_000


def test_a_run_without_a_violation_opens_whole_and_says_so() -> None:
    fine = make(seconds=3, violated=False)
    text = page_of(fine)
    run = data_of(text)
    assert run["window"] == [run["begin"], run["end"]]
    assert run["violation"] is None
    assert "no violation" in text
    assert 'id="to-violation"' not in text


def test_a_violation_that_only_the_moments_tell_is_found_there() -> None:
    trace = Trace()
    trace.tell(5, "violation", "n1", oracle="election-safety", text="two leaders in term 4")
    facts = RunFacts(seed=1, command="x", nodes=["n1"], domains={"n1": "a"})
    assert opening(tell(trace, [], [], facts))[0] < 5
    assert "two leaders in term 4" in page(trace, [], [], facts)


def test_the_side_panel_has_the_text_the_replay_line_every_fault_and_mark(text: str, made: Made) -> None:
    assert made.facts.violation is not None
    assert made.facts.violation.text in text
    assert made.facts.command in text
    for fault in made.schedule:
        assert f"<td>{fault.kind}" in text
        assert f'data-fault="{fault.number}"' in text
    assert "fsync-error (never began)" in text
    for name, count in made.facts.marks.items():
        assert f'<td>{name}</td><td class="n">{count}</td>' in text
    for name, value in made.facts.options.items():
        assert f"<th>{name}</th><td>{value}</td>" in text


def test_the_illegal_operation_is_marked_and_no_other(text: str, made: Made) -> None:
    assert made.facts.violation is not None
    rows = data_of(text)["ops"]
    assert [place for place, row in enumerate(rows) if row[10]] == list(made.facts.violation.operations)


def test_operations_of_a_client_that_overlap_stand_in_different_rows(text: str) -> None:
    run = data_of(text)
    seen = 0
    for client, about in enumerate(run["clients"]):
        busy: dict[int, int] = {}
        for row in sorted((row for row in run["ops"] if row[0] == client), key=lambda row: row[2]):
            if about["at_once"] <= about["rows"]:
                assert busy.get(row[1], 0) <= row[2]
                seen += 1
            busy[row[1]] = max(row[3], row[2])
        assert max(busy) + 1 == about["rows"]
    assert seen > 100
    assert [about["name"] for about in run["clients"]] == ["c1", "c2", "c3", "c4"]


def test_the_page_loads_nothing_from_anywhere(text: str) -> None:
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r'\bsrc="', text) == []
    assert set(re.findall(r'href="([^"]*)"', text)) == {"data:,"}
    assert set(re.findall(r"url\(([^)]*)\)", text)) == {"#hatch"}
    assert "@import" not in text


def test_hostile_text_stays_text_wherever_it_comes_from() -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x00\x1b[31m\u2028\ud800\"'&"
    trace = Trace()
    trace.tell(0, "boot", evil, life=1, notes=evil)
    trace.tell(1, "role", evil, role=evil, term=1, leader=evil)
    trace.tell(2, "send", evil, "n2", id=evil, message=evil, note=evil)
    trace.tell(3, "drop", evil, "n2", id=evil, why=evil)
    trace.tell(4, "event", evil, name=evil, fields={evil: evil})
    trace.tell(5, "fault", number=1, name=evil, text=evil)
    trace.tell(6, "phase", name=evil, text=evil)
    trace.tell(6, "write", evil, bytes=1, file=evil)
    trace.tell(7, "down", evil, why=evil)
    operation = Operation("write", evil, 1, 5, "ok", 1, 1, 1, 0, result=b"</script>", error=evil, node=evil)
    facts = RunFacts(
        seed=1,
        command=evil,
        nodes=[evil, "n2"],
        domains={evil: evil, "n2": "b"},
        options={evil: evil},
        outcome=evil,
        violation=Violation(evil, 5, evil, (evil,), (0,)),
        marks={evil: 1},
        trace_hash=evil,
    )
    text = page(trace, [operation], [Fault(2, evil, 1, 2, {evil: evil})], facts)
    parser = Balanced()
    parser.feed(text)
    assert parser.problems == []
    assert parser.open == []
    assert parser.scripts == 2
    assert "<img" not in text
    assert "\x00" not in text
    assert "\x1b" not in text
    text.encode("utf-8")
    run = data_of(text)
    assert run["nodes"][0]["name"].startswith("</script>")
    assert "�" not in json.dumps(run)


@pytest.mark.parametrize("note", ["n", "x" * 5_000])
def test_thirty_thousand_moments_fit_in_five_megabytes_in_three_seconds(note: str) -> None:
    made = make(seconds=14)
    trace = made.trace
    for place, moment in enumerate(trace.moments):
        if "note" in moment.data:
            moment.data["note"] = f"{place} {note}"
    assert len(trace.moments) > 28_000
    began = time.perf_counter()
    text = page_of(made)
    assert time.perf_counter() - began < 3
    assert len(text.encode()) < FIVE_MB
    assert ('id="left-out"' in text) == (len(note) > 10 and len(text) > SIZE_LIMIT - 10_000)


@pytest.mark.parametrize("limit", [600_000, 300_000, 160_000])
def test_a_page_too_large_leaves_out_what_is_farthest_from_the_violation_and_says_so(
    made: Made, limit: int
) -> None:
    text = page_of(made, size_limit=limit)
    assert limit - 20_000 < len(text.encode()) <= limit
    said = re.search(r'id="left-out">([^<]*)<', text)
    assert said
    whole, kept = data_of(page_of(made)), data_of(text)
    missing = len(whole["messages"]) - len(kept["messages"])
    assert f"{missing:,} of {len(whole['messages']):,} messages" in said[1]
    for name, words in (("disks", "disk writes and syncs"), ("logs", "log positions"), ("ops", "operations")):
        short = len(whole[name]) - len(kept[name])
        assert (f"{short:,} of {len(whole[name]):,} {words}" in said[1]) == (short > 0)
    assert made.facts.violation is not None
    at = made.facts.violation.at

    # Their names may stand at other places in the table; their times may not change.
    def ends(run: dict) -> list[int]:
        return sorted(abs(row[0] + row[1] - at) for row in run["messages"])

    assert ends(kept) == ends(whole)[: len(kept["messages"])]


def test_the_overview_is_well_formed_within_its_frame_and_of_bounded_size(text: str, made: Made) -> None:
    drawing = re.search(r'<figure id="still">(.*?)</figure>', text, re.S)
    assert drawing
    root = ET.fromstring(drawing[1])
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for box in root.iter("{http://www.w3.org/2000/svg}rect"):
        if box.get("x") is not None:
            assert 0 <= float(box.get("x", "")) <= width
            assert float(box.get("x", "")) + float(box.get("width", "")) <= width + 1
            assert float(box.get("y", "")) + float(box.get("height", "")) <= height
    words = "".join(root.itertext())
    assert all(name in words for name in (*made.facts.nodes, "east", "harbour", "c4", "✕ linearizability"))
    assert all(f"#{fault.number} {fault.kind}" in words for fault in made.schedule)
    assert len(drawing[1]) < 400_000


def test_render_writes_the_page_where_it_is_told(made: Made, tmp_path: Path) -> None:
    path = render(tmp_path / "run.html", made.trace, made.history, made.schedule, made.facts)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_an_empty_run_has_a_page() -> None:
    facts = RunFacts(seed=1, command="x", nodes=["n1"], domains={})
    run = data_of(page(Trace(), [], [], facts))
    assert (run["begin"], run["end"], run["messages"]) == (0, 1, [])
