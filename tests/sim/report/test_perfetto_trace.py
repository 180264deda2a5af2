"""The shape that the Trace Event Format asks for, and that nothing told is missing from it."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from trace_maker import NODES, Made, make

from sim.report.facts import RunFacts
from sim.report.perfetto import events, write
from sim.virtual.trace import Trace

NEEDED = {
    "M": {"pid", "tid", "args"},
    "X": {"pid", "tid", "ts", "dur", "cat"},
    "i": {"pid", "tid", "ts", "s"},
    "C": {"pid", "ts", "args"},
    "s": {"pid", "tid", "ts", "id", "cat"},
    "f": {"pid", "tid", "ts", "id", "cat", "bp"},
    "b": {"pid", "ts", "id", "cat"},
    "e": {"pid", "ts", "id", "cat"},
}


@pytest.fixture(scope="module")
def made() -> Made:
    return make(seconds=6)


@pytest.fixture(scope="module")
def told(made: Made, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    path = tmp_path_factory.mktemp("perfetto") / "trace.json"
    document = json.loads(write(path, made.trace, made.history, made.facts, made.schedule).read_bytes())
    assert document["otherData"]["command"] == made.facts.command
    return document["traceEvents"]


def test_every_event_has_the_fields_of_its_phase_and_whole_microseconds(told: list[dict]) -> None:
    for event in told:
        assert event["name"]
        assert event.keys() >= NEEDED[event["ph"]], event
        assert all(isinstance(event[key], int) and event[key] >= 0 for key in ("ts", "dur") if key in event)
        assert event["pid"] > 0


def test_events_are_in_the_order_of_time(told: list[dict]) -> None:
    times = [event["ts"] for event in told if event["ph"] != "M"]
    assert times == sorted(times)


def test_processes_and_threads_are_named_once_and_no_two_threads_share_a_number(told: list[dict]) -> None:
    processes = {event["pid"]: event["args"]["name"] for event in told if event["name"] == "process_name"}
    assert list(processes.values()) == [
        "world",
        "n1 (east)",
        "n2 (east)",
        "n3 (west)",
        "n4 (west)",
        "n5 (harbour)",
        "clients",
    ]
    threads = [(event["tid"], event["pid"]) for event in told if event["name"] == "thread_name"]
    assert len({tid for tid, _ in threads}) == len(threads)
    assert {tid for tid, _ in threads}.isdisjoint(processes)
    used = {(event["tid"], event["pid"]) for event in told if event["ph"] in "Xi"}
    assert used <= set(threads)


def test_slices_of_one_thread_nest(told: list[dict]) -> None:
    stacks: dict[int, list[int]] = defaultdict(list)
    for event in (event for event in told if event["ph"] == "X"):
        stack, begin, end = stacks[event["tid"]], event["ts"], event["ts"] + event["dur"]
        while stack and stack[-1] <= begin:
            stack.pop()
        assert not stack or end <= stack[-1], event
        stack.append(end)


def test_every_message_that_ended_is_one_flow_between_the_two_threads_it_touched(
    told: list[dict], made: Made
) -> None:
    begins = {event["id"]: event for event in told if event["ph"] == "s"}
    ends = {event["id"]: event for event in told if event["ph"] == "f"}
    kinds = Counter(moment.kind for moment in made.trace.moments)
    assert begins.keys() == ends.keys()
    assert len(begins) == kinds["deliver"] + kinds["drop"]
    for number, begin in begins.items():
        assert begin["ts"] <= ends[number]["ts"]
        assert (begin["cat"], begin["name"]) == (ends[number]["cat"], ends[number]["name"])
    # A flow binds to the slice told just before it in its thread, so that one must be there.
    last: dict[int, int] = {}
    for event in told:
        if event["ph"] == "X":
            last[event["tid"]] = event["ts"]
        elif event["ph"] in "sf":
            assert last[event["tid"]] == event["ts"]


def test_nothing_told_is_missing(told: list[dict], made: Made) -> None:
    kinds = Counter(moment.kind for moment in made.trace.moments)
    threads = {event["tid"]: event["args"]["name"] for event in told if event["name"] == "thread_name"}
    count = Counter(
        (event["ph"], threads.get(event["tid"], "").split()[0]) for event in told if event["ph"] in "Xi"
    )
    copies = (
        kinds["deliver"]
        + kinds["drop"]
        - sum(
            1
            for ids in [{m.data["id"] for m in made.trace.moments if m.kind in ("deliver", "drop")}]
            for _ in ids
        )
    )
    assert count["X", "out"] == kinds["send"] + copies
    assert count["X", "in"] == kinds["deliver"]
    assert count["X", "drops"] == kinds["drop"]
    assert count["i", "disk"] == kinds["write"]
    assert count["X", "fsync"] == kinds["sync"]
    assert sum(1 for event in told if event["ph"] == "C") == kinds["log"]
    assert count["X", "faults"] == len(made.schedule)
    assert count["X", "cpu"] == kinds["down"] + kinds["pause"]
    assert sum(1 for event in told if event["ph"] == "i" and event["s"] == "g") == 1


def test_client_operations_are_pairs_that_begin_when_invoked_and_end_when_answered(
    told: list[dict], made: Made
) -> None:
    begins = {event["id"]: event for event in told if event["ph"] == "b"}
    ends = {event["id"]: event for event in told if event["ph"] == "e"}
    assert len(begins) == len(ends) == len(made.history)
    for begin, operation in zip(
        sorted(begins.values(), key=lambda event: int(event["id"].split(".")[1])), made.history, strict=True
    ):
        end = ends[begin["id"]]
        assert begin["ts"] == operation.invoke
        assert begin["name"] == end["name"] == f"{operation.client} {operation.op}"
        assert operation.returned is None or end["ts"] == operation.returned
    assert any(event["args"].get("returned") == "never" for event in begins.values())
    assert sum("illegal" in event["args"] for event in begins.values()) == 1


def test_the_same_run_gives_the_same_bytes_compressed_too(made: Made, tmp_path: Path) -> None:
    plain = [write(tmp_path / f"{n}.json", made.trace, made.history, made.facts).read_bytes() for n in (1, 2)]
    packed = [
        write(tmp_path / f"{n}.json.gz", made.trace, made.history, made.facts).read_bytes() for n in (1, 2)
    ]
    assert plain[0] == plain[1]
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == plain[0]


def test_an_empty_run_is_a_trace_as_well() -> None:
    facts = RunFacts(seed=1, command="x", nodes=NODES, domains={})
    assert {event["ph"] for event in events(Trace(), [], facts)} == {"M"}
