"""`partition.py twins` and `partition.py byzzfuzz`: what they print and refuse, and that what they find can be played again."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from consensus.bft import chain
from sim.byzantine import campaign
from sim.byzantine.campaign import Tally
from sim.byzantine.commands import byzzfuzz, twins
from sim.byzantine.lockstep import CRASH, TERMINATION, Counts, Played


def run(command: click.Command, *arguments: str) -> Result:
    result = CliRunner().invoke(command, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def found(result: Result) -> dict[str, Any]:
    assert result.stdout.count("\n") == 1, result.stdout
    read: dict[str, Any] = json.loads(result.stdout)
    return read


def test_a_green_campaign_of_twins_says_how_many_of_how_many() -> None:
    result = run(twins, "--scenarios", "12", "--jobs", "1", "--json")
    told = found(result)
    assert (result.exit_code, told["exit_code"], told["findings"]) == (0, 0, [])
    assert told["played"] == 12
    assert told["total"] == 6_150_486_277_215_354_880
    assert told["total_told_apart"] == 2048**6
    assert "6,150,486,277,215,354,880 canonical scenarios" in result.stderr
    assert "GREEN" in result.stderr


def test_the_same_scenarios_come_out_however_many_processes_play_them() -> None:
    rows = [
        found(run(twins, "--scenarios", "120", "--rounds", "2", "--jobs", jobs, "--json"))
        for jobs in ("1", "2")
    ]
    same = (
        "played",
        "dealt_doubly",
        "with_evidence",
        "committed_before_healing",
        "messages",
        "rounds_to_commit",
    )
    assert [rows[0][name] for name in same] == [rows[1][name] for name in same]


def test_a_space_that_is_small_enough_is_played_whole() -> None:
    told = found(
        run(twins, "--rounds", "1", "--plain", "--nodes", "4", "--scenarios", "1000", "--jobs", "1", "--json")
    )
    assert told["played"] == told["total"] < 20
    assert told["total_told_apart"] == 64


def test_what_is_found_is_played_again_by_the_line_that_stands_beside_it() -> None:
    asked = ("--twins", "2", "--over-budget", "--plain", "--rounds", "3", "--jobs", "1")
    result = run(twins, *asked, "--scenarios", "400", "--stop-after", "1", "--json")
    told = found(result)
    assert result.exit_code == told["exit_code"] in (1, 3)
    row = told["findings"][0]
    words = row["replay"].split()
    assert words[:3] == ["python", "scripts/partition.py", "twins"]
    again = run(twins, *words[3:], "--json")
    assert again.exit_code == told["exit_code"]
    assert found(again)["text"] == row["text"]
    assert "round 3: {" in again.stderr


def test_one_scenario_alone_is_told_move_by_move() -> None:
    result = run(twins, "--scenario", "4711")
    assert result.exit_code == 0
    assert "round 6: {" in result.stdout
    assert ": vote for " in result.stdout
    assert "afterwards: everybody hears everybody" in result.stdout
    assert "commits" in result.stdout


def test_byzzfuzz_finds_a_planted_mistake_and_plays_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "flaw", lambda *block: "")
    campaign._players.clear()
    result = run(byzzfuzz, "--scope", "any", "--seeds", "50", "--jobs", "1", "--json")
    row = found(result)["findings"][0]
    assert result.exit_code == 1
    again = run(byzzfuzz, *row["replay"].split()[3:])
    assert again.exit_code in (1, 5)
    assert row["text"] in again.stdout
    assert "lies to" in again.stdout


def test_a_campaign_of_byzzfuzz_ends_with_its_time() -> None:
    told = found(run(byzzfuzz, "--minutes", "0.01", "--jobs", "1", "--json"))
    assert told["exit_code"] == 0
    assert told["played"] >= campaign.BATCH


def test_a_worker_that_dies_makes_the_campaign_a_crash_that_tells_what_was_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = campaign.play_batch

    def play_batch(task: Any, places: range) -> Tally:
        if places.start >= 2 * campaign.BATCH:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(task, places)

    play_batch.__module__, play_batch.__qualname__ = campaign.__name__, "play_batch"
    monkeypatch.setattr(campaign, "play_batch", play_batch)
    result = run(twins, "--scenarios", str(6 * campaign.BATCH), "--rounds", "2", "--jobs", "2", "--json")
    told = found(result)
    assert result.exit_code == told["exit_code"] == 5
    assert "a worker process died" in told["died"]
    assert told["played"] < 6 * campaign.BATCH
    assert "FAILED: a worker process died" in result.stderr


@pytest.mark.parametrize(
    ("command", "arguments", "word"),
    [
        (twins, ("--twins", "2"), "--over-budget"),
        (twins, ("--nodes", "4", "--lie", "2", "--stop", "2"), "members"),
        (twins, ("--rounds", "1", "--plain", "--scenario", "99999"), "there is no scenario 99999"),
        (twins, ("--nodes", "31"), "fewer"),
        (twins, ("--nodes", "4", "--twins", "4", "--over-budget"), "at least one honest node"),
        (byzzfuzz, ("--nodes", "3"), "none may lie"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_the_reason(
    command: click.Command, arguments: tuple[str, ...], word: str
) -> None:
    result = run(command, *arguments, "--json")
    assert result.exit_code == found(result)["exit_code"] == 2
    assert word in result.stderr


def test_exit_codes_tell_conflicts_from_crashes_from_standing_still_from_nothing() -> None:
    def code(*oracles: str) -> int:
        tally = Tally()
        for number, oracle in enumerate(oracles):
            tally.add(Played(number, oracle, "", dealt=True, counts=Counts(early=1)))
        return tally.exit_code(liars=True)

    assert code("") == 0
    assert code("", TERMINATION) == 3
    assert code(TERMINATION, CRASH) == 5
    assert code(CRASH, "agreement", TERMINATION) == code("blame") == 1
    assert code() == 4
    idle = Tally()
    idle.add(Played(0))
    assert idle.exit_code(liars=True) == 4
    assert idle.void(liars=False) == ["nothing was ever committed before the links were healed"]
