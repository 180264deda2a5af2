"""A scenario on virtual time: the same checks hold, faults are counted, a seed decides everything, a broken thing is caught."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from consensus import quorum
from sim import scenario
from sim.check.verdict import FAILED, PASSED, VOID, exit_code
from sim.oracles.oracle import Oracle
from sim.report.html import render
from sim.scenario import ScenarioError
from sim.virtual import drill, subjects, world
from sim.virtual.network import Link
from sim.workload.synthetic import synthetic

ROOT = Path(__file__).parents[3]


@pytest.fixture
def untold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the page that tells everything, which takes longer than the run."""
    monkeypatch.setattr(drill, "SHORT_S", 0.0)


def made(folder: Path, text: str) -> scenario.Scenario:
    path = folder / "made.toml"
    path.write_text(text, encoding="utf-8")
    return scenario.load(str(path))


def run(plan: scenario.Scenario, folder: Path, seed: int = 1, **how: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return drill.run(plan, seed, folder, **how)


def failed(verdict: dict[str, Any]) -> list[str]:
    return [check["name"] for check in verdict["checks"] if not check["passed"]]


def explained(verdict: dict[str, Any]) -> list[str]:
    bad = [f"{check['name']}: {check['detail']}" for check in verdict["checks"] if not check["passed"]]
    return [*bad, *verdict["void_reasons"]]


KV = """
[cluster]
nodes = {nodes}
domains = 3

[workload]
machine = "kv"
per_s = 200
"""


@pytest.mark.parametrize("name", ["bridge", "one-way", "majorities-ring"])
def test_the_shipped_partitions_pass_and_dropped_messages_in_their_own_directions(
    name: str, tmp_path: Path, untold: None
) -> None:
    plan = scenario.load(name)
    verdict = run(plan, tmp_path)
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert len(verdict["faults"]) == len(plan.faults)
    for fault in verdict["faults"]:
        assert fault["bit"]
        assert fault["counts"]["dropped_messages"] > 50
        assert {f"{row['sender']}>{row['receiver']}" for row in fault["by_direction"]} <= set(fault["pairs"])
    during = next(check for check in verdict["checks"] if check["name"] == "progress_during_faults")
    assert during["counted"] == len(plan.faults)


CUTS = (
    KV
    + """
[[cuts]]
at_s = 1
dark_s = 1
domain = "leader"
trap = true

[[cuts]]
at_s = 3
dark_s = 1
domain = "untouched"
trap = true

[[cuts]]
at_s = 3.5
dark_s = 0.3
domain = "untouched"
after_recovery = false

[require]
min_writes_per_s = 20
max_outage_ms = 1500
"""
)


def test_power_cuts_drop_unsynced_bytes_between_write_and_fsync_and_nothing_acknowledged_is_lost(
    tmp_path: Path, untold: None
) -> None:
    verdict = run(made(tmp_path, CUTS.format(nodes=5)), tmp_path / "run")
    assert exit_code(verdict) == PASSED, explained(verdict)
    first, second, third = verdict["cuts"]
    assert first["leader_domain"]
    assert first["between_write_and_fsync"]
    assert first["unsynced_bytes_dropped"] > 0
    assert len({cut["domain"] for cut in verdict["cuts"]}) == 3
    # A majority is dark at once: nothing is acknowledged until the third is back.
    assert second["at_us"] < third["at_us"] < third["restored_at_us"] < second["restored_at_us"]
    assert verdict["write_outage_ms"][2] > 250


MIXED = (
    KV
    + """
[[faults]]
at_s = 0.5
for_s = 0.4
kind = "delay"
delay_ms = 3
jitter_ms = 3
progress = false

[[faults]]
at_s = 1
for_s = 0.4
kind = "rate"
kbytes_per_s = 40

[[faults]]
at_s = 1.2
for_s = 1.5
kind = "pause"
node = "leader"

[[faults]]
at_s = 3
for_s = 0.5
kind = "partition"
pairs = ["outside>leader", "leader>outside"]

[[faults]]
at_s = 4
for_s = 1.5
kind = "kill"
node = "follower"

[require]
max_progress_ms = 1200
"""
)


def test_delays_rates_pauses_kills_and_cuts_towards_the_outside_bite_and_are_counted(
    tmp_path: Path, untold: None
) -> None:
    verdict = run(made(tmp_path, MIXED.format(nodes=5)), tmp_path / "run", seed=4)
    assert exit_code(verdict) == PASSED, explained(verdict)
    delay, rate, pause, outside, kill = verdict["faults"]
    assert delay["counts"]["delayed_messages"] > 50
    assert rate["counts"]["delayed_messages"] > 50
    assert "dropped_messages" not in rate["counts"]
    assert pause["node"] == pause["leader"]
    assert pause["counts"] == {"paused_us": 1_500_000}
    # By then the paused one had lost its leadership, or it would hardly have been worth a fault.
    assert outside["leader"] != pause["node"]
    assert outside["pairs"] == [f"outside>{outside['leader']}", f"{outside['leader']}>outside"]
    assert outside["counts"]["dropped_messages"] > 10
    assert kill["counts"] == {"killed_us": 1_500_000}


def test_a_fault_that_does_not_bite_makes_the_run_void(tmp_path: Path, untold: None) -> None:
    free = '[[faults]]\nat_s = 0.2\nfor_s = 0.5\nkind = "rate"\nkbytes_per_s = 1e9\n'
    verdict = run(made(tmp_path, KV.format(nodes=3) + free), tmp_path / "run")
    assert exit_code(verdict) == VOID
    assert "fault 1 (rate all links) bit nothing" in verdict["void_reasons"][0]


LOST = (
    KV
    + """
[[faults]]
at_s = 0.5
for_s = 1.6
kind = "partition"
shape = "leader"

[require]
max_progress_ms = 1500
"""
)


def test_a_partition_whose_messages_all_arrive_is_void_however_green_the_checks(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "cut", lambda link, by: None)
    verdict = run(made(tmp_path, LOST.format(nodes=3)), tmp_path / "run")
    assert failed(verdict) == []
    assert exit_code(verdict) == VOID
    assert "fault 1 (partition leader) bit nothing" in verdict["void_reasons"][0]


def test_a_seed_decides_everything_in_a_fresh_process_too_and_whether_or_not_the_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = made(tmp_path, LOST.format(nodes=3))
    (tmp_path / "fresh").mkdir()
    run(plan, tmp_path / "told", seed=9, command="again")
    monkeypatch.setattr(drill, "SHORT_S", 0.0)
    run(plan, tmp_path / "run", seed=9, command="again")
    script = (
        "import sys; from pathlib import Path; from sim import scenario; from sim.virtual import drill\n"
        "drill.SHORT_S = 0.0\n"
        "drill.run(scenario.load(sys.argv[1]), 9, Path(sys.argv[2]), 'again')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", script, str(tmp_path / "made.toml"), str(tmp_path / "fresh")]
    subprocess.run(arguments, env=environment, check=True, timeout=60)
    for name in ("history.jsonl", "metrics.jsonl", "verdict.json"):
        first = (tmp_path / "run" / name).read_bytes()
        assert first == (tmp_path / "fresh" / name).read_bytes(), name
        assert first == (tmp_path / "told" / name).read_bytes(), name
    other = run(plan, tmp_path / "other", seed=10)
    assert (tmp_path / "other" / "history.jsonl").read_bytes() != (
        tmp_path / "run" / "history.jsonl"
    ).read_bytes()
    assert exit_code(other) == PASSED


def test_the_folder_has_what_a_report_draws_its_lanes_from(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    verdict = run(made(tmp_path, LOST.format(nodes=3)), folder)
    assert exit_code(verdict) == PASSED, explained(verdict)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (fault,) = verdict["faults"]
    leading = [row for row in rows if row.get("role") == "leader"]
    # The one that was cut off steps down and another one leads: the lanes show both.
    assert {row["node"] for row in leading if row["t"] < fault["at_us"]} == {fault["leader"]}
    assert {row["node"] for row in leading if row["t"] > fault["at_us"]} > {fault["leader"]}
    page = render(folder).read_text(encoding="utf-8")
    assert all(f">{node}<" in page for node in ("n1", "n2", "n3"))
    assert "partition leader" in page
    told = (folder / drill.LANES).read_text(encoding="utf-8")
    assert "partition" in told
    assert "AppendEntries" in told


def counted_too_early(values: Any) -> int:
    return sorted(values)[-1]


def test_a_leader_that_commits_without_a_majority_is_caught_by_the_oracles(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum, "reached_by_majority", counted_too_early)
    verdict = run(made(tmp_path, LOST.format(nodes=3)), tmp_path / "run")
    assert exit_code(verdict) == FAILED
    assert "oracles_silent" in failed(verdict)


def test_it_is_caught_by_the_checks_of_the_local_world_as_well_when_no_oracle_watches(
    tmp_path: Path, untold: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quorum, "reached_by_majority", counted_too_early)
    monkeypatch.setattr(world, "STANDARD", ())
    monkeypatch.setattr(world, "CommittedLog", Oracle)
    blind = dataclasses.replace(subjects.protocol("raft"), oracles=())
    monkeypatch.setattr(subjects, "protocol", lambda spec: blind)
    verdict = run(made(tmp_path, LOST.format(nodes=3)), tmp_path / "run")
    assert exit_code(verdict) == FAILED
    assert "oracles_silent" not in failed(verdict)
    assert "writes_in_log" in failed(verdict), explained(verdict)


RANKING = """
evaluate_last = 200
seconds = 5

[cluster]
nodes = 3
domains = 3
timing = { heartbeat_ms = 20, election_ms = 100 }

[[cuts]]
at_s = 2
dark_s = 1.5
domain = "leader"
trap = true

[require]
min_cuts = 1
"""


def test_a_ranking_machine_learns_and_serves_through_a_cut_on_virtual_time(tmp_path: Path) -> None:
    stream = synthetic(users=60, items=400, events=4_400, seed=3)
    verdict = run(made(tmp_path, RANKING), tmp_path / "run", stream=stream)
    assert exit_code(verdict) == PASSED, explained(verdict)
    assert verdict["acked_updates"] > 900
    assert verdict["rank_requests"] > 100
    assert verdict["rank_requests_failed"] == 0
    assert verdict["hr_at_10"]["with_cuts"] > 0


def test_what_the_virtual_world_cannot_run_is_refused_in_words(tmp_path: Path) -> None:
    slow = LOST.format(nodes=3).replace("[cluster]", "[cluster]\ntiming = { heartbeat_ms = 200 }")
    plan = made(tmp_path, slow)
    with pytest.raises(ScenarioError, match="the heartbeat must be above 0 and below the time-out"):
        run(plan, tmp_path / "run")
    with pytest.raises(ScenarioError, match="a ranking machine needs a stream"):
        run(scenario.load("quick"), tmp_path / "run")
