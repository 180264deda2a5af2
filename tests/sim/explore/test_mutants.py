"""The mutants themselves: they fit today's source, they change what they say, and nothing of them leaks."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from sim.explore.mutants import (
    CATALOGUE,
    CORE,
    HARNESS,
    ROOT,
    Mutant,
    MutantError,
    focuses,
    load,
    mutate,
    pick,
    show,
)
from sim.explore.mutants_import import Finder, activate, deactivate
from sim.explore.mutants_worker import counts, plan_of
from sim.explore.statistics import wilson
from sim.marks import places

MUTANTS = load()


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_fits_todays_source_once_and_compiles(name: str) -> None:
    mutant = MUTANTS[name]
    for file, text in mutate([mutant]).items():
        before = (ROOT / file).read_text()
        assert text != before
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(before)), "it changes nothing but words"


def test_there_are_enough_mutants_and_every_one_says_what_it_stands_for() -> None:
    core = [mutant for mutant in MUTANTS.values() if mutant.family == CORE]
    harness = [mutant for mutant in MUTANTS.values() if mutant.family == HARNESS]
    assert len(core) >= 25
    assert len(harness) >= 3
    assert all(file.startswith(("consensus/", "node/")) for mutant in core for file in mutant.files)
    assert all(file.startswith("sim/") for mutant in harness for file in mutant.files)


def test_no_two_mutants_are_the_same_change() -> None:
    changes = [mutant.edits for mutant in MUTANTS.values() if mutant.check != "by"]
    assert len(set(changes)) == len(changes)


def test_a_mutants_mark_exists() -> None:
    known = places()
    assert [mutant.mark for mutant in MUTANTS.values() if mutant.mark and mutant.mark not in known] == []


@pytest.mark.parametrize("name", list(focuses()))
def test_a_focus_gives_a_plan_whose_faults_lie_within_it(name: str) -> None:
    for seed in range(5):
        plan = plan_of(focuses()[name], seed)
        assert all(fault.until <= plan.duration for fault in plan.schedule)
        assert plan == plan_of(focuses()[name], seed)


def test_no_focus_is_without_a_mutant() -> None:
    assert set(focuses()) == {mutant.focus for mutant in MUTANTS.values() if mutant.focus}


def test_a_mutant_is_shown_as_a_unified_diff() -> None:
    text = show(MUTANTS["quorum-scan-unsorted"])
    assert text.startswith("--- a/consensus/quorum.py\n+++ b/consensus/quorum.py\n@@")
    assert "-    return sorted(values)" in text
    assert "+    return list(values)" in text


def test_an_unknown_mutant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MutantError, match="did you mean 'votes-twice'"):
        pick(["vote-twice"])
    with pytest.raises(MutantError, match="there are some of raft"):
        load("paxos")


def test_a_mutant_whose_place_is_gone_is_refused() -> None:
    known = MUTANTS["votes-twice"]
    edit = type(known.edits[0])(known.edits[0].file, "this stands nowhere", "")
    with pytest.raises(MutantError, match="stands 0 times"):
        mutate([Mutant("x", CORE, "raft", "a", "b", (edit,))])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[mutant]]\nname = 'a'\n", "removes is missing"),
        ("[[mutant]]\nname = 'a'\nremoves = 'b'\nbug = 'c'\n", "an edit needs file, old and new"),
        ("[[mutant]]\nname = 'a'\nnmae = 'b'\n", "unknown key 'nmae'"),
        ("[[mutants]]\n", "expected tables"),
        ("[[mutant]\n", "1-x.toml"),
    ],
)
def test_a_catalogue_that_makes_no_sense_is_refused(
    text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raft").mkdir()
    (tmp_path / "raft" / "focus.toml").write_text("")
    (tmp_path / "raft" / "1-x.toml").write_text(text)
    monkeypatch.setattr("sim.explore.mutants.CATALOGUE", tmp_path)
    with pytest.raises(MutantError, match=words):
        load()
    assert CATALOGUE.is_dir()


def test_a_process_that_has_imported_the_module_cannot_become_the_mutant() -> None:
    import consensus.quorum  # noqa: F401

    before = list(sys.meta_path)
    with pytest.raises(MutantError, match=r"consensus\.quorum was imported before"):
        activate("quorum-scan-unsorted")
    assert sys.meta_path == before


def test_the_hook_touches_the_modules_of_its_mutants_and_no_others() -> None:
    finder = Finder(pick(["votes-twice"]))
    assert finder.modules == ["consensus.raft.electing", "consensus.raft.persistent"]
    assert finder.find_spec("consensus.quorum", None) is None
    spec = finder.find_spec("consensus.raft.electing", None)
    assert spec is not None
    assert spec.origin == str(ROOT / "consensus/raft/electing.py")
    assert not any(isinstance(found, Finder) for found in sys.meta_path)
    deactivate(finder)


def test_without_names_nothing_is_hooked() -> None:
    assert activate() is None


@pytest.mark.parametrize(
    ("outcome", "crash", "purpose", "caught"),
    [
        ("violation", "", "safety", True),
        ("violation", "n1: ValueError", "safety", True),
        ("liveness", "", "safety", False),
        ("liveness", "", "liveness", True),
        ("liveness", "n1: ValueError", "liveness", False),
        ("crash", "n1: SafetyViolation", "safety", False),
        ("error", "", "liveness", False),
        ("ok", "", "safety", False),
    ],
)
def test_only_an_objection_from_outside_counts(outcome: str, crash: str, purpose: str, caught: bool) -> None:
    assert counts({"outcome": outcome, "crash": crash}, purpose) is caught


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_is_the_published_one(hits: int, trials: int, low: float, high: float) -> None:
    found = wilson(hits, trials)
    assert found == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(trials - hits, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_the_wilson_interval_of_nothing_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 hits in 2 trials"):
        wilson(3, 2)
