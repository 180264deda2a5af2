from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from wing_gong import hard

from sim.check.general import CAS

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "scripts/check_history.py")]

GOOD = """INFO  jepsen.util - 0 :invoke :write 1
INFO  jepsen.util - 0 :ok :write 1
INFO  jepsen.util - 1 :invoke :read nil
INFO  jepsen.util - 1 :ok :read 1
"""
BAD = GOOD.replace(":ok :read 1", ":ok :read 2")


def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def hard_log() -> str:
    """More than a tenth of a second, or a minute, can decide, as a log."""
    events = []
    for op in hard():
        value = f"[{op.expected} {op.value}]" if op.kind == CAS else str(op.value)
        events.append((op.invoke, 0, op, f":invoke :{op.kind} {value}"))
        events.append((op.returned or 0, 1, op, f":ok :{op.kind} {value}"))
    events.sort(key=lambda event: event[:2])
    return "\n".join(f"INFO jepsen.util - {op.process} {text}" for _, _, op, text in events)


def test_the_exit_code_is_the_verdict(tmp_path: Path) -> None:
    file = tmp_path / "history.log"
    file.write_text(GOOD)
    good = run(str(file), "--model", "cas-register")
    assert (good.returncode, good.stderr) == (0, "")
    assert f"{file}: linearizable" in good.stdout
    bad = run("-", "--model", "cas-register", text=BAD)
    assert bad.returncode == 1
    assert "cannot be explained: process 1: read -> 2 (line 3)" in bad.stdout
    assert "possible values when it returned: 1" in bad.stdout
    assert "✗" in bad.stdout
    unreadable = run("-", "--model", "cas-register", text="what?")
    assert unreadable.returncode == 2
    assert "<stdin>: cannot tell its format" in unreadable.stderr
    assert run(str(tmp_path / "absent"), "--model", "kv").returncode == 2
    undecided = run("-", "--model", "cas-register", "--budget", "0.1", text=hard_log())
    assert undecided.returncode == 3
    assert "undecided: the time given was used up" in undecided.stdout


def test_programs_get_one_object_and_people_a_drawing(tmp_path: Path) -> None:
    picture = tmp_path / "picture.html"
    done = run(
        "-",
        "--model",
        "cas-register",
        "--format",
        "jepsen-log",
        "--json",
        "--picture",
        str(picture),
        text=BAD,
    )
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["linearizable"] is False
    assert answer["failed"]["line"] == 3
    assert answer["cells"][0]["possible_values"] == [1]
    page = picture.read_text()
    assert 'class="illegal"' in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    error = run("-", "--model", "kv", "--json", text="[")
    assert error.returncode == 2
    assert "never closed" in json.loads(error.stdout)["error"]


def test_a_picture_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    done = run("-", "--model", "cas-register", "--picture", str(tmp_path / "no" / "where.html"), text=GOOD)
    assert done.returncode == 2
    assert "cannot write the picture" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_an_interrupt_is_no_verdict_and_no_traceback() -> None:
    with subprocess.Popen(
        [*COMMAND, "-", "--model", "cas-register"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        # More than a pipe holds: when all is written, the process has begun to read.
        process.stdin.write("INFO  jepsen.core - nothing of note\n" * 10_000 + hard_log())
        process.stdin.close()
        process.send_signal(signal.SIGINT)  # while it reads or searches: the same must come of it
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read().strip() == "check_history: interrupted"
