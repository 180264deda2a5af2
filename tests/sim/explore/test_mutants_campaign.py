"""Mutants at work, in processes of their own: quick ones are caught at once, the control is green, blindness is noticed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from sim.explore.mutants import ROOT, MutantError, load, pick
from sim.explore.mutants_check import run_harness_mutant
from sim.explore.mutants_command import mutants, plan_text, rerun
from sim.explore.mutants_run import Finding, Terms, run_control, run_mutant, seeds
from sim.explore.mutants_table import line, markdown
from sim.explore.mutants_worker import plan_of
from sim.virtual import plan as plans

MUTANTS = load()


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("candidate-does-not-wait", "raft log"),
        ("only-own-records-waited-for", "raft log"),
        ("quorum-scan-off-by-one", "raft log"),
        ("vote-not-recorded", "words on disk"),
        ("votes-where-it-has-given-up", "promises"),
    ],
)
def test_a_quick_mutant_is_caught_from_outside_within_few_seeds(name: str, oracle: str) -> None:
    (mutant,) = pick([name])
    finding = run_mutant(mutant, Terms(seeds=6, stop=2))
    assert finding.caught
    assert list(finding.by) == [oracle]
    assert finding.detections == 2
    assert finding.crashes == 0
    assert finding.replay == f"scripts/partition.py replay {finding.first} --mutant {name}"
    assert f"{name}" in line(finding)


def test_the_control_is_green_on_the_same_seeds() -> None:
    control = run_control("", 0, 4)
    assert control.seeds == 4
    assert control.red == []
    assert control.details["run: acknowledged writes"] > 100


def test_this_process_stays_what_it_is() -> None:
    from consensus.quorum import reached_by_majority

    rows = list(seeds("raft", ["quorum-scan-off-by-one"], "", 0, 1))
    assert rows[0]["outcome"] == "violation"
    assert reached_by_majority([1, 2, 3]) == 2
    assert not any(type(found).__module__ == "sim.explore.mutants_import" for found in sys.meta_path)


def test_a_blinded_oracle_is_noticed() -> None:
    finding = run_harness_mutant(MUTANTS["blind-to-speech-before-disk"], Terms(seeds=12))
    assert finding.caught
    assert (
        finding.words
        == "raft log objects to candidate-does-not-wait: on 10 of 10 seeds, with the mutant on 0"
    )


def test_a_harness_that_still_sees_is_not_called_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sound harness in the mutant's place: everything shows as before."""

    def sound(_protocol: str, names: list[str], *rest: object, **named: object) -> object:
        return seeds("raft", [name for name in names if not name.startswith("blind")], "", 0, 4)

    monkeypatch.setattr("sim.explore.mutants_check.seeds", sound)
    finding = run_harness_mutant(MUTANTS["blind-to-speech-before-disk"], Terms(seeds=4))
    assert not finding.caught
    assert finding.words.endswith("with the mutant on 4")


def test_a_mutant_without_effect_is_not_called_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control as a mutant: nothing objects, and that is said."""

    def control(_protocol: object, *rest: object, **named: object) -> object:
        return seeds("raft", [], "", 0, 2)

    monkeypatch.setattr("sim.explore.mutants_run.seeds", control)
    finding = run_mutant(MUTANTS["votes-twice"], Terms(seeds=2))
    assert not finding.caught
    assert finding.seeds == 2
    assert "NOT CAUGHT" in line(finding)


def test_a_worker_that_cannot_become_the_mutant_says_why() -> None:
    with pytest.raises(MutantError, match="no mutant 'nobody'"):
        list(seeds("raft", ["nobody"], "", 0, 1))


def test_the_command_prints_one_object_and_its_exit_code_tells_whether_all_were_caught() -> None:
    runner = CliRunner()
    done = runner.invoke(mutants, ["--only", "vote-does-not-wait", "--seeds", "2", "--jobs", "1", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    (row,) = found["mutants"]
    assert {"name", "caught", "by", "seeds", "per_1000", "interval", "replay"} <= set(row)
    assert (row["name"], row["caught"], row["by"], row["seeds"]) == (
        "vote-does-not-wait",
        True,
        "raft log",
        1,
    )
    assert row["interval"][0] < row["per_1000"] <= row["interval"][1]
    assert found["control"] == [{"focus": "", "seeds": 2, "red": []}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "votes-twicely"], "did you mean 'votes-twice'"),
        (["--show", "nothing"], "no mutant 'nothing'"),
        (["--only", "votes-twicely", "--json"], '"exit_code": 2'),
    ],
)
def test_bad_input_is_told_apart(words: list[str], said: str) -> None:
    done = CliRunner().invoke(mutants, words)
    assert done.exit_code == 2
    assert said in done.output


def test_the_list_and_the_differences_run_nothing() -> None:
    runner = CliRunner()
    assert "quorum-scan-unsorted" in runner.invoke(mutants, ["--list"]).output
    shown = runner.invoke(mutants, ["--show", "votes-twice"]).output
    assert "--- a/consensus/raft/electing.py" in shown
    assert "--- a/consensus/raft/persistent.py" in shown


def test_a_seed_of_the_table_is_replayed_with_the_tables_plan() -> None:
    (mutant,) = pick(["votes-twice"])
    from sim.explore.mutants import focus_of

    focus = focus_of(mutant.protocol, mutant.focus)
    assert plans.loads(plan_text(mutant.protocol, focus, 7)) == plan_of(focus, 7)


def test_a_replay_as_a_mutant_runs_the_script_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    code = rerun(
        ("votes-twice",), "7", ["scripts/partition.py", "replay", "7", "--mutant", "votes-twice", "--json"]
    )
    assert code == 1
    (command,) = ran
    assert command[1:4] == ["-m", "sim.explore.mutants_import", "votes-twice"]
    assert command[4] == str(ROOT / "scripts" / "partition.py")
    assert command[5] == "replay"
    assert command[6].endswith("seed-7.json")
    assert command[7:] == ["--json", "--on-crash", "go-on"]


def test_what_twins_have_found_is_replayed_by_their_command_and_by_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", run)
    name = "votes-where-it-has-given-up"
    rerun((name,), "7", ["scripts/partition.py", "replay", "7", "--mutant", name])
    (command,) = ran
    assert command[3] == name
    assert command[5] == "twins"
    assert command[-2] == "--scenario"
    with pytest.raises(MutantError, match="is run by twins, which has no plans"):
        rerun((name,), "7", ["scripts/partition.py", "shrink", "7", "--mutant", name])


def test_a_blinded_instrument_is_noticed() -> None:
    finding = run_harness_mutant(load("bft")["blind-to-promises-in-lockstep"], Terms(seeds=12))
    assert finding.caught
    assert finding.words.endswith("with the mutant on 0")


def test_the_table_for_the_docs_has_a_line_for_every_mutant() -> None:
    from sim.explore.mutants_run import Table

    findings = [Finding(mutant) for mutant in MUTANTS.values()]
    lines = markdown(Table(Terms(), findings, [], 1.0))
    for name in MUTANTS:
        assert sum(row.startswith(f"| `{name}` |") for row in lines) == 1
    assert any("NOT CAUGHT" in row for row in lines)
    told: Callable[[Finding], str] = line
    assert all(told(finding) for finding in findings)
