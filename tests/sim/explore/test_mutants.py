"""The mutants themselves: they fit today's source, they change what they say, and nothing of them leaks."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from sim.explore import mutants_lockstep
from sim.explore.mutants import (
    CATALOGUE,
    CORE,
    EXPLORE,
    HARNESS,
    PROTOCOLS,
    ROOT,
    Mutant,
    MutantError,
    focuses,
    instrument_of,
    load,
    mutate,
    pick,
    show,
)
from sim.explore.mutants_import import Finder, activate, deactivate
from sim.explore.mutants_worker import counts, plan_of
from sim.explore.statistics import wilson
from sim.marks import places

TABLES = {protocol: load(protocol) for protocol in PROTOCOLS}
MUTANTS = {name: mutant for table in TABLES.values() for name, mutant in table.items()}
FOCUSES = [(protocol, name) for protocol in PROTOCOLS for name in focuses(protocol)]
CLIENTS = "sim/virtual/bft_subject.py"
"""Where the clients of virtual runs are told how many equal replies to believe: a safeguard of the protocol's."""


@pytest.mark.parametrize("name", list(MUTANTS))
def test_a_mutant_fits_todays_source_once_and_compiles(name: str) -> None:
    mutant = MUTANTS[name]
    for file, text in mutate([mutant]).items():
        before = (ROOT / file).read_text()
        assert text != before
        assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(before)), "it changes nothing but words"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_there_are_enough_mutants_and_every_one_says_what_it_stands_for(protocol: str) -> None:
    table = TABLES[protocol].values()
    core = [mutant for mutant in table if mutant.family == CORE]
    harness = [mutant for mutant in table if mutant.family == HARNESS]
    assert len(core) >= 25
    assert len(harness) >= 3
    assert all(mutant.protocol == protocol for mutant in table)
    files = [file for mutant in core for file in mutant.files if file != CLIENTS]
    assert all(file.startswith(("consensus/", "node/")) for file in files)
    assert all(file.startswith("sim/") for mutant in harness for file in mutant.files)


def test_no_two_tables_have_a_mutant_of_the_same_name() -> None:
    assert len(MUTANTS) == sum(map(len, TABLES.values()))
    assert pick(["votes-twice", "votes-twice-in-a-round"]) == [
        TABLES["raft"]["votes-twice"],
        TABLES["bft"]["votes-twice-in-a-round"],
    ]
    with pytest.raises(MutantError, match="no mutant 'votes-twice'"):
        pick(["votes-twice"], "bft")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_two_mutants_of_a_table_are_the_same_change(protocol: str) -> None:
    changes = [mutant.edits for mutant in TABLES[protocol].values() if mutant.check != "by"]
    assert len(set(changes)) == len(changes)


def test_a_mutants_mark_exists() -> None:
    known = places()
    assert [mutant.mark for mutant in MUTANTS.values() if mutant.mark and mutant.mark not in known] == []


@pytest.mark.parametrize(("protocol", "name"), FOCUSES)
def test_a_focus_gives_a_plan_whose_faults_lie_within_it(protocol: str, name: str) -> None:
    focus = focuses(protocol)[name]
    if instrument_of(focus) != EXPLORE:
        return
    for seed in range(5):
        plan = plan_of(focus, seed, protocol)
        assert plan.protocol == protocol
        assert all(fault.until <= plan.duration for fault in plan.schedule)
        assert plan == plan_of(focus, seed, protocol)


def test_a_focus_never_lets_more_nodes_lie_than_its_committee_stands() -> None:
    for name, focus in focuses("bft").items():
        liars = {fault["params"]["node"] for fault in focus.get("faults", ()) if fault["kind"] == "byzantine"}
        lost = {fault["params"]["node"] for fault in focus.get("faults", ()) if fault["kind"] == "gone"}
        assert len(liars | lost) <= 1, name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_focus_is_without_a_mutant(protocol: str) -> None:
    assert set(focuses(protocol)) == {mutant.focus for mutant in TABLES[protocol].values() if mutant.focus}


@pytest.mark.parametrize("name", ["twins", "twins-plain", "byzzfuzz"])
def test_a_seed_of_another_instrument_is_played_again_by_its_own_command(name: str) -> None:
    from sim.byzantine.commands import byzzfuzz, twins

    focus = focuses("bft")[name]
    command, *words = mutants_lockstep.words(focus, 3)
    run = {"twins": twins, "byzzfuzz": byzzfuzz}[command]
    played = json.loads(CliRunner().invoke(run, [*words, "--json"]).stdout)
    outcome, oracle, _, details = mutants_lockstep.play(focus, 3)
    assert (outcome, oracle) == ("ok", "")
    assert played["exit_code"] == 0
    assert (played["cut"], played["early"]) == (
        details["links: cut"],
        details["run: committed before the links were healed"],
    )


def test_a_shape_that_an_instrument_does_not_know_is_refused() -> None:
    with pytest.raises(MutantError, match=r"shape of twins: .*'noddes'"):
        mutants_lockstep.play({"instrument": "twins", "shape": {"noddes": 4}}, 0)


def test_an_unknown_instrument_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bft").mkdir()
    (tmp_path / "bft" / "focus.toml").write_text("[x]\ninstrument = 'dice'\n")
    monkeypatch.setattr("sim.explore.mutants.CATALOGUE", tmp_path)
    with pytest.raises(MutantError, match="no instrument 'dice'; there are explore, twins, byzzfuzz"):
        load("bft")


def test_a_mutant_is_shown_as_a_unified_diff() -> None:
    text = show(MUTANTS["quorum-scan-unsorted"])
    assert text.startswith("--- a/consensus/quorum.py\n+++ b/consensus/quorum.py\n@@")
    assert "-    return sorted(values)" in text
    assert "+    return list(values)" in text


def test_an_unknown_mutant_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(MutantError, match="did you mean 'votes-twice'"):
        pick(["vote-twice"])
    with pytest.raises(MutantError, match="there are some of raft, bft"):
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
