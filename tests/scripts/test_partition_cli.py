"""The harness from its command line: exit codes, what --json prints, replay in fresh processes, shrinking, interruption."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sim.explore import summary
from sim.explore.request import Request
from sim.explore.summary import Summary

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "partition.py"
SMALL = ("--nodes", "3", "--clients", "2")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}", **more}


def partition(*arguments: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=cwd, env=environment(**more), capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same in this process, for what runs nothing: a start costs a second."""
    spec = importlib.util.spec_from_file_location("partition_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(module.main, list(arguments))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def found_in(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one object on standard output."""
    assert done.stdout.count("\n") == 1, (done.stdout, done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_green_campaign_prints_one_object_and_leaves_hashes_that_replay_in_a_fresh_process(
    tmp_path: Path,
) -> None:
    done = partition(
        "explore",
        "--seeds",
        "6",
        "--first",
        "30",
        "--jobs",
        "2",
        "--json",
        "--out",
        "out",
        *SMALL,
        cwd=tmp_path,
    )
    found = found_in(done)
    assert done.returncode == 0, done.stderr
    assert found["seeds"] == 6
    for name in ("seeds_per_second", "virtual_over_real", "messages_per_second"):
        assert found[name] > 0, name
    assert found["violations"] == found["liveness"] == found["crashes"] == found["void"] == []
    assert set(found["faults"].values()) > {0}
    assert len(found["marks"]) >= 40
    assert set(found["marks_never_reached"]) == {name for name, count in found["marks"].items() if not count}
    assert all(":" in place for place in found["mark_places"].values())
    assert found["operations"]["least"] >= 200
    assert "seeds 30 to 35" in done.stderr
    hashes = dict(line.split() for line in (tmp_path / "out" / "hashes.txt").read_text().splitlines())
    assert list(hashes) == [str(seed) for seed in range(30, 36)]
    last = partition("replay", "35", "--hash-only", *SMALL, cwd=tmp_path, PYTHONHASHSEED="99")
    assert last.stdout.strip() == hashes["35"]
    told = found_in(partition("replay", "35", "--json", "--save", "plan.json", *SMALL, cwd=tmp_path))
    assert told["trace_hash"] == hashes["35"]
    assert told["moments"] > 1000
    saved = found_in(partition("replay", "plan.json", "--json", "--hash-only", cwd=tmp_path))
    assert saved["trace_hash"] == hashes["35"]


def test_a_violation_exits_with_one_and_leaves_a_report_and_a_line_that_replays_it(tmp_path: Path) -> None:
    done = partition(
        "explore",
        "--seeds",
        "9",
        "--jobs",
        "1",
        "--plugin",
        "early_commit",
        "--stop-after",
        "2",
        cwd=tmp_path,
    )
    assert done.returncode == 1, done.stderr
    assert "raft log" in done.stdout
    assert "FAILED: 2 of" in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    first = summary["violations"][0]
    assert len(summary["violations"]) == 2
    report = tmp_path / first["folder"]
    assert report.name == "report.html"
    for name in (
        "plan.json",
        "result.json",
        "plan.txt",
        "history.jsonl",
        "trace.txt",
        "trace.json.gz",
        "report.html",
    ):
        assert (report.parent / name).stat().st_size > 0, name
    words = first["replay"].split()
    assert words[:3] == ["python", "scripts/partition.py", "replay"]
    again = partition(*words[2:], "--json", cwd=tmp_path)
    assert again.returncode == 1
    assert {key: found_in(again)[key] for key in ("oracle", "text", "at")} == {
        key: first[key] for key in ("oracle", "text", "at")
    }


def test_shrink_leaves_a_small_plan_that_fails_in_the_same_way(tmp_path: Path) -> None:
    done = partition(
        "shrink", "3", "--plugin", "early_commit", "--budget", "4", "--out", "small", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found = found_in(done)
    assert found["signature"] == ["violation", "raft log"]
    assert found["faults"] == 0
    assert found["faults_before"] > 0
    assert found["tried"] > 5
    assert (tmp_path / "small" / "report.html").exists()
    again = partition(
        "replay", "small/plan.json", "--plugin", "early_commit", "--json", "--hash-only", cwd=tmp_path
    )
    assert again.returncode == 1
    assert found_in(again)["trace_hash"] == found["trace_hash"]
    healthy = partition("shrink", "small/plan.json", cwd=tmp_path)
    assert healthy.returncode == 2
    assert "nothing to shrink" in healthy.stderr


def test_no_progress_and_crashes_have_exit_codes_of_their_own(tmp_path: Path) -> None:
    stuck = partition(
        "explore", "--seeds", "1", "--json", "--plugin", "silent_candidates", *SMALL, cwd=tmp_path
    )
    assert stuck.returncode == 3, stuck.stderr
    assert "no progress within" in found_in(stuck)["liveness"][0]["text"]
    tripped = partition(
        "explore", "--seeds", "1", "--json", "--plugin", "tripping_core", *SMALL, cwd=tmp_path
    )
    assert tripped.returncode == 5, tripped.stderr
    assert "ZeroDivisionError" in found_in(tripped)["crashes"][0]["text"]


def test_a_campaign_whose_faults_never_bite_is_void(tmp_path: Path) -> None:
    asked = ("--plugin-fault", "picky_oracle:IDLE", "--fault", "idle", *SMALL)
    done = partition("explore", "--seeds", "2", "--jobs", "1", *asked, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "'idle' was asked for and never did anything" in done.stdout
    assert "faults that never bit: idle" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["explore", "--seeds", "0"], "--seeds"),
        (["explore", "--fault", "flood"], "no fault 'flood'"),
        (["explore", "--protocol", "paxos"], "no protocol 'paxos'"),
        (["explore", "--plugin", "nowhere_at_all"], "nowhere_at_all"),
        (["replay", "nowhere.json"], "neither a seed nor a file"),
        (["replay", "7", "--trace", "--kind", "gossip"], "no kind of moment 'gossip'"),
    ],
)
def test_bad_input_is_named_and_exits_with_two(
    arguments: list[str], words: str, cli: Callable[..., Result]
) -> None:
    done = cli(*arguments)
    assert done.exit_code == 2
    assert words in done.stderr


def test_a_plan_that_was_edited_wrongly_is_named_with_its_place(
    tmp_path: Path, cli: Callable[..., Result]
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text('{"format": 1, "seed": 4, "schedule": [{"kind": "flood", "at": 1, "until": 2}]}')
    done = cli("replay", str(plan))
    assert done.exit_code == 2
    assert "no fault 'flood'" in done.stderr
    plan.write_text('{"format": 1, "seed": 4, "shedule": []}')
    done = cli("replay", str(plan))
    assert done.exit_code == 2
    assert "unknown key 'shedule'" in done.stderr


def test_list_knows_every_topic(cli: Callable[..., Result]) -> None:
    done = cli("list", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {"shapes", "faults", "oracles", "marks", "protocols", "machines"} <= set(found)
    assert {"bridge", "majorities-ring", "minority-third", "power-domain"} <= set(found["shapes"])
    assert len(found["marks"]) >= 40
    assert all(rows for rows in found.values())
    assert "bridge" in cli("list", "shapes").stdout


def test_the_reference_page_names_every_option_key_and_exit_code(
    tmp_path: Path, cli: Callable[..., Result]
) -> None:
    page = (ROOT / "docs" / "reference" / "partition-command.md").read_text(encoding="utf-8")
    for command in ("explore", "replay", "shrink"):
        options = set(re.findall(r"--[a-z-]+", cli(command, "--help").stdout)) - {"--help"}
        assert len(options) > 10
        assert not {option for option in options if f"`{option}" not in page}, command
    run = cli("replay", "1", "--json", *SMALL)
    keys = set(json.loads(run.stdout)) | set(Summary(Request()).as_json({}, {}))
    assert not {key for key in keys if not re.search(rf"\b{key}\b", page)}
    codes = {value for name, value in vars(summary).items() if name.startswith("EXIT_")}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)}


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_an_interrupted_campaign_tells_what_there_is_and_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "explore", "--seeds", "100000", "--jobs", "2", "--json", *SMALL],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while len(children_of(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        workers = children_of(process.pid)
        assert len(workers) == 2
        while not any(worked(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to everybody
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"] is True
    assert found["seeds"] > 0
    assert "Traceback" not in err
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def worked(pid: int) -> bool:
    """Whether a process has used half a second of processor time: enough for a seed."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") > 0.5
