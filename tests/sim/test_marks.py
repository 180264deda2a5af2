"""Sometimes-marks: every one is a literal, stands in one place, and changes nothing."""

from __future__ import annotations

import ast
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
from replica_world import World

import sim
from consensus import marks
from sim.marks import MarkError, in_source, places

ROOT = Path(sim.__path__[0]).parent


@pytest.fixture(autouse=True)
def nothing_reached() -> Iterator[None]:
    marks.clear()
    yield
    marks.clear()


def test_every_mark_is_a_short_sentence_in_lower_case_and_stands_where_the_list_says() -> None:
    found = places()
    assert len(found) >= 80
    for name, place in found.items():
        file, line = place.split(":")
        assert name in (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert name == name.strip(" .")
        assert name[0].islower()
        assert 15 < len(name) < 80


def test_marks_stand_in_every_part_that_has_safeguards() -> None:
    files = {place.split(":")[0] for place in places().values()}
    raft = "core electing following leading persistent progress reads records"
    parts = "replica gate journal segment snapshot compaction writes queries digests sessions transfer state"
    assert {f"consensus/raft/{name}.py" for name in raft.split()} <= files
    assert {f"node/{name}.py" for name in parts.split()} <= files


def test_a_name_that_is_no_literal_or_stands_twice_is_an_error() -> None:
    assert in_source("sometimes('b')\nmarks.sometimes('a')\n", "m.py") == [("b", "m.py:1"), ("a", "m.py:2")]
    for bad in (
        "sometimes(name)",
        "sometimes(f'{x}')",
        "sometimes('a', 'b')",
        "sometimes(name='a')",
        "sometimes(3)",
    ):
        with pytest.raises(MarkError, match=r"m\.py:1"):
            in_source(bad, "m.py")


def test_two_branches_with_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "twice"
    package.mkdir()
    (package / "__init__.py").write_text("sometimes('the same branch')\nsometimes('the same branch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = types.ModuleType("twice")
    module.__path__ = [str(package)]
    monkeypatch.setattr("sim.marks.PACKAGES", (module,))
    with pytest.raises(MarkError, match=r"twice/__init__\.py:2: .* stands at twice/__init__\.py:1"):
        places()


def test_marks_are_counted_until_they_are_cleared() -> None:
    marks.sometimes("one")
    marks.sometimes("two")
    marks.sometimes("one")
    assert marks.reached() == {"one": 2, "two": 1}
    marks.reached().clear()
    assert marks.reached() == {"one": 2, "two": 1}, "a copy"
    marks.clear()
    assert marks.reached() == {}


def test_a_story_reaches_marks_and_is_the_same_one_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = World(6)
    marked.run_story()
    reached = marks.reached()
    assert len(reached) > 30
    assert set(reached) <= set(places())
    # The function is bound by name in every module: without its body nothing is counted, and nothing else changes.
    for module in [m for m in sys.modules.values() if getattr(m, "sometimes", None) is marks.sometimes]:
        monkeypatch.setattr(module, "sometimes", lambda name: None)
    marks.clear()
    bare = World(6)
    bare.run_story()
    assert marks.reached() == {}
    assert bare.trace == marked.trace


def test_the_facility_imports_nothing_of_ours_and_costs_next_to_nothing() -> None:
    tree = ast.parse(Path(marks.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"__future__", "typing"}
    best = min(_time_of_a_thousand() for _ in range(20))
    assert best < 2e-3, "two microseconds each would be a mistake, not a slow machine"


def _time_of_a_thousand() -> float:
    began = time.perf_counter()
    for _ in range(1000):
        marks.sometimes("a branch")
    return time.perf_counter() - began
