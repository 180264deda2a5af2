"""The drill from its command line, on real processes: a passing run, a void one, bad input; nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
        (["run", "quick", "--seed", "-1"], "--seed"),
        (["run", "quick", "--synthetic", "--ratings", "x"], "exclude each other"),
    ],
)
def test_bad_input_is_named_and_exits_with_two(arguments: list[str], words: str) -> None:
    done = drill(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_list_names_the_shipped_scenarios() -> None:
    done = drill("list", "--json")
    assert done.returncode == 0
    assert {"default", "quick", "blackout"} <= set(json.loads(done.stdout))
