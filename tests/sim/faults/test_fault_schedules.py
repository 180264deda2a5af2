"""Schedules as data: written, edited, read again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.faults.fault import Fault, ScheduleError, decode, encode, loads
from sim.faults.running import label

_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 40), 1 << 40) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
_faults = st.lists(
    st.builds(
        lambda number, kind, at, lasts, params: Fault(number, kind, at, at + lasts, params),
        st.integers(0, 1000),
        st.text(max_size=12),
        st.integers(0, 1 << 40),
        st.integers(0, 1 << 30),
        st.dictionaries(st.text(max_size=8), _values, max_size=4),
    ),
    max_size=6,
    unique_by=lambda fault: fault.number,
)


@given(_faults)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_a_schedule_comes_back_from_json_as_it_was(schedule: list[Fault]) -> None:
    assert loads(json.dumps(encode(schedule))) == schedule


def test_what_a_person_leaves_out_has_a_sensible_default() -> None:
    (one, two) = decode(
        [{"kind": "kill", "at": 5}, {"kind": "loss", "at": 1, "until": 9, "params": {"rate": 0.5}}]
    )
    assert one == Fault(0, "kill", 5, 5, {})
    assert two == Fault(1, "loss", 1, 9, {"rate": 0.5})


GOOD: dict[str, Any] = {"number": 1, "kind": "kill", "at": 5, "until": 9, "params": {}}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "expected a list of faults"),
        (["kill"], r"\[0\]: expected an object"),
        ([GOOD | {"when": 3}], r"\[0\]: unknown key 'when'"),
        ([GOOD | {"at": 10}], "0 <= at <= until, not 10, 9"),
        ([GOOD | {"at": -1}], "0 <= at"),
        ([GOOD | {"at": 0.5}], "microseconds"),
        ([GOOD | {"at": True}], "microseconds"),
        ([GOOD | {"kind": 7}], "kind a text"),
        ([GOOD | {"params": []}], "params an object"),
        ([GOOD | {"number": "1"}], "number is an integer"),
        ([GOOD, GOOD], "two faults have the same number"),
        ([GOOD, {"kind": "kill"}], r"\[1\]: at and until"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(rows: Any, words: str) -> None:
    with pytest.raises(ScheduleError, match=f"my file.*{words}"):
        decode(rows, "my file")


def test_text_that_is_no_json_is_refused_with_the_place_in_it() -> None:
    with pytest.raises(ScheduleError, match=r"my file: not JSON .*line 2"):
        loads("[\n{]", "my file")


def test_a_fault_prints_in_seconds_with_its_parameters() -> None:
    fault = Fault(4, "partition", 1_500_000, 2_000_000, {"shape": "bridge:out", "ppm": [1, 2]})
    assert str(fault) == "#4 partition 1.500-2.000 s shape=bridge:out ppm=1,2"
    assert label(fault) == "partition bridge:out"
    assert label(Fault(0, "trap", 0, 0, {"variant": "after the sync"})) == "trap after the sync"
    assert label(Fault(0, "kill", 0, 0)) == "kill"
