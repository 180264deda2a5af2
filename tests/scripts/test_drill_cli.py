"""The drill from its command line, on real processes: a passing run, a void one, bad input; nothing is left behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]

SMALL = """
title = "one cut, three nodes"
evaluate_last = 1000
seconds = 8

[cluster]
nodes = 3
domains = 3

[writes]
per_s = 220
batch = 4
interactions = 7040

[rank]
per_s = 30

[require]
min_cuts = {cuts}
leader_cut = {bites}
cut_between_write_and_fsync = {bites}
unsynced_bytes = {bites}
max_outage_ms = 5000
max_quality_change = 0.05
rank_requests_may_fail = 5
"""

CUT = """
[[cuts]]
at_s = 2
dark_s = 1.5
domain = "leader"
trap = true
"""


def drill(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/drill.py", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


def left_behind(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in words and "pytest" not in words:
            found.append(words)
    return found


def verdict_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout.strip(), done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout)
    return verdict


def test_a_drill_with_one_cut_passes_and_leaves_its_evidence_and_no_process(tmp_path: Path) -> None:
    plan = tmp_path / "small.toml"
    plan.write_text(SMALL.format(cuts=1, bites="true") + CUT, encoding="utf-8")
    out = tmp_path / "run"
    done = drill("run", str(plan), "--synthetic", "--seed", "5", "--out", str(out), "--json")
    verdict = verdict_of(done)
    assert done.returncode == 0, [check for check in verdict["checks"] if not check["passed"]] or verdict[
        "void_reasons"
    ]
    assert verdict["acked_updates_lost"] == 0
    assert verdict["acked_updates"] > 900
    assert verdict["linearizable"] is True
    assert verdict["digests_equal"] is True
    assert verdict["unsynced_bytes_dropped"] > 0
    assert verdict["cuts"][0]["leader_domain"] is True
    assert verdict["cuts"][0]["between_write_and_fsync"] is True
    assert len(verdict["write_outage_ms"]) == 1
    for name in (
        "verdict.json",
        "history.jsonl",
        "metrics.jsonl",
        "report.html",
        "scenario.toml",
        "run.json",
    ):
        assert (out / name).stat().st_size > 0, name
    assert left_behind(out) == []


def test_a_run_in_which_nothing_bit_is_void_and_not_passed(tmp_path: Path) -> None:
    plan = tmp_path / "calm.toml"
    plan.write_text(
        SMALL.format(cuts=1, bites="true").replace("seconds = 8", "seconds = 2"), encoding="utf-8"
    )
    done = drill("run", str(plan), "--synthetic", "--out", str(tmp_path / "run"), "--json")
    verdict = verdict_of(done)
    assert done.returncode == 4
    assert verdict["void"] is True
    assert verdict["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nowhere"], "no scenario 'nowhere'"),
        (["run", "quick", "--ratings", "/nonexistent/ratings.csv"], "/nonexistent/ratings.csv"),
        (["run", ""], "no scenario ''"),
        (["run", "quick", "--seed", "-1"], "--seed"),
        (["run", "quick", "--synthetic", "--ratings", "x"], "exclude each other"),
        (["run", "bridge", "--synthetic"], "has a key-value load"),
        (["run", "bridge", "--links", "string"], "--links"),
        (
            ["run", "bridge", "--world", "virtual", "--links", "namespaces"],
            "--links belongs to --world local",
        ),
    ],
)
def test_bad_input_is_named_and_exits_with_two(arguments: list[str], words: str) -> None:
    done = drill(*arguments, "--json")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert words in json.loads(done.stdout)["error"]


def test_a_folder_that_cannot_be_made_is_named_before_anything_starts(tmp_path: Path) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("dear")
    for out, words in (
        (letter, "not a directory"),
        (letter / "run", "not a directory"),
        (tmp_path, "not empty"),
    ):
        done = CliRunner().invoke(
            script().main, ["run", "quick", "--synthetic", "--out", str(out), "--json"]
        )  # fmt: skip
        assert done.exit_code == 2, done.output
        assert words in json.loads(done.stdout)["error"]
        assert str(out) in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_cut_of_a_domain_that_there_is_not_is_refused_before_anything_starts(tmp_path: Path) -> None:
    plan, out = tmp_path / "cut.toml", tmp_path / "run"
    plan.write_text(CUT.replace("leader", "Z"), encoding="utf-8")
    done = CliRunner().invoke(
        script().main, ["run", str(plan), "--synthetic", "--out", str(out), "--json"]
    )  # fmt: skip
    assert done.exit_code == 2, done.output
    assert "domain must be one of" in json.loads(done.stdout)["error"]
    assert not out.exists()


def test_list_names_the_shipped_scenarios() -> None:
    done = drill("list", "--json")
    assert done.returncode == 0
    known = {"default", "quick", "blackout", "bridge", "one-way", "majorities-ring"}
    assert known <= set(json.loads(done.stdout))


def test_a_delay_is_refused_for_namespaces_before_anything_starts(tmp_path: Path) -> None:
    plan = tmp_path / "slow.toml"
    plan.write_text(
        '[workload]\nmachine = "kv"\n[[faults]]\nat_s = 1\nfor_s = 4\nkind = "delay"\ndelay_ms = 5\n',
        encoding="utf-8",
    )
    out = tmp_path / "run"
    done = drill("run", str(plan), "--links", "namespaces", "--out", str(out))
    assert done.returncode == 2
    assert "[[faults]] number 1: delay needs the kernel's netem" in done.stderr
    assert not out.exists()


def test_clean_leaves_nothing_to_clean(tmp_path: Path) -> None:
    assert drill("clean").returncode in (0, 2)  # 2: leftovers there, and no right to remove them
    done = drill("clean", "--json")
    assert (json.loads(done.stdout) == {"removed": []}) is (done.returncode == 0)


PARTITION = """
title = "the leader of three is not heard for two seconds"

[cluster]
nodes = 3
domains = 3

[workload]
machine = "kv"
clients = 4

[[faults]]
at_s = 0.5
for_s = 2.2
kind = "partition"
shape = "leader:out"

[require]
max_progress_ms = 2000
"""


def test_a_drill_with_a_partition_counts_what_it_dropped_and_is_judged_by_log_and_without_it(
    tmp_path: Path,
) -> None:
    plan = tmp_path / "cut.toml"
    plan.write_text(PARTITION, encoding="utf-8")
    out = tmp_path / "run"
    done = drill("run", str(plan), "--seed", "5", "--out", str(out), "--json")
    verdict = verdict_of(done)
    checks = {check["name"]: check for check in verdict["checks"]}
    assert done.returncode == 0, [check for check in verdict["checks"] if not check["passed"]] or verdict[
        "void_reasons"
    ]
    (fault,) = verdict["faults"]
    assert fault["bit"]
    assert fault["counts"]["dropped_bytes"] > 0
    assert fault["pairs"] == [f"{fault['leader']}>n{n}" for n in (1, 2, 3) if f"n{n}" != fault["leader"]]
    dropped = {
        f"{row['sender']}>{row['receiver']}": row.get("dropped_bytes", 0) for row in fault["by_direction"]
    }
    assert all(dropped[pair] > 0 for pair in fault["pairs"])
    assert 2_200_000 <= fault["until_us"] - fault["at_us"] < 6_000_000
    assert checks["progress_during_faults"]["counted"] == checks["progress_after_heals"]["counted"] == 1
    assert checks["general_linearizable"]["counted"] > 50
    assert verdict["linearizable"] is verdict["digests_equal"] is True
    assert "dropped bytes" in (out / "report.html").read_text(encoding="utf-8")
    assert left_behind(out) == []


def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("drill_script", ROOT / "scripts/drill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_scenario_runs_on_virtual_time_and_leaves_the_same_kind_of_folder(tmp_path: Path) -> None:
    plan = tmp_path / "cut.toml"
    plan.write_text(PARTITION, encoding="utf-8")
    out = tmp_path / "run"
    arguments = ["run", str(plan), "--world", "virtual", "--seed", "5", "--out", str(out), "--json"]
    done = CliRunner().invoke(script().main, arguments)
    assert done.exit_code == 0, done.output
    verdict = json.loads(done.stdout)
    (fault,) = verdict["faults"]
    assert fault["counts"]["dropped_messages"] > 0
    assert {f"{row['sender']}>{row['receiver']}" for row in fault["by_direction"]} == set(fault["pairs"])
    assert verdict["links"] == "virtual"
    assert "messages never arrived" in done.stderr
    assert "dropped messages" in Path(verdict["report"]).read_text(encoding="utf-8")
    assert Path(verdict["lanes"]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_scenario_that_the_virtual_world_cannot_run_exits_with_two_and_says_why(tmp_path: Path) -> None:
    plan = tmp_path / "reserved.toml"
    plan.write_text(
        PARTITION.replace("[cluster]", "[cluster]\nstorage = { reserve_bytes = 9 }"), encoding="utf-8"
    )
    done = CliRunner().invoke(
        script().main, ["run", str(plan), "--world", "virtual", "--out", str(tmp_path / "run"), "--json"]
    )
    assert done.exit_code == 2
    assert "'reserve_bytes' means nothing on virtual time; known there: snapshot_bytes" in done.output
