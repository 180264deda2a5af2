"""The harness from its command line, given what is damaged, too large, endless, or nowhere to write: words and an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sim.explore import command, engine, worker
from sim.explore.command import main
from sim.explore.natively import reason
from sim.virtual.world import World

SCRIPT = Path(__file__).parents[2] / "scripts" / "partition.py"
EMPTY = '{"format": 1, "seed": 1}'
SMALL = ("--nodes", "3", "--clients", "2")


@pytest.fixture(autouse=True)
def _signals_stay_what_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    signal.signal(signal.SIGTERM, before)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def fault(kind: str, **params: Any) -> str:
    row = {"kind": kind, "at": 1_000, "until": 900_000, "params": params}
    return json.dumps({"format": 1, "seed": 1, "schedule": [row]})


@pytest.mark.parametrize("what", ["replay", "shrink"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "more than 24 deep"),
        (fault("kill", node=[[]]).replace("[[]]", "[" * 900 + "]" * 900), "more than 24 deep"),
        (EMPTY.replace("1}", "9" * 5000 + "}"), "digits"),
        ('{"format": 1, "seed": 1, "clients": 0}', "clients: 0 is not an integer from 1 to 64"),
        ('{"format": 1, "seed": 1, "protocol": "..:x"}', "'..' is not the name of a module"),
        ('{"format": 1, "seed": 1, "protocol": "bft", "nodes": 1}', "bft takes at least 2 nodes"),
        ('{"format": 1, "seed": 1, "protocol": "bft", "committee": [3, 3]}', "committee: "),
        (fault("jump", node=0, ahead=1, every=-1), "schedule[0].params.every: -1"),
        (fault("outage", place="sitte/A"), "schedule[0].params.place: 'sitte/A'"),
        (fault("flood"), "schedule[0].kind: no fault 'flood'"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused_with_file_and_place(what: str, text: str, words: str) -> None:
    Path("my.json").write_text(text)
    assert reason([what, "my.json"]) in (
        "",
        "my.json brings code along",
    )  # asked before anything else, and no less wary
    result = run(what, "my.json", "--json")
    assert result.exit_code == 2
    (line,) = result.stdout.splitlines()
    assert json.loads(line)["exit_code"] == 2
    assert json.loads(line)["error"].startswith("my.json: ")
    assert words in result.stderr


@pytest.mark.parametrize("what", ["9" * 5000, "9" * 20, str(1 << 64), ".", "/dev/zero", "nowhere.json"])
def test_what_is_no_seed_and_no_plan_is_refused_without_reading_it_to_an_end(what: str) -> None:
    result = run("replay", what, "--json")
    assert result.exit_code == json.loads(result.stdout)["exit_code"] == 2
    assert len(result.stderr) < 300


def test_a_file_that_is_too_large_is_not_read() -> None:
    with Path("large.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "larger than 16 MiB" in run("replay", "large.json").stderr


def hang(self: World) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        sum(range(1000))


def test_a_run_that_does_not_end_is_given_up_by_replay_and_by_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "run", hang)
    monkeypatch.setattr(worker, "LIMIT_S", 0.2)
    for words in (("replay", "3"), ("replay", "3", "--hash-only", "--json"), ("shrink", "3")):
        result = run(*words)
        assert result.exit_code == 5, words
        assert "given up after 0.2 s" in result.output or json.loads(result.stdout)["outcome"] == "crash"


def test_a_failure_of_the_harness_itself_is_not_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def trip(self: World) -> None:
        raise ZeroDivisionError("tripped")

    monkeypatch.setattr(World, "run", trip)
    result = run("shrink", "3", "--json")
    assert result.exit_code == json.loads(result.stdout.splitlines()[-1])["exit_code"] == 5
    assert "the harness itself raised: ZeroDivisionError: tripped" in result.stderr


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("it was run")


@pytest.mark.parametrize(
    "words", [("explore", "--out"), ("shrink", "3", "--out"), ("replay", "3", "--report")]
)
def test_a_folder_that_cannot_be_made_is_told_before_anything_runs(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "run", never)
    monkeypatch.setattr(command.campaigns, "run", never)
    Path("file").write_text("")
    result = run(*words, "file/below")
    assert result.exit_code == 2
    assert "file" in result.stderr


def test_a_campaign_whose_reports_cannot_be_written_still_says_what_it_came_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command, "write", full)
    asked = ("--oracle", "picky_oracle:NobodyDies", "--fault", "kill")
    result = run("explore", "--seeds", "2", "--jobs", "1", "--json", *asked, *SMALL)
    assert result.exit_code == 1
    assert "FAILED: 2 of 2 seeds" in result.stderr
    assert "cannot write what the campaign came to: [Errno 28]" in result.stderr
    assert len(json.loads(result.stdout)["violations"]) == 2


def test_no_more_processes_are_started_than_there_are_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    real = engine.processes

    def processes(jobs: int, *more: Any) -> Any:
        started.append(jobs)
        return real(jobs, *more)

    monkeypatch.setattr(command.engines, "processes", processes)
    assert run("explore", "--seeds", "1", "--jobs", "1000", *SMALL).exit_code == 0
    assert started == [1]


def script(*arguments: str, stdout: Any) -> subprocess.Popen[str]:
    here = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *arguments], env=here, stdout=stdout, stderr=subprocess.PIPE, text=True
    )


def test_a_closed_pipe_ends_it_quietly() -> None:
    process = script("list", stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize("words", [("list",), ("--help",)])
def test_where_nothing_can_be_written_it_says_so(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        _, err = (process := script(*words, stdout=full)).communicate(timeout=60)
    assert process.returncode == 2
    assert err == "partition: cannot write: [Errno 28] No space left on device\n"
